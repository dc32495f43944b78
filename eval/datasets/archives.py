"""Pictures inside tar, tar.gz and zip files, read where they lie: nothing is unpacked.

A tar is read by offset with ``pread``, so that any number of threads share one open file. A gzipped one is
decompressed once to find its members, keeping points from which decompression can start again; up to some gigabytes a
picture then takes milliseconds, beyond that the file is better unpacked. Which kind a file is shows in its content:
ImageNet-V2's ``.tar.gz`` files are plain tars.
"""

import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, cast

from eval.datasets.rows import GzipBytes, PlainBytes, StoredBytes, expect_a_pictures_size
from eval.datasets.trees import ArchiveTree
from eval.types import StoredPicture
from eval.wording import counted
from retrieval.errors import FolderError, ImageError
from retrieval.sources import is_left_behind
from retrieval.support.terminal import track

_LONGEST_CHAIN: Final = 40  # links that lead to links, as Linux follows them
_REASONS: Final = {
    "link": "no file inside the archive lies at the other end",
    "file": "a path with .. in it leads out of the archive",
    "special file": "pipes and devices hold no pictures",
}


class Listing:
    """An archive's files as they are found."""

    def __init__(self) -> None:
        self._members: dict[str, int] = {}
        self._links: dict[str, str | None] = {}
        self._passed_over: Counter[str] = Counter()

    def add(self, name: str, number: int, *, above: str = "") -> None:
        """Add a file; of two with the same path the later one stays, as in unpacking.

        Args:
            name: as the archive has it.
            number: by which it is read.
            above: the folder that the archive stands for inside another one, with a slash; else nothing.
        """
        path = self._path(name, above)
        if path is not None:
            self._members[path] = number

    def add_hard_link(self, name: str, target: str, *, above: str = "") -> None:
        """Add another path of a file that came before, whose name is `target`."""
        path, found = self._path(name, above), path_inside(target)
        if path is None:
            return
        number = None if found is None else self._members.get(above + found)
        if number is None:
            self._links[path] = None if found is None else above + found
        else:
            self._members[path] = number

    def add_link(self, name: str, target: str, *, above: str = "") -> None:
        """Add a symbolic link; `target` leads from its own folder to a file that may come later."""
        path = self._path(name, above)
        if path is not None:
            found = _followed(path.removeprefix(above).rpartition("/")[0], target)
            self._links[path] = None if found is None else above + found

    def add_special(self, name: str, *, above: str = "") -> None:
        """Count a pipe or a device."""
        self._passed_over["special file"] += self._path(name, above) is not None

    def tree(self, root: Path, picture: Callable[[int], StoredPicture]) -> ArchiveTree:
        """Return what was added as folders and files."""
        members = dict(self._members)
        for path in self._links:
            number = self._members.get(self._end_of_links(path) or "")
            if number is not None:
                members.setdefault(path, number)
        self._passed_over["link"] = len(self._links.keys() - members.keys())
        notes = (f"{counted(n, what)} passed over: {_REASONS[what]}" for what, n in self._passed_over.items() if n)
        return ArchiveTree(root, members, picture, tuple(notes))

    def _path(self, name: str, above: str) -> str | None:
        path = path_inside(name)
        if path is None:
            self._passed_over["file"] += 1
        return above + path if path and not is_left_behind(above + path) else None

    def _end_of_links(self, path: str) -> str | None:
        end: str | None = path
        for _ in range(_LONGEST_CHAIN):
            if end is None or end not in self._links:
                break
            end = self._links[end]
        return end


