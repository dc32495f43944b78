"""Everything that can go wrong with what a caller gave, as one tree below `VisualMemoryError`.

A command line shows an error's sentence and exits with 2. Later stages add their own branches beside their code.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy


class VisualMemoryError(Exception):
    """Root of all errors of this project: one sentence that says what came, what was expected, what to do."""


class VisualMemoryWarning(UserWarning):
    """Something a user should know that stops nothing, such as a k that was clipped."""


class InvalidArgument(VisualMemoryError):
    """A value outside what is allowed."""


class PruningRefused(VisualMemoryError):
    """A pruning that would do harm, or touch more items than was allowed."""


class ImageError(VisualMemoryError):
    """A picture that cannot be used."""


class EmptyImage(ImageError):
    """A picture without bytes."""


class NotAnImage(ImageError):
    """Bytes that are no picture in an accepted format."""


class DamagedImage(ImageError):
    """A picture that breaks off, does not decode, or whose values cannot be told apart."""


class ImageTooLarge(ImageError):
    """A picture with more pixels than the limit, or that would take too long or too much memory to decode."""


class FolderError(VisualMemoryError):
    """A folder that is missing, empty or not laid out as ``<label>/<image>``."""


class EmbedderError(VisualMemoryError):
    """An embedder that cannot be had."""


class UnknownEmbedder(EmbedderError):
    """A name in no catalogue."""


class UnusableVectors(EmbedderError):
    """What a model gives for some pictures is zero or not finite.

    ``rows`` holds their places among those that were given, ``vectors`` what came of all.
    """

    def __init__(self, message: str, *, rows: tuple[int, ...], vectors: "numpy.ndarray") -> None:
        super().__init__(message)
        self.rows = rows
        self.vectors = vectors


class MissingWeights(EmbedderError):
    """Weights that are neither on this machine nor to be had from here."""


class StorageError(VisualMemoryError):
    """A memory on disk that cannot be read or written."""


class NotAMemory(StorageError):
    """A path that holds no memory."""


class MemoryExists(StorageError):
    """A path that holds a memory already."""


class MemoryBusy(StorageError):
    """A memory that another process is writing to."""


class UnknownVersion(StorageError):
    """A version or a tag that a memory does not have, or no longer."""


class UnknownItem(StorageError):
    """Ids that are not in the memory; ``ids`` holds the first few."""

    def __init__(self, message: str, *, ids: tuple[str, ...]) -> None:
        super().__init__(message)
        self.ids = ids


class IndexUnavailable(StorageError):
    """A search index on another machine, or in another's hands, that does not answer."""


class EmbedderMismatch(StorageError):
    """Vectors of one embedder offered to a memory of another."""


class DuplicateId(StorageError):
    """An id that is there already; ``ids`` holds the first few."""

    def __init__(self, message: str, *, ids: tuple[str, ...]) -> None:
        super().__init__(message)
        self.ids = ids
