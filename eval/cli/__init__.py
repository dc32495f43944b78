"""The command vmem, and the commands vmem eval, serve, demo, memory forget and prompt tune."""
