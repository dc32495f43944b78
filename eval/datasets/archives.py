"""Pictures inside tar, tar.gz and zip files, read where they lie: nothing is unpacked.

A tar is read by offset with ``pread``, so that any number of threads share one open file. A gzipped one is
decompressed once to find its members, keeping points from which decompression can start again; up to some gigabytes a
picture then takes milliseconds, beyond that the file is better unpacked. Which kind a file is shows in its content:
ImageNet-V2's ``.tar.gz`` files are plain tars.

The readers of other libraries were tried (ratarmountcore 0.11.1): it takes a tar that breaks off for a whole one, hands
out links that lead outside as if they were files, and hangs at a member of negative size.
"""

import io
import os
import posixpath
import stat
import struct
import tarfile
import weakref
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Protocol, cast

from eval.datasets.trees import ArchiveTree, expect_a_pictures_size, fingerprint
from eval.types import StoredPicture
from retrieval.errors import FolderError, ImageError
from retrieval.sources import is_left_behind
from retrieval.support.terminal import counted, track

_LONGEST_CHAIN: Final = 40  # links that lead to links, as Linux follows them
_REASONS: Final = {
    "link": "no file inside the archive lies at the other end",
    "file": "a path with .. in it leads out of the archive",
    "special file": "pipes and devices hold no pictures",
}


class Listing:
    """An archive's files as they are found.

    Every method takes ``above``, the folder that the archive stands for inside another one, with a slash; else nothing.
    """

    def __init__(self) -> None:
        self._members: dict[str, int] = {}
        self._links: dict[str, str | None] = {}  # path → where it leads, None: outside
        self._passed_over: Counter[str] = Counter()

    def add(self, name: str, number: int, *, above: str = "") -> None:
        """Add a file by its name and the number that it is read by; of two with one path the later stays."""
        if path := self._path(name, above):
            self._members[path] = number

    def add_hard_link(self, name: str, target: str, *, above: str = "") -> None:
        """Add another path of a file that came before, whose name is `target`."""
        found = path_inside(target)
        end = None if found is None else above + found
        if path := self._path(name, above):
            if end in self._members:
                self._members[path] = self._members[end]
            else:
                self._links[path] = end

    def add_link(self, name: str, target: str, *, above: str = "") -> None:
        """Add a symbolic link; `target` leads from its own folder to a file that may come later."""
        if path := self._path(name, above):
            end = posixpath.normpath(posixpath.join(posixpath.dirname(path.removeprefix(above)), target))
            self._links[path] = None if end == ".." or end.startswith(("../", "/")) else above + end

    def add_special(self, name: str, *, above: str = "") -> None:
        """Count a pipe or a device."""
        self._passed_over["special file"] += self._path(name, above) is not None

    def tree(self, root: Path, picture: Callable[[int], StoredPicture]) -> ArchiveTree:
        """Return what was added as folders and files."""
        members = dict(self._members)
        for path in self._links:
            end: str | None = path
            for _ in range(_LONGEST_CHAIN):
                if end not in self._links:
                    break
                end = self._links[end]
            if end in self._members:
                members.setdefault(path, self._members[end])
        self._passed_over["link"] = len(self._links.keys() - members.keys())
        notes = (f"{counted(n, what)} passed over: {_REASONS[what]}" for what, n in self._passed_over.items() if n)
        return ArchiveTree(root, members, picture, tuple(notes))

    def _path(self, name: str, above: str) -> str | None:
        path = path_inside(name)
        if path is None:
            self._passed_over["file"] += 1
        return above + path if path and not is_left_behind(above + path) else None


