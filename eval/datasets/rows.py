"""Rows with a picture and labels each, however they are stored."""

import csv
import io
import os
import reprlib
import stat
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Protocol, cast

from eval.types import StoredPicture
from retrieval.errors import FolderError, ImageError, ImageTooLarge, InvalidArgument, NotAnImage
from retrieval.labels import composed, stored_text
from retrieval.sources import as_text

_DAMAGE: Final = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, MemoryError, csv.Error)
RowLabels = frozenset[str] | frozenset[int]


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Rows with a picture each, in the order they are stored."""

    root: Path
    ids: Sequence[str]
    labels: Sequence[RowLabels]  # of one type throughout; empty where no label is right
    class_names: Sequence[str] | None  # by integer label, where the table tells
    picture: Callable[[int], Path | StoredPicture]
    wnids: Sequence[Any] | None = None  # of a column that tells them beside the labels

    @property
    def numbered(self) -> bool:
        """Whether labels are integers."""
        return any(isinstance(label, int) for label in next(filter(None, self.labels), ()))


def row_labels(root: Path, values: list[Any], *, name_of: Callable[[int], str]) -> list[RowLabels]:
    """Return each row's labels as a set; equal sets are one object, since there are millions.

    Args:
        root: the table.
        values: a label or a list of labels for each row.
        name_of: what a row is called in an error, as in "row 7".

    Raises:
        FolderError: something is no label, or some are text and others numbers.
    """
    sets: dict[tuple[str | int, ...], RowLabels] = {}
    labels: list[RowLabels] = []
    for row, value in enumerate(values):
        items = tuple(value) if isinstance(value, list) else (value,)
        wrong = [item for item in items if not _is_label(item)]
        if wrong:
            raise FolderError(f"{name_of(row)} of {root} has {_in_words(wrong[0])}")
        if items not in sets:
            sets[items] = frozenset(composed(item) if isinstance(item, str) else item for item in items)
        labels.append(sets[items])
    kinds = {type(label) for allowed in sets.values() for label in allowed}
    if len(kinds) > 1:
        raise FolderError(f"{root} has labels that are text and others that are numbers: all of one kind expected")
    return labels


def row_ids(root: Path, values: list[Any], *, name_of: Callable[[int], str]) -> list[str]:
    """Return each row's id as it is kept.

    Raises:
        FolderError: something is neither text nor a whole number.
    """
    ids: list[str] = []
    for value in values:
        try:
            ids.append(stored_text(as_text(value) if isinstance(value, str) else value, "id"))
        except InvalidArgument as error:
            raise FolderError(f"{name_of(len(ids))} of {root}: {error}") from error
    return ids


def expect_unique(table: Table) -> None:
    """Raise FolderError where two rows have the same id."""
    twice = [name for name, times in Counter(table.ids).most_common(3) if times > 1]
    if twice:
        raise FolderError(
            f"{table.root} has rows with the same id ({', '.join(twice)}): give each its own in a column id"
        )


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Translate what a damaged table raises, as FolderError."""
    import pyarrow as pa

    try:
        yield
    except (*_DAMAGE, pa.ArrowException) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]  # Thrift ends its own with a line break
        raise FolderError(f"{path} cannot be read as a table of pictures: {reason}") from error


def _is_label(value: Any) -> bool:  # noqa: ANN401 - whatever stands there
    return bool(value.strip()) if isinstance(value, str) else type(value) is int and value >= 0


def _in_words(value: Any) -> str:  # noqa: ANN401
    if value == -1:
        return "the label -1, which test sets without labels have: give the training or the validation set"
    if value is None or (isinstance(value, str) and not value.strip()):
        return "no label: text or a number from 0 expected"
    return f"the label {as_text(reprlib.repr(value))}: text or a number from 0 expected"


_START_POINTS: Final = 4000  # of a gzipped file; each keeps 32 KiB in memory
_CLOSEST: Final = 1 << 18  # bytes between them
_READ: Final = 1 << 16  # compressed bytes read at a time
_LARGEST: Final = 1 << 28  # bytes of a picture as it is encoded: a file may be of any size, an archive claim any


class StoredBytes(Protocol):
    """A file's bytes, decompressed where need be, for any number of threads."""

    fingerprint: str

    def stream(self) -> IO[bytes]:
        """Return the bytes as a file, to be read from the beginning by one thread."""
        ...

    def read_at(self, offset: int, size: int) -> bytes:
        """Return bytes; fewer where the file ends."""
        ...


class PlainBytes:
    """A plain file's bytes."""

    def __init__(self, path: Path) -> None:
        self.fingerprint = fingerprint(path)
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def stream(self) -> IO[bytes]:
        """See `StoredBytes`."""
        return io.FileIO(self._file, closefd=False)

    def read_at(self, offset: int, size: int) -> bytes:
        """See `StoredBytes`."""
        return os.pread(self._file, size, offset)


class GzipBytes:
    """A gzipped file's bytes."""

    def __init__(self, path: Path) -> None:
        from indexed_gzip import IndexedGzipFile

        self.fingerprint = fingerprint(path)
        spacing = max(_CLOSEST, path.stat().st_size // _START_POINTS)
        self._file: Any = IndexedGzipFile(
            os.fspath(path), spacing=spacing, readbuf_size=_READ, buffer_size=_CLOSEST, drop_handles=False
        )
        weakref.finalize(self, self._file.close)

    def stream(self) -> IO[bytes]:
        """See `StoredBytes`."""
        return cast(IO[bytes], self._file)

    def read_at(self, offset: int, size: int) -> bytes:
        """See `StoredBytes`."""
        return bytes(self._file.pread(size, offset))


def fingerprint(path: Path) -> str:
    """Return what tells a file from another in its place, without reading it."""
    status = path.stat()
    return f"{status.st_size}:{status.st_mtime_ns}"


def expect_a_pictures_size(name: str, size: int) -> None:
    """Raise ImageTooLarge for more bytes than an encoded picture may have."""
    if size > _LARGEST:
        raise ImageTooLarge(f"{name} has {size:,} bytes, more than a picture's limit of {_LARGEST:,}")


def read_file(path: Path) -> bytes:
    """Return a file's bytes, as long as it is one: a pipe would be waited for, and a device never ends.

    Raises:
        ImageError: it is missing, no file, larger than a picture may be, or cannot be read.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise NotAnImage(f"{path} is not a file but a folder, a pipe or a device")
        expect_a_pictures_size(str(path), status.st_size)
        return path.read_bytes()
    except FileNotFoundError as error:
        raise NotAnImage(f"no such file: {path}") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise ImageError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
