"""Data sets by layout: one file a family."""
