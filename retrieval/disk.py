"""Where the disk says no: what Lance, Arrow and the system raise becomes one sentence, here and nowhere else."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from retrieval.errors import NotAMemory, StorageError
from retrieval.storage.places import shown

UNREADABLE: Final = (OSError, ValueError, KeyError, TypeError, RuntimeError)
"""What Lance and Arrow raise where a file is damaged or missing, within `in_lance`."""

_forked = False


def _note_fork() -> None:
    global _forked
    _forked = _forked or "lance" in sys.modules


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_note_fork)


def expect_no_fork() -> None:
    """Raise StorageError in a process that was forked from one that had Lance at work.

    Lance's threads stay behind. Of 40 such processes that only read, 4 crashed and 2 hung (pylance 14).
    """
    if _forked:
        raise StorageError(
            "this process was forked from one that had opened a memory, and Lance does not work in it: start processes"
            " by spawn, such as multiprocessing.get_context('spawn') or DataLoader(multiprocessing_context='spawn')"
        )


@contextmanager
def in_lance() -> Iterator[None]:
    """Raise what Lance's Rust code panics with as RuntimeError: its own class is no Exception, and passes every net.

    Raises:
        StorageError: Lance does not work in this process.
        RuntimeError: it panicked.
    """
    expect_no_fork()
    try:
        yield
    except BaseException as error:
        if type(error).__name__ == "PanicException":  # of pyo3, which exports no name for it
            raise RuntimeError(f"Lance cannot make sense of it ({_first_line(error)})") from error
        raise


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Translate what a disk that refuses raises, as StorageError; refuse a device, which a new file would take away."""
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise StorageError(f"{shown(path)} cannot be written: it is neither a file nor a folder; choose another path")
    try:
        yield
    except (OSError, TypeError, UnicodeError) as error:  # TypeError: Lance about a path that is no UTF-8
        reason = reason_of_refusal(error)
        cure = cure_of_refusal(reason) or "choose a path you may write to"
        raise StorageError(f"{shown(path)} cannot be written: {reason}; {cure}") from error


def reason_of_refusal(error: Exception) -> str:
    """Return in words why the system refuses a path."""
    if isinstance(error, FileExistsError | NotADirectoryError):
        return "a file is in the way, where a folder is expected"
    return getattr(error, "strerror", None) or _first_line(error)


def cure_of_refusal(reason: str) -> str | None:
    """Say what to do where a disk is full, or the system limits the size of files; None for another reason.

    Args:
        reason: as the system, Lance or SQLite says it.
    """
    limited = _file_size_limit()
    if limited is not None and any(words in reason for words in ("File too large", "No space left", "disk I/O error")):
        return (
            f"files of this process may have {limited:,} bytes at most: raise that limit (`ulimit -f`) and run the same"
            " command again"
        )
    if any(words in reason for words in ("No space left", "disk is full")):
        return "free some space and run the same command again"
    return None


def _file_size_limit() -> int | None:
    try:
        import resource
    except ImportError:  # on Windows, which has none
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return None if limit == resource.RLIM_INFINITY else int(limit)


@contextmanager
def committing(path: Path) -> Iterator[None]:
    """Translate what Lance raises while it writes to a table, for which it reads as well, as StorageError."""
    with writing(path):
        try:
            with in_lance():
                yield
        except (ValueError, KeyError, RuntimeError) as error:
            if isinstance(error, UnicodeError):
                raise
            raise StorageError(
                f"{shown(path)} cannot be written, since it cannot be read: {_first_line(error)}; `vmem memory check"
                f" {shown(path)}` says what is damaged"
            ) from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Translate what damaged or missing files of a memory raise, as NotAMemory."""
    try:
        with in_lance():
            yield
    except UNREADABLE as error:
        reason = _first_line(error)
        check = f"`vmem memory check {shown(path)}` says what is damaged and which version to go back to"
        cure = "make it readable" if "Permission denied" in reason else check
        raise NotAMemory(f"{shown(path)} holds a memory that cannot be read: {reason}; {cure}") from error


def _first_line(error: BaseException) -> str:
    # Lance ends its messages with the place in its own source.
    return (str(error).split(", /")[0].splitlines() or [type(error).__name__])[0]