def path_inside(name: str) -> str | None:
    """Return a member's path below the archive's root, without "./" and "/" before it; None where it leads out."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return None if ".." in parts else "/".join(parts)


def _followed(folder: str, target: str) -> str | None:
    """Return where a link in a folder leads; None where that is outside."""
    if target.startswith("/"):
        return None
    parts = folder.split("/") if folder else []
    for part in target.split("/"):
        if part == ".." and not parts:
            return None
        if part == "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


_PIECE: Final = 1 << 16  # bytes read at a time behind the last member
_LONGEST_HEADER: Final = 1 << 24  # bytes; long names and attributes have some hundreds


def open_tar(path: Path, content: StoredBytes) -> ArchiveTree:
    """Return what a tar holds.

    Raises:
        FolderError: a tar in it is none, or holds tars again; a file is kept in a way that is not read.
        tarfile.TarError: it breaks off or is damaged.
    """
    listing, names, places = Listing(), list[str](), list[tuple[int, int]]()
    members = _members(path, _Part(content.stream(), 0, None))
    for part, member in track(members, f"Looking through {path.name}", unit=" files"):
        if member.isreg():
            listing.add(member.name, len(places), above=part.above)
            names.append(part.above + member.name)
            places.append((part.start + member.offset_data, member.size))
        elif member.islnk():
            listing.add_hard_link(member.name, member.linkname, above=part.above)
        elif member.issym():
            listing.add_link(member.name, member.linkname, above=part.above)
        elif not member.isdir():
            listing.add_special(member.name, above=part.above)
    return listing.tree(path, lambda number: _TarMember(path, content, names[number], *places[number]))


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
        self.start = start
        self.above = above  # the folder that it stands for, with a slash; nothing for the outermost
        self._stream = stream
        self._size = size
        self._place = 0

    def within(self, member: tarfile.TarInfo, folder: str) -> "_Part":
        return _Part(self._stream, self.start + member.offset_data, member.size, above=f"{folder}/")

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
        self._stream.seek(self.start + self._place)
        found = self._stream.read(size)
        self._place += len(found)
        return found


def _members(path: Path, part: _Part) -> Iterator[tuple[_Part, tarfile.TarInfo]]:
    """Yield all but the folders of a tar and of the tars that are its files, each with the tar it lies in."""
    with tarfile.TarFile(fileobj=cast(IO[bytes], part)) as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # else it remembers all of them, a kilobyte each
            _expect_readable_tar(path, part, member)
            folder = _folder_of_tar(member)
            if folder is None:
                yield part, member
            else:
                yield from _members_inside(path, part, member, folder)
        _expect_end(part, tar.offset)


def _members_inside(
    path: Path, part: _Part, member: tarfile.TarInfo, folder: str
) -> Iterator[tuple[_Part, tarfile.TarInfo]]:
    name = f"{part.above}{member.name} in {path}"
    if part.above:
        raise FolderError(f"{name} is a tar in a tar in a tar, which is not read: unpack it")
    try:
        yield from _members(path, part.within(member, folder))
    except tarfile.TarError as error:
        raise FolderError(f"{name} is no tar, breaks off or is damaged ({error}): download it again") from error


def _folder_of_tar(member: tarfile.TarInfo) -> str | None:
    """Return the folder that a tar in a tar stands for; None for any other member."""
    inside = path_inside(member.name)
    if not member.isreg() or not inside or not inside.endswith(".tar") or is_left_behind(inside):
        return None
    return inside.removesuffix(".tar")


def _expect_readable_tar(path: Path, part: _Part, member: tarfile.TarInfo) -> None:
    if member.size < 0:
        raise tarfile.ReadError(f"{member.name} claims {member.size:,} bytes")
    if member.issparse():
        raise FolderError(f"{part.above}{member.name} in {path} is a sparse file, which is not read: unpack the tar")


def _expect_end(part: _Part, place: int) -> None:
    """Raise ReadError unless only zeros follow, which end a tar."""
    part.seek(place)
    piece = part.read(tarfile.BLOCKSIZE)
    if len(piece) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it breaks off: the empty blocks that end a tar are missing")
    while piece:
        if piece.count(0) < len(piece):
            raise tarfile.ReadError(f"it breaks off or is damaged at byte {part.start + place:,}")
        piece = part.read(_PIECE)


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
        _expect_all(content.read_at(path.stat().st_size - _END.size - len(archive.comment), _END.size), infos)
    backslashes = not any("/" in info.filename for info in infos)  # some programs on Windows write them
    listing = Listing()
    for number, info in enumerate(infos):
        name = info.filename.replace("\\", "/") if backslashes else info.filename
        if name.endswith("/"):
            continue
        _expect_readable_zip(path, info)
        if _is_link(info):
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


def _expect_all(end: bytes, infos: list[zipfile.ZipInfo]) -> None:
    """Raise BadZipFile where a damaged list of members ends early, which Python's reader takes for its end."""
    (members,) = _END.unpack(end)
    if members not in (len(infos), _MANY):
        raise zipfile.BadZipFile(f"{members:,} members expected, {len(infos):,} found")


def _expect_readable_zip(path: Path, info: zipfile.ZipInfo) -> None:
    if info.flag_bits & _ENCRYPTED:
        raise FolderError(f"{info.filename} in {path} is encrypted: unpack the zip, and give the folder")
    if info.compress_type not in _READ_HERE:
        kind = zipfile.compressor_names.get(info.compress_type, f"method {info.compress_type}")  # type: ignore[attr-defined]
        raise FolderError(f"{info.filename} in {path} is compressed by {kind}: unpack the zip, and give the folder")


def _is_link(info: zipfile.ZipInfo) -> bool:
    return info.create_system == _UNIX and stat.S_ISLNK(info.external_attr >> 16)


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