def path_inside(name: str) -> str | None:
    """Return a member's path below the archive's root, without "./" and "/" before it; None where it leads out."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return None if ".." in parts else "/".join(parts)


_START_POINTS: Final = 4000  # of a gzipped file; each keeps 32 KiB in memory
_CLOSEST: Final = 1 << 18  # bytes between them
_READ: Final = 1 << 16  # compressed bytes read at a time


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


_PIECE: Final = 1 << 16  # bytes read at a time behind the last member
_LONGEST_HEADER: Final = 1 << 24  # bytes; long names and attributes have some hundreds


def open_tar(path: Path, content: StoredBytes) -> ArchiveTree:
    """Return what a tar holds.

    Raises:
        FolderError: a tar in it is none, or holds tars again; a file is kept in a way that is not read.
        tarfile.TarError: it breaks off or is damaged.
    """
    listing, pictures = Listing(), list[_TarMember]()
    members = _members(path, _Part(content.stream(), 0, None))
    for part, member in track(members, f"Looking through {path.name}", unit=" files"):
        name, above = member.name, part.above
        if member.isreg():
            listing.add(name, len(pictures), above=above)
            pictures.append(_TarMember(path, content, above + name, part.start + member.offset_data, member.size))
        elif member.islnk():
            listing.add_hard_link(name, member.linkname, above=above)
        elif member.issym():
            listing.add_link(name, member.linkname, above=above)
        elif not member.isdir():
            listing.add_special(name, above=above)
    return listing.tree(path, pictures.__getitem__)


@dataclass(frozen=True, slots=True, eq=False)
class _TarMember:
    """A picture in a tar."""

    archive: Path
    content: StoredBytes
    name: str
    offset: int
    size: int

    @property
    def fingerprint(self) -> str:
        return f"{self.content.fingerprint}:{self.offset}:{self.size}"

    def read(self) -> bytes:
        expect_a_pictures_size(f"{self.name} in {self.archive}", self.size)
        try:
            found = self.content.read_at(self.offset, self.size)
        except (OSError, EOFError, zlib.error, ValueError) as error:
            raise ImageError(f"{self.name} in {self.archive} cannot be read: {error}") from error
        if len(found) < self.size:
            raise ImageError(f"{self.name} breaks off, because {self.archive} does: download it again")
        return found


class _Part:
    """A part of a file that is a tar, as a file of its own: nothing beyond it is read."""

    def __init__(self, stream: IO[bytes], start: int, size: int | None, *, above: str = "") -> None:
        self.stream, self.start = stream, start
        self.above = above  # the folder that it stands for, with a slash; nothing for the outermost
        self._size = size
        self._place = 0

    def tell(self) -> int:
        return self._place

    def seek(self, place: int) -> int:
        self._place = place
        return place

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _LONGEST_HEADER:
            raise tarfile.ReadError(f"a header claims {size:,} bytes")
        if self._size is not None:
            size = max(0, min(size, self._size - self._place))
        self.stream.seek(self.start + self._place)
        found = self.stream.read(size)
        self._place += len(found)
        return found

    def expect_end(self, place: int) -> None:
        """Raise ReadError unless only zeros follow, which end a tar."""
        self.seek(place)
        piece = self.read(tarfile.BLOCKSIZE)
        if len(piece) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("it breaks off: the empty blocks that end a tar are missing")
        while piece:
            if piece.count(0) < len(piece):
                raise tarfile.ReadError(f"it breaks off or is damaged at byte {self.start + place:,}")
            piece = self.read(_PIECE)


def _members(path: Path, part: _Part) -> Iterator[tuple[_Part, tarfile.TarInfo]]:
    """Yield all but the folders of a tar and of the tars that are its files, each with the tar it lies in."""
    with tarfile.TarFile(fileobj=cast(IO[bytes], part)) as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # else it remembers all of them, a kilobyte each
            name, inside = f"{part.above}{member.name} in {path}", path_inside(member.name) or ""
            if member.size < 0:
                raise tarfile.ReadError(f"{member.name} claims {member.size:,} bytes")
            if member.issparse():
                raise FolderError(f"{name} is a sparse file, which is not read: unpack the tar")
            if not member.isreg() or not inside.endswith(".tar") or is_left_behind(inside):
                yield part, member
                continue
            if part.above:
                raise FolderError(f"{name} is a tar in a tar in a tar, which is not read: unpack it")
            folder = inside.removesuffix(".tar") + "/"
            try:
                yield from _members(
                    path, _Part(part.stream, part.start + member.offset_data, member.size, above=folder)
                )
            except tarfile.TarError as error:
                raise FolderError(f"{name} is no tar, breaks off or is damaged ({error}): download it again") from error
        part.expect_end(tar.offset)


_LOCAL_HEADER: Final = struct.Struct("<26x2H")  # before each member: lengths of its name and of what follows
_END: Final = struct.Struct("<10xH10x")  # at the end, before a comment: how many members there are
_MANY: Final = 0xFFFF  # stands there where they are more
_READ_HERE: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED: Final = 1  # the flag
_UNIX: Final = 3  # the system whose modes stand in the upper half of the attributes
_LONGEST_LINK: Final = 4096  # bytes, as in Linux


def open_zip(path: Path, content: StoredBytes) -> ArchiveTree:
    """Return what a zip holds.

    Raises:
        FolderError: it is encrypted, or compressed in a way that is not read.
        zipfile.BadZipFile: it breaks off or is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
        (members,) = _END.unpack(content.read_at(path.stat().st_size - _END.size - len(archive.comment), _END.size))
    if members not in (len(infos), _MANY):  # a damaged list that ends early, which Python's reader takes for its end
        raise zipfile.BadZipFile(f"{members:,} members expected, {len(infos):,} found")
    backslashes = not any("/" in info.filename for info in infos)  # some programs on Windows write them
    listing = Listing()
    for number, info in enumerate(infos):
        name = info.filename.replace("\\", "/") if backslashes else info.filename
        if name.endswith("/"):
            continue
        _expect_readable_zip(path, info)
        if info.create_system == _UNIX and stat.S_ISLNK(info.external_attr >> 16):
            listing.add_link(name, _target(_ZipMember(path, content, info)))
        else:
            listing.add(name, number)
    return listing.tree(path, lambda number: _ZipMember(path, content, infos[number]))


