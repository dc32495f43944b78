"""Where the disk says no: what Lance, Arrow and the system raise becomes one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from retrieval.errors import NotAMemory, StorageError
from retrieval.storage.places import shown


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Translate what a disk that refuses raises, as StorageError."""
    try:
        yield
    except (OSError, TypeError, UnicodeError) as error:  # TypeError: Lance about a path that is no UTF-8
        reason = getattr(error, "strerror", None) or _first_line(error)
        full = "No space left" in reason
        cure = "free some space and run the same command again" if full else "choose a path you may write to"
        raise StorageError(f"{shown(path)} cannot be written: {reason}; {cure}") from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Translate what damaged or missing files of a memory raise, as NotAMemory."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:  # ValueError: Arrow's errors too
        reason = _first_line(error)
        check = f"`vmem memory check {shown(path)}` says what is damaged and which version to go back to"
        cure = "make it readable" if "Permission denied" in reason else check
        raise NotAMemory(f"{shown(path)} holds a memory that cannot be read: {reason}; {cure}") from error


def _first_line(error: Exception) -> str:
    # Lance ends its messages with the place in its own source.
    return (str(error).split(", /")[0].splitlines() or [type(error).__name__])[0]
