"""The local page of ``vmem serve``: look into decisions, a memory and runs. Loaded by that command alone."""
