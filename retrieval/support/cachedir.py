"""Where derived things are kept that may be deleted at any time: features, converted models, what was measured.

Each is kept under a key made of everything that made it (`cache_key`), so that nothing else is ever taken for it. A
process that dies while it loads a kept thing leaves a mark (`loading`), and the next one starts without that thing.
"""

import hashlib
import json
import os
import shutil
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any, Final

import diskcache

VARIABLE: Final = "VMEM_CACHE"
_LAYOUT: Final = "2-"  # begins every key; what earlier versions kept has no such beginning, and is never loaded
_ASIDE: Final = ".new-"  # begins the name of a folder that is being made
_ABANDONED_SECONDS: Final = 3600.0  # after which nobody is making it any more
_UNUSED_SECONDS: Final = 90 * 86400.0  # after which a kept thing goes when another is made
_MARK: Final = ".loading-"  # begins the name of a file that stands for a process while it loads a kept thing


def cache_folder(kind: str) -> Path:
    """Return the folder for one kind of derived things, ``features`` or ``models``; it may not be there yet."""
    from platformdirs import user_cache_path

    chosen = os.environ.get(VARIABLE)
    return (Path(chosen) if chosen else user_cache_path("visual-memory-agent")) / kind


def cache_key(**made_by: object) -> str:
    """Return the name of a kept thing: a digest of everything that made it, in JSON's types.

    That is, as far as each can change it: weights, preprocessing, precision, hints to the compiler, shape, the
    libraries' versions, the processor.
    """
    return _LAYOUT + hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()[:32]


def is_of_this_layout(kept: Path) -> bool:
    """Tell whether a thing was kept by this version of the program, or one that keeps things alike."""
    return kept.name.startswith(_LAYOUT)


def make_whole(folder: Path, fill: Callable[[Path], None], *, is_whole: Callable[[Path], bool]) -> None:
    """Make a folder by filling another one and renaming it, so that a crash leaves it whole or not there.

    What lies there and is not whole, by the caller's test, is replaced. Others may read and replace the files as far
    as the umask lets them.

    Raises:
        OSError: the disk refuses.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left_over in folder.parent.glob(f"{_ASIDE}*"):
        with suppress(OSError):
            if time.time() - left_over.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(left_over, ignore_errors=True)
    aside = folder.parent / f"{_ASIDE}{uuid.uuid4().hex}"
    aside.mkdir()  # not mkdtemp: that is for its maker alone
    try:
        fill(aside)
        for file in filter(Path.is_file, aside.rglob("*")):
            file.chmod(aside.stat().st_mode & 0o666)  # OpenVINO writes files that nobody may change
        try:
            aside.rename(folder)  # at once: who looks first may remove what another has just put there
        except OSError:
            if not is_whole(folder):
                shutil.rmtree(folder, ignore_errors=True)
                aside.rename(folder)
    except OSError:
        if not is_whole(folder):  # else another process was faster, and its result is as good
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def loading(kept: Path) -> Iterator[None]:
    """Load and first use a kept file or folder in a block, so that neither its death nor its error is met twice.

    For as long as the block runs, a file beside the thing is locked. The system unlocks it when the process ends in
    whatever way, and `start_afresh` takes a mark that nobody holds for a death. Where the block raises RuntimeError,
    which is all that OpenVINO raises, the thing is dropped at once. A folder that cannot be written has no marks.
    """
    import filelock

    mark = kept.parent / f"{_MARK}{uuid.uuid4().hex}-{kept.name}"
    lock = filelock.FileLock(mark, is_singleton=False)
    with suppress(OSError, filelock.Timeout):
        lock.acquire(timeout=0)
        mark.write_text(str(os.getpid()))  # an empty mark is being made, or was looked at while it went
    try:
        yield
    except RuntimeError:
        drop(kept)
        raise
    finally:
        with suppress(OSError):
            mark.unlink(missing_ok=True)
            lock.release()


def start_afresh(kept: Path) -> bool:
    """Drop a kept thing that a process died of while it was `loading` it; tell whether there was such a death."""
    import filelock

    deaths = 0
    for mark in kept.parent.glob(f"{_MARK}{'?' * 32}-{escape(kept.name)}"):
        with suppress(OSError, filelock.Timeout), filelock.FileLock(mark, timeout=0, is_singleton=False):
            deaths += mark.stat().st_size > 0
            mark.unlink()
    if deaths:
        drop(kept)
    return bool(deaths)


def drop(kept: Path) -> None:
    """Delete a kept file or folder, as far as the disk lets us."""
    if kept.is_dir():
        shutil.rmtree(kept, ignore_errors=True)
    else:
        with suppress(OSError):
            kept.unlink(missing_ok=True)


def note_use(kept: Path) -> None:
    """Note that a kept thing is in use, for `drop_unused`."""
    with suppress(OSError):  # another user's, or a folder that cannot be written
        os.utime(kept)


def drop_unused(folder: Path, *, besides: str = "") -> None:
    """Drop from a folder what nobody used for 90 days: so goes what was made by libraries that were replaced since.

    Args:
        folder: of one kind of kept things.
        besides: a pattern of names that stay in any case.
    """
    for kept in folder.glob("*"):
        with suppress(OSError):
            if time.time() - kept.stat().st_mtime > _UNUSED_SECONDS and not (besides and kept.match(besides)):
                drop(kept)


def folder_bytes(folder: Path) -> int:
    """Return the size of all files below a folder; 0 where there is none."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # another process deleted what it no longer needs
                total += os.path.getsize(os.path.join(root, name))
    return total


TROUBLE: Final = (OSError, ValueError, sqlite3.Error, diskcache.Timeout)
"""What a damaged, locked, full or unreachable store raises."""

DATABASE: Final = "cache.db"  # diskcache's name for it
_RAW: Final = 1  # diskcache's mode for values that lie in its database as they are


class _BytesOnly(diskcache.Disk):  # type: ignore[misc]
    def put(self, key: object) -> tuple[str, bool]:
        if not isinstance(key, str):
            raise ValueError(f"got {type(key).__name__} as a key: text expected")
        return key, True

    def get(self, key: object, raw: bool) -> object:
        if not raw:
            raise ValueError("the store holds a key that this program did not write")
        return key

    def store(self, value: object, read: bool, key: object = None) -> tuple[int, int, None, object]:
        if not isinstance(value, bytes):
            raise ValueError(f"got {type(value).__name__} as a value: bytes expected")
        return 0, _RAW, None, sqlite3.Binary(value)

    def fetch(self, mode: int, filename: str | None, value: object, read: bool) -> object:
        if mode != _RAW or not isinstance(value, bytes):
            raise ValueError("the store holds a value that this program did not write")
        return value


def open_store(folder: Path, *, size_limit: int) -> Any:  # noqa: ANN401 - diskcache is untyped
    """Open or make a store; safe for many threads and processes. Beyond the limit the oldest entries go.

    Raises:
        one of `TROUBLE`.
    """
    folder.mkdir(parents=True, exist_ok=True)  # diskcache and SQLite would let nobody else write, whatever the umask
    if not (folder / DATABASE).exists():
        (folder / DATABASE).touch()  # an empty file is an empty database; its log takes the same mode
    # What is deleted is overwritten: SQLite would leave it in the file until its place is needed.
    return diskcache.Cache(str(folder), disk=_BytesOnly, size_limit=size_limit, sqlite_secure_delete=1)
