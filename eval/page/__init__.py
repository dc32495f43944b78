"""What the pages of runs and of comparisons are made of."""
