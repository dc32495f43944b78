"""The commands vmem classify, prompt, cache and doctor."""
