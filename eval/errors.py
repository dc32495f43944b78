"""What can go wrong with a run.

VisualMemoryError
├── RunError                a run folder that cannot be used
│   └── OtherSettings       a run that was begun with other settings than it is to go on with
├── NeighborFileError       a file of neighbours that cannot be used
└── ServeError              a server that cannot begin
"""

from retrieval.errors import VisualMemoryError


class RunError(VisualMemoryError):
    """A run folder that cannot be used."""


class OtherSettings(RunError):
    """A run that was begun with other settings than it is to go on with."""


class NeighborFileError(VisualMemoryError):
    """A file of neighbours that cannot be used."""


class ServeError(VisualMemoryError):
    """A server that cannot begin."""
