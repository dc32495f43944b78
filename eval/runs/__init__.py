"""Making a run and reading it: its log, what it was made with, its figures."""
