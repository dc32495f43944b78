"""What can go wrong with a run.

VisualMemoryError
└── RunError                a run folder that cannot be used
    └── OtherSettings       a run that was begun with other settings than it is to go on with
"""

from retrieval.errors import VisualMemoryError


class RunError(VisualMemoryError):
    """A run folder that cannot be used."""


class OtherSettings(RunError):
    """A run that was begun with other settings than it is to go on with."""
