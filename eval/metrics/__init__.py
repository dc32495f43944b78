"""Pure functions over arrays: what votes and answers are worth, and how sure that is."""
