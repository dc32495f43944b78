"""Where a memory lies, what is raised where it cannot be read or written, and who may write to it.

A memory's table may lie on an object store; its index and its writer's lock lie in a folder of this machine then.
"""

import hashlib
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Final

from retrieval.errors import MemoryBusy, MemoryExists, NotAMemory, StorageError
from retrieval.support.cachedir import cache_folder
from retrieval.support.outside import parse_address

TABLE: Final = "items.lance"
NOTE: Final = "erasing-"  # how the name of the note of an erasure begins, in the local folder
_SCHEMES: Final = ("s3", "gs", "az", "abfss")  # that Lance opens; its keys come from the environment (AWS_…, GOOGLE_…)
_ADDRESS: Final = re.compile(rf"({'|'.join(_SCHEMES)}):/+(?=[^/])")  # one slash is left where an address was a Path
_POINTER: Final = "address.txt"  # in the local folder: where the memory is


def local_folder(path: str | Path) -> Path:
    """Return where a memory's files on this machine are: the path itself, or a folder in the cache for an address.

    What lies in such a folder is made again where it is missing.

    Raises:
        InvalidArgument: no address, or one with a user, a password or a query in it.
        StorageError: the cache cannot be written.
    """
    found = _ADDRESS.match(str(path))
    if not found:
        return Path(path)
    address = f"{found[1]}://{str(path)[found.end() :].rstrip('/')}"
    instead = "keys are taken from the environment (AWS_ACCESS_KEY_ID and the like), give the address alone"
    parse_address(address, "a memory", schemes=_SCHEMES, instead=instead, user=found[1] == "abfss")
    folder = cache_folder("remote") / hashlib.sha256(address.encode()).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _POINTER).write_text(address, encoding="utf-8")
    except OSError as error:
        raise StorageError(
            f"{folder}, where the index of {address} goes, cannot be written: {error.strerror}; set VMEM_CACHE to a"
            " folder you may write to"
        ) from error
    return folder


def address_of(folder: Path) -> str | None:
    """Return the address of the memory that a local folder belongs to; None where its table lies in the folder."""
    try:
        return (folder / _POINTER).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None


def erasure_notes(folder: Path) -> list[Path]:
    """Return the notes of erasures that are under way or were cut off, and are to be finished."""
    return sorted(folder.glob(f"{NOTE}*.json"))


def table_uri(folder: Path) -> str:
    """Return where Lance finds the table of the memory whose local folder this is."""
    address = address_of(folder)
    # From the root: Lance takes what stands before a colon for the kind of an address.
    return f"{address}/{TABLE}" if address else os.path.abspath(folder / TABLE)


def shown(folder: Path) -> str:
    """Return what people call the memory whose local folder this is."""
    return address_of(folder) or str(folder)


def is_stored(address: str) -> bool:
    """Tell whether there is a memory at an address.

    Raises:
        StorageError: the object store does not answer, has no such bucket, or wants other keys.
    """
    import lance

    try:
        lance.dataset(f"{address}/{TABLE}")
    except (OSError, ValueError) as error:
        if "was not found" in str(error):
            return False
        raise store_error(address, error) from error
    return True


def store_error(address: str, error: Exception) -> StorageError:
    """Return what an object store's refusal is in a sentence."""
    code = re.search(r"<Code>(\w+)</Code>", str(error))
    reason = code[1] if code else str(error).split(", /")[0].splitlines()[0]
    return StorageError(
        f"{address} cannot be used: {reason}; see that the bucket is there and that the environment has its keys"
        " (for S3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, and AWS_ENDPOINT for others than Amazon)"
    )


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


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all, on disk before this returns.

    Raises:
        StorageError: the disk refuses.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f"{ASIDE}{token_hex(8)}")
        try:
            with aside.open("xb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(aside, path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring a folder's list of files to the disk."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


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
            if wait_seconds > _SILENT_SECONDS:
                _logger.info("Waiting for another process that writes to %s …", path)
            try:
                lock.acquire(timeout=max(0.0, wait_seconds - _SILENT_SECONDS))
            except filelock.Timeout as error:
                raise MemoryBusy(
                    f"{path} is being written by another process: try again when that has ended"
                ) from error
    try:
        yield
    finally:
        lock.release()


INDEX: Final = "index"
CENTRED_INDEX: Final = "index-centred"
PASSED_OVER: Final = "unreadable.tsv"  # id and reason of each file passed over, as JSON strings
ASIDE: Final = ".new-"  # begins the name of a table that is being made; what a killed run leaves is swept up


def is_memory(path: str | Path) -> bool:
    """Tell whether there is a memory whose local folder this is.

    Raises:
        StorageError: the object store that its table would be in does not answer.
    """
    if address := address_of(Path(path)):
        return is_stored(address)
    return os.path.isdir(Path(path) / TABLE)  # of os.path: a name too long for the system is no memory either


def expect_memory(path: Path) -> None:
    """Raise NotAMemory unless there is one at the path."""
    if not is_memory(path):
        there = "it holds no memory" if os.path.exists(path) and not address_of(path) else "there is nothing"
        place = shown(path)
        raise NotAMemory(f"{place} is no memory ({there}): make one with `vmem memory build {place} FOLDER`")


def check_free(path: Path) -> None:
    """Raise unless a new memory can be made at the path: early, before anything slow is done for it.

    Raises:
        MemoryExists: something is there already.
        StorageError: the place cannot be written.
    """
    if address_of(path):
        if is_memory(path):
            raise MemoryExists(f"{shown(path)} holds a memory already: choose another address")
        return
    with writing(path):
        inside = path.iterdir() if path.is_dir() else ()
        if (path.exists() and not path.is_dir()) or any(not entry.name.startswith((ASIDE, LOCK)) for entry in inside):
            raise MemoryExists(f"{path} is there already and not an empty folder: choose another path")
        nearest = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK):
            why = "read-only" if nearest.is_dir() else "not a folder"
            raise StorageError(f"{path} cannot be written: {nearest} is {why}; choose a path you may write to")
