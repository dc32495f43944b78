"""Pictures inside tar, tar.gz and zip files, read where they lie: nothing is unpacked.

A tar is read by offset with ``pread``, so that any number of threads share one open file. Tars inside a tar, as
ImageNet's training set comes, count as folders. A gzipped one is decompressed once to find its members, keeping
points from which decompression can start again; up to some gigabytes a picture then takes milliseconds, beyond that
the file is better unpacked. Which kind a file is shows in its content: ImageNet-V2's ``.tar.gz`` files are plain tars.
"""

import io
import os
import struct
import tarfile
import weakref
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Protocol, cast

from eval.datasets.trees import ArchiveTree, is_left_behind
from retrieval.errors import FolderError, ImageError
from retrieval.progress import track

_GZIP: Final = b"\x1f\x8b"
_ZIP: Final = b"PK"
_LOCAL_HEADER: Final = struct.Struct("<26x2H")  # before each member of a zip: lengths of its name and of what follows
_NOT_READ: Final = {
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"7z\xbc\xaf": "7-Zip",
    b"Rar!": "RAR",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_START_POINTS: Final = 4000  # of a gzipped tar; each keeps 32 KiB in memory
_CLOSEST: Final = 1 << 18  # bytes between them
_READ: Final = 1 << 16  # compressed bytes read at a time


def open_archive(path: Path) -> ArchiveTree:
    """Return what a tar, gzipped tar or zip holds.

    Raises:
        FolderError: it is none, breaks off, or cannot be read.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(8)
        if head.startswith(_ZIP):
            return _open_zip(path, _PlainBytes(path))
        other = next((name for magic, name in _NOT_READ.items() if head.startswith(magic)), None)
        if other is not None:
            raise FolderError(f"{path} is compressed by {other}: unpack it, and give the folder")
        if head.startswith(_GZIP):
            return _open_tar(path, _GzipBytes(path))
        if tarfile.is_tarfile(path):
            return _open_tar(path, _PlainBytes(path))
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error) as error:
        raise FolderError(f"{path} cannot be read to its end ({error}): download it again, or unpack it") from error
    raise FolderError(f"{path} is no archive: a folder, a tar, a tar.gz or a zip expected")


class _Bytes(Protocol):
    """A file's bytes, decompressed where need be, for any number of threads."""

    fingerprint: str

    def stream(self) -> IO[bytes]:
        """Return the bytes as a file, to be read from the beginning by one thread."""
        ...

    def read_at(self, offset: int, size: int) -> bytes:
        """Return bytes; fewer where the file ends."""
        ...


class _PlainBytes:
    """A plain file's bytes."""

    def __init__(self, path: Path) -> None:
        self.fingerprint = fingerprint(path)
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def stream(self) -> IO[bytes]:
        return io.FileIO(self._file, closefd=False)

    def read_at(self, offset: int, size: int) -> bytes:
        return os.pread(self._file, size, offset)


class _GzipBytes:
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
        return cast(IO[bytes], self._file)

    def read_at(self, offset: int, size: int) -> bytes:
        return bytes(self._file.pread(size, offset))


@dataclass(frozen=True, slots=True, eq=False)
class _TarMember:
    """A picture in a tar."""

    archive: Path
    content: _Bytes
    name: str
    offset: int
    size: int

    @property
    def fingerprint(self) -> str:
        return f"{self.content.fingerprint}:{self.offset}:{self.size}"

    def read(self) -> bytes:
        try:
            found = self.content.read_at(self.offset, self.size)
        except (OSError, EOFError, zlib.error, ValueError) as error:
            raise ImageError(f"{self.name} in {self.archive} cannot be read: {error}") from error
        if len(found) < self.size:
            raise ImageError(f"{self.name} breaks off, because {self.archive} does: download it again")
        return found


@dataclass(frozen=True, slots=True, eq=False)
class _ZipMember:
    """A picture in a zip, read without `ZipFile`, whose open files are not for several threads."""

    archive: Path
    content: _Bytes
    info: zipfile.ZipInfo

    @property
    def fingerprint(self) -> str:
        return f"{self.content.fingerprint}:{self.info.header_offset}:{self.info.CRC}"

    def read(self) -> bytes:
        try:
            found = self._unpacked()
        except (OSError, struct.error, zlib.error) as error:
            raise ImageError(f"{self.info.filename} in {self.archive} cannot be read: {error}") from error
        if zlib.crc32(found) != self.info.CRC:
            raise ImageError(f"{self.info.filename} in {self.archive} is damaged or encrypted: download it again")
        return found

    def _unpacked(self) -> bytes:
        start = self.info.header_offset
        start += _LOCAL_HEADER.size + sum(_LOCAL_HEADER.unpack(self.content.read_at(start, _LOCAL_HEADER.size)))
        packed = self.content.read_at(start, self.info.compress_size)
        if self.info.compress_type == zipfile.ZIP_STORED:
            return packed
        if self.info.compress_type == zipfile.ZIP_DEFLATED:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, self.info.file_size)
        raise OSError("its compression is not read here; unpack the zip")


def fingerprint(path: Path) -> str:
    """Return what tells a file from another in its place, without reading it."""
    status = path.stat()
    return f"{path.resolve()}:{status.st_size}:{status.st_mtime_ns}"


def _open_zip(path: Path, content: _Bytes) -> ArchiveTree:
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
    members = {
        info.filename: number
        for number, info in enumerate(infos)
        if not info.is_dir() and not is_left_behind(info.filename)
    }
    return ArchiveTree(path, members, lambda number: _ZipMember(path, content, infos[number]))


def _open_tar(path: Path, content: _Bytes) -> ArchiveTree:
    names: list[str] = []
    places: list[tuple[int, int]] = []
    found = _members(content.stream(), 0, "")
    for name, offset, size in track(found, f"Looking through {path.name}", unit=" files"):
        names.append(name)
        places.append((offset, size))
    members = {name: number for number, name in enumerate(names) if not is_left_behind(name)}  # of twins the later
    return ArchiveTree(path, members, lambda number: _TarMember(path, content, names[number], *places[number]))


def _members(stream: IO[bytes], start: int, above: str) -> Iterator[tuple[str, int, int]]:
    """Yield name, offset and size of each file in a tar that begins at ``start``, those of tars inside it too."""
    stream.seek(start)
    with tarfile.open(fileobj=stream, mode="r:") as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # else it remembers all of them, a kilobyte each
            name = above + member.name.removeprefix("./")
            if member.isfile() and name.endswith(".tar"):
                yield from _members(stream, member.offset_data, name.removesuffix(".tar") + "/")
            elif member.isfile():
                yield name, member.offset_data, member.size
