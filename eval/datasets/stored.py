"""Bytes of pictures where they are stored: in a file on its own or within an archive, for any number of threads."""

import io
import os
import stat
import weakref
from pathlib import Path
from typing import IO, Any, Final, Protocol, cast

from retrieval.errors import ImageError, ImageTooLarge, NotAnImage

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
