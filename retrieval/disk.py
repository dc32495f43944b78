"""Where the disk says no: what Lance, Arrow and the system raise becomes one sentence, here and nowhere else."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from retrieval.errors import NotAMemory, StorageError
from retrieval.storage.places import shown

UNREADABLE: Final = (OSError, ValueError, KeyError, TypeError, RuntimeError)
"""What Lance and Arrow raise where a file is damaged or missing; see `panics` for the rest."""


@contextmanager
def panics() -> Iterator[None]:
    """Raise what Lance's Rust code panics with as RuntimeError: its own class is no Exception, and passes every net."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ == "PanicException":  # of pyo3, which exports no name for it
            raise RuntimeError(f"Lance cannot make sense of it ({_first_line(error)})") from error
        raise


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Translate what a disk that refuses raises, as StorageError."""
    try:
        with panics():
            yield
    except UNREADABLE as error:  # TypeError: Lance about a path that is no UTF-8
        reason = getattr(error, "strerror", None) or _first_line(error)
        if isinstance(error, OSError | TypeError | UnicodeError):
            full = "No space left" in reason
            cure = "free some space and run the same command again" if full else "choose a path you may write to"
        else:  # Lance reads before it writes
            cure = f"`vmem memory check {shown(path)}` says whether something is damaged"
        raise StorageError(f"{shown(path)} cannot be written: {reason}; {cure}") from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Translate what damaged or missing files of a memory raise, as NotAMemory."""
    try:
        with panics():
            yield
    except UNREADABLE as error:
        reason = _first_line(error)
        check = f"`vmem memory check {shown(path)}` says what is damaged and which version to go back to"
        cure = "make it readable" if "Permission denied" in reason else check
        raise NotAMemory(f"{shown(path)} holds a memory that cannot be read: {reason}; {cure}") from error


def _first_line(error: BaseException) -> str:
    # Lance ends its messages with the place in its own source.
    return (str(error).split(", /")[0].splitlines() or [type(error).__name__])[0]
