"""Pictures inside a tar, found by reading it once from end to end: nothing is unpacked.

Tars inside it, as ImageNet's training set comes, count as folders. Python's own reader takes damage for the end of a
tar, and pictures would be lost in silence; here the end must be the one that was written.
"""

import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, cast

from eval.datasets.listing import Listing, path_inside
from eval.datasets.stored import StoredBytes, expect_a_pictures_size
from eval.datasets.trees import ArchiveTree
from retrieval.errors import FolderError, ImageError
from retrieval.folder import is_left_behind
from retrieval.progress import track

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
            _expect_readable(path, part, member)
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


def _expect_readable(path: Path, part: _Part, member: tarfile.TarInfo) -> None:
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
