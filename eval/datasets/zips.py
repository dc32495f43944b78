"""Pictures inside a zip, read without `ZipFile`, whose open files are not for several threads."""

import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from eval.datasets.listing import Listing
from eval.datasets.stored import StoredBytes, expect_a_pictures_size
from eval.datasets.trees import ArchiveTree
from retrieval.errors import FolderError, ImageError

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
        _expect_readable(path, info)
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


def _expect_readable(path: Path, info: zipfile.ZipInfo) -> None:
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
