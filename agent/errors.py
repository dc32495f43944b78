"""What can go wrong with a model.

VisualMemoryError
└── ModelError              a call that gave no reply; the vote decides instead
"""

from retrieval.errors import VisualMemoryError


class ModelError(VisualMemoryError):
    """A call to a model that gave no reply."""
