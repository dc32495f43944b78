"""The commands vmem memory and vmem embed."""
