"""What users look for among the items: bad examples, twins, what a decision hangs on."""
