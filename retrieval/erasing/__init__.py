"""Erasing items so that nothing is left of them, and proving it."""
