"""What the model is asked, and how its reply is read: neighbours and query to prompt, reply to answer."""
