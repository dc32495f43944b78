"""Work split over processes and machines."""
