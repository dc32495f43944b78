"""What a model call passes on its way: kept replies, limits, retries, the meter."""