@dataclass(frozen=True, slots=True, eq=False)
class _ZipMember:
    """A picture in a zip."""

    archive: Path
    content: StoredBytes
    info: zipfile.ZipInfo

    @property
    def fingerprint(self) -> str:
        return f"{self.content.fingerprint}:{self.info.header_offset}:{self.info.CRC}"

    def read(self) -> bytes:
        name = f"{self.info.filename} in {self.archive}"
        expect_a_pictures_size(name, max(self.info.file_size, self.info.compress_size))
        try:
            found = self._unpacked()
        except (OSError, struct.error, zlib.error, ValueError, OverflowError) as error:
            raise ImageError(f"{name} cannot be read: {error}") from error
        if len(found) != self.info.file_size or zlib.crc32(found) != self.info.CRC:
            raise ImageError(f"{name} is damaged: download it again")
        return found

    def _unpacked(self) -> bytes:
        start = self.info.header_offset
        start += _LOCAL_HEADER.size + sum(_LOCAL_HEADER.unpack(self.content.read_at(start, _LOCAL_HEADER.size)))
        packed = self.content.read_at(start, self.info.compress_size)
        if self.info.compress_type == zipfile.ZIP_STORED:
            return packed
        # One byte more than it claims shows that the claim is wrong; no limit at all is what 0 would mean.
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, self.info.file_size + 1)


def _expect_readable_zip(path: Path, info: zipfile.ZipInfo) -> None:
    if info.flag_bits & _ENCRYPTED:
        raise FolderError(f"{info.filename} in {path} is encrypted: unpack the zip, and give the folder")
    if info.compress_type not in _READ_HERE:
        kind = zipfile.compressor_names.get(info.compress_type, f"method {info.compress_type}")  # type: ignore[attr-defined]
        raise FolderError(f"{info.filename} in {path} is compressed by {kind}: unpack the zip, and give the folder")


def _target(member: _ZipMember) -> str:
    """Return what a link holds; one that cannot be read leads nowhere, as one to the root does."""
    if member.info.file_size > _LONGEST_LINK:
        return "/"
    try:
        return member.read().decode("utf-8", "surrogateescape")
    except ImageError:
        return "/"


_GZIP: Final = b"\x1f\x8b"
_ZIP: Final = b"PK"
_NOT_READ: Final = {
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"7z\xbc\xaf": "7-Zip",
    b"Rar!": "RAR",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_DAMAGE: Final = (  # what Python's readers raise on damaged and on hostile files
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    MemoryError,
    RecursionError,
    NotImplementedError,
    struct.error,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)


def open_archive(path: Path) -> ArchiveTree:
    """Return what a tar, gzipped tar or zip holds.

    Raises:
        FolderError: it is none, breaks off, is damaged, or cannot be read.
    """
    if not os.path.isfile(path):  # a pipe would be waited for
        raise FolderError(f"{path} is neither a folder nor a file: a folder, an archive or a table expected")
    try:
        found = _open(path)
    except _DAMAGE as error:
        raise FolderError(f"{path} cannot be read to its end ({error}): download it again, or unpack it") from error
    if found is None:
        raise FolderError(
            f"{path} is no archive and no table: a folder, a tar, tar.gz or zip, or a Parquet, Arrow, CSV, TSV or JSONL"
            " file expected"
        )
    return found


def _open(path: Path) -> ArchiveTree | None:
    with path.open("rb") as stream:
        head = stream.read(8)
    other = next((name for magic, name in _NOT_READ.items() if head.startswith(magic)), None)
    if other is not None:
        raise FolderError(f"{path} is compressed by {other}: unpack it, and give the folder")
    if head.startswith(_ZIP):
        return open_zip(path, PlainBytes(path))
    if head.startswith(_GZIP):
        return open_tar(path, GzipBytes(path))
    return open_tar(path, PlainBytes(path)) if tarfile.is_tarfile(path) else None
