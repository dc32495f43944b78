"""The table on disk: what is written, in which versions, and whether it is whole."""
