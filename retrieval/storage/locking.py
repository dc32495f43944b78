"""One writer a memory: edits take turns, those of threads as well as those of processes."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from retrieval.disk import expect_no_fork, writing
from retrieval.errors import MemoryBusy

if TYPE_CHECKING:
    import filelock

LOCK: Final = ".writer.lock"  # in the memory's folder; the system lets go of it when its holder is killed
WAIT_SECONDS: Final = 600.0  # an index over a million items is built in one or two minutes
_SILENT_SECONDS: Final = 2.0
_logger = logging.getLogger(__name__)


@contextmanager
def writer_lock(path: Path, *, wait_seconds: float = WAIT_SECONDS) -> Iterator[None]:
    """Hold the right to write to a memory; a thread that has it already goes straight on.

    Raises:
        MemoryBusy: another writer has had it for all that time.
        StorageError: the folder cannot be written, or Lance does not work in this process.
    """
    import filelock

    expect_no_fork()
    # One object for a path lets a thread that holds it enter again; other threads and processes wait.
    lock = filelock.FileLock(path / LOCK, is_singleton=True)
    with writing(path):
        try:
            lock.acquire(timeout=min(_SILENT_SECONDS, wait_seconds))
        except filelock.Timeout:
            _wait(lock, path, wait_seconds - _SILENT_SECONDS)
    try:
        yield
    finally:
        lock.release()


def _wait(lock: "filelock.BaseFileLock", path: Path, seconds: float) -> None:
    import filelock

    if seconds > 0:
        _logger.info("Waiting for another process that writes to %s …", path)
    try:
        lock.acquire(timeout=max(0.0, seconds))
    except filelock.Timeout as error:
        raise MemoryBusy(f"{path} is being written by another process: try again when that has ended") from error
