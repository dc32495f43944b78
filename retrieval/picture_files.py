"""Picture files before they are decoded: what makes pixels is passed on, metadata stay behind, bombs are refused.

Pillow reads all metadata of a file before its pixels, gives the picture up where they are broken or large, and takes
minutes over some. None of them is used here but the orientation, which is read on the way.
"""

import io
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final, cast

import numpy as np

from retrieval.errors import DamagedImage, ImageTooLarge, NotAnImage

MAX_SIDE: Final = 65_535
"""The longest side decoded, in pixels: as long as a JPEG can be. Pillow keeps an address for each row, so that a
picture of one pixel by millions takes gigabytes."""

MAX_SCANS: Final = 100
"""The most scans of a JPEG decoded: each goes over the whole picture. Progressive files have about 10; 100 of them take
6 seconds at 89 megapixels."""

_MOST_BYTES: Final = 2**30  # of a file that is read whole: 89 megapixels in 16 bits with alpha take 0.7 GiB raw
_MOST_PARTS: Final = 2**18  # chunks, segments or blocks; a file of 1 GiB has half as many in chunks of 8 KiB
_MOST_JPEG_HEADER: Final = 2**20  # bytes; tables take some hundred, and Pillow reads them byte by byte
_MOST_TEXT: Final = 2**20  # bytes in which an orientation is looked for
_MOST_TIFF_VALUES: Final = 2**18  # of one tag: four planes in strips of one row each
_MOST_TILE_PIXELS: Final = 2**22  # of a TIFF's tile that is larger than its picture
_MOST_WEBP_PIXELS: Final = 44_739_242  # half of the others: its decoder holds four to five copies at once
_MOST_RLE_PIXELS: Final = 2**24  # of a BMP with run lengths, which Pillow decodes in Python

_ORIENTATION: Final = 0x0112  # the EXIF tag
_XMP_ORIENTATION: Final = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')


@dataclass(frozen=True, slots=True)
class PictureFile:
    """What of a file its decoder is given."""

    format: str  # Pillow's name
    stream: BinaryIO  # the file without its metadata
    orientation: int = 1  # as EXIF counts, 1 upright; 1 for TIFF, which Pillow turns itself
    ends_early: Callable[[], bool] = lambda: False  # tells, where decoding failed, whether the file is cut short


def open_picture_file(stream: BinaryIO, name: str) -> PictureFile:
    """Return what is to be decoded of a file; of a file that is no picture, no more than the head is read.

    Args:
        stream: the file, at its beginning.
        name: what errors call it.

    Raises:
        NotAnImage: it begins as no accepted format does.
        DamagedImage: it ends before its pixels begin.
        ImageTooLarge: decoding it would take more time or memory than any real picture does.
    """
    head = stream.read(64)
    stream.seek(0)
    if head.startswith((b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"II+\0", b"MM\0+")):
        return _tiff(stream, name)
    if head.startswith(b"BM"):
        return _bmp(stream, head, name)
    readers: dict[bytes, Callable[[bytes, str], PictureFile]]
    readers = {b"\xff\xd8\xff": _jpeg, b"\x89PNG\r\n\x1a\n": _png, b"GIF87a": _gif, b"GIF89a": _gif}
    read = next((read for magic, read in readers.items() if head.startswith(magic)), None)
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        read = _webp
    if read is None:
        raise NotAnImage(f"{name} is not a picture: JPEG, PNG, WebP, BMP, GIF or TIFF expected")
    if stream.seek(0, io.SEEK_END) > _MOST_BYTES:
        raise _refused(name, f"has more than {_MOST_BYTES >> 30} GiB")
    stream.seek(0)
    return read(stream.read(), name)


def _refused(name: str, what: str) -> ImageTooLarge:
    return ImageTooLarge(f"{name} {what}, and would take too long to decode: save it anew with a picture editor")


_Part = tuple[bytes, int, int]  # of a file: its kind, where it begins, where it ends


def _counted(parts: Iterable[_Part], name: str, *, most: int = _MOST_PARTS) -> Iterator[_Part]:
    for number, part in enumerate(parts):
        if number == most:
            raise _refused(name, f"consists of more than {most:,} parts")
        yield part


_MARKER: Final = re.compile(rb"\xff([^\x00\xff])")
_MARKER_AMONG_PIXELS: Final = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")
_ALONE: Final = frozenset(bytes([marker]) for marker in (0x01, *range(0xD0, 0xDA)))  # no length after them
_SEQUENTIAL: Final = (b"\xc0", b"\xc1", b"\xc9")
_END, _SCAN, _APP0, _APP1, _APP14, _COMMENT = b"\xd9", b"\xda", b"\xe0", b"\xe1", b"\xee", b"\xfe"


def _jpeg_segments(content: bytes, position: int, marker: re.Pattern[bytes]) -> Iterator[_Part]:
    while found := marker.search(content, position):
        position = found.end()
        if found[1] not in _ALONE:
            position += int.from_bytes(content[position : position + 2], "big")
        yield found[1], found.start(), position


def _jpeg(content: bytes, name: str) -> PictureFile:
    """Leave out what applications and people wrote but what tells the colours: JFIF's and Adobe's segments."""
    kept, about, start, layers = [content[:2]], [b""], 2, b""
    for marker, begin, end in _counted(_jpeg_segments(content, 2, _MARKER), name):
        if marker == _SCAN:
            break
        if marker in _SEQUENTIAL:
            layers = content[begin + 9 : begin + 10]
        segment = content[begin + 4 : end]
        if (_APP0 <= marker <= b"\xef" or marker == _COMMENT) and not _tells_colours(marker, segment):
            kept.append(content[start:begin])
            start = end
            about += [segment] * (marker == _APP1)
    else:
        raise DamagedImage(f"{name} breaks off before its pixels; replace the file")
    if sum(map(len, kept)) + begin - start > _MOST_JPEG_HEADER:
        raise _refused(name, f"has more than {_MOST_JPEG_HEADER >> 20} MiB of tables before its pixels")
    has_one_scan = layers and layers == content[begin + 4 : begin + 5]
    # What is counted at first is a few too many: what stands behind the picture is not told apart.
    if not has_one_scan and content.count(b"\xff\xda", begin) > MAX_SCANS:
        _expect_few_scans(content, begin, name)
    exif, xmp = (
        next((one for one in about if one.startswith(head)), b"")
        for head in (b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0")
    )
    pixels: BinaryIO = io.BytesIO(content)
    if start > 2:
        pixels = _replaced(pixels, begin=0, end=start, by=b"".join(kept))
    return PictureFile("JPEG", pixels, _orientation(exif, xmp), lambda: content.rfind(b"\xff\xd9", begin) < 0)


def _tells_colours(marker: bytes, segment: bytes) -> bool:
    """Return whether libjpeg takes the colour space from a segment; from one that is cut short it does not."""
    jfif = marker == _APP0 and segment.startswith(b"JFIF\0") and len(segment) >= 14
    return jfif or (marker == _APP14 and segment.startswith(b"Adobe") and len(segment) >= 12)


def _expect_few_scans(content: bytes, position: int, name: str) -> None:
    scans = 0
    segments = _jpeg_segments(content, position, _MARKER_AMONG_PIXELS)
    for marker, _, _ in _counted(segments, name, most=100 * MAX_SCANS):
        scans += marker == _SCAN
        if scans > MAX_SCANS:
            raise _refused(name, f"has more than {MAX_SCANS} scans over its pixels")
        if marker == _END:
            return


def _png_chunks(content: bytes) -> Iterator[_Part]:
    position = 8
    while position + 8 <= len(content) and (kind := content[position + 4 : position + 8]).isalpha():
        begin, position = position, position + 12 + int.from_bytes(content[position : position + 4], "big")
        yield kind, begin, position
        if kind == b"IEND":
            return


def _png(content: bytes, name: str) -> PictureFile:
    """Keep header, palette, transparency and the pixels of the first frame; text, profiles and times are left out."""
    kept: list[bytes] = []
    pixels: list[memoryview] = []
    exif = xmp = kind = b""
    room, end = _png_room(content), 8
    for kind, begin, end in _counted(_png_chunks(content), name):
        if kind == b"IDAT":
            if room > 0:  # what stands behind belongs to no pixel
                pixels.append(memoryview(content)[begin + 8 : end - 4])
                room -= len(pixels[-1])
            continue
        chunk = content[begin + 8 : end - 4]
        if kind in (b"IHDR", b"PLTE", b"tRNS") and not pixels:
            kept.append(content[begin:end])
        elif kind == b"eXIf":
            exif = exif or chunk
        elif chunk.startswith(b"XML:com.adobe.xmp\0"):
            xmp = xmp or _png_text(kind, chunk)
        elif chunk.startswith(b"Raw profile type exif\0"):
            exif = exif or _raw_profile(_png_text(kind, chunk))
    # Pillow looks at no checksum of pixels, which have one of their own inside.
    data = struct.pack(">I4s", sum(map(len, pixels)), b"IDAT")
    whole = b"".join((content[:8], *kept, data, *pixels, bytes(8), b"IEND", bytes(4)))
    is_whole = kind == b"IEND" or end + 8 <= len(content)
    return PictureFile("PNG", io.BytesIO(whole), _orientation(exif, xmp), lambda: not is_whole)


def _png_room(content: bytes) -> int:
    """Return more bytes than the pixels of a picture of this width and height can take, packed as badly as may be."""
    width, height = (int.from_bytes(content[start : start + 4], "big") for start in (16, 20))
    return 2**16 + height * (9 * width + 64)  # 8 bytes a pixel at most; a filter and a flushed block a row


def _png_text(kind: bytes, chunk: bytes) -> bytes:
    """Return what a text chunk says after its keyword, as far as it is read."""
    text = chunk.partition(b"\0")[2]
    is_packed = kind == b"zTXt" or (kind == b"iTXt" and text[:1] == b"\1")
    text = {b"zTXt": text[1:], b"iTXt": text[2:].split(b"\0", 2)[-1]}.get(kind, text)
    try:
        return zlib.decompressobj().decompress(text, _MOST_TEXT) if is_packed else text[:_MOST_TEXT]
    except zlib.error:
        return b""


def _raw_profile(text: bytes) -> bytes:
    """Return the EXIF that ImageMagick writes as text: a newline, a name, a length, then hexadecimal digits."""
    try:
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode())
    except ValueError:
        return b""


def _gif_blocks(content: bytes, position: int) -> Iterator[_Part]:
    """Yield what stands before the first frame: an extension's own blocks one by one, with its kind at its end."""
    while (first := content[position : position + 1]) not in (b",", b""):
        begin, position = position, position + 1
        if first == b"!":
            position += 1
            while content[position : position + 1] not in (b"\0", b""):
                position += 1 + content[position]
                yield b"", begin, begin
            position += 1
        yield content[begin : begin + 2], begin, position


def _gif(content: bytes, name: str) -> PictureFile:
    """Leave out what stands before the first frame but what tells its transparency; Pillow decodes that frame only."""
    flags = content[10] if len(content) > 10 else 0
    palette_end = end = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    kept = [content[:palette_end]]
    for kind, begin, end in _counted(_gif_blocks(content, palette_end), name):
        if kind == b"!\xf9":
            kept.append(content[begin:end])
    whole = b"".join((*kept, content[end:]))
    return PictureFile("GIF", io.BytesIO(whole), ends_early=lambda: not content.rstrip(b"\0").endswith(b";"))


def _webp_chunks(content: bytes) -> Iterator[_Part]:
    position = 12
    while position + 8 <= len(content):
        length = int.from_bytes(content[position + 4 : position + 8], "little")
        begin, position = position, position + 8 + length + length % 2
        yield content[begin : begin + 4], begin, position


def _webp(content: bytes, name: str) -> PictureFile:
    """Keep what is drawn, of an animation the first frame, and what an extended file says of itself."""
    kept: list[bytes] = []
    about = {b"EXIF": b"", b"XMP ": b"", b"ANMF": b""}
    for kind, begin, end in _counted(_webp_chunks(content), name):
        chunk = content[begin:end]
        if kind == b"VP8X":
            flags = bytes([chunk[8] & ~0x2C]) if len(chunk) > 8 else b""  # profile, EXIF and XMP are no longer there
            kept.append(chunk[:8] + flags + chunk[9:])
        elif kind in (b"VP8 ", b"VP8L", b"ALPH", b"ANIM") or (kind == b"ANMF" and not about[kind]):
            kept.append(chunk)
        if kind in about:
            about[kind] = about[kind] or chunk
    width, height = _webp_size(kept[0] if kept else b"")
    if width * height > _MOST_WEBP_PIXELS:
        raise ImageTooLarge(
            f"{name} is a WebP of {width} × {height} pixels, more than the limit of {_MOST_WEBP_PIXELS:,}:"
            " scale it down first, or save it as JPEG"
        )
    pixels = b"".join(kept)
    whole = b"RIFF" + struct.pack("<I", len(pixels) + 4) + b"WEBP" + pixels
    orientation = _orientation(about[b"EXIF"][8:], about[b"XMP "])
    length = int.from_bytes(content[4:8], "little") + 8
    return PictureFile("WEBP", io.BytesIO(whole), orientation, lambda: length > len(content))


def _webp_size(first: bytes) -> tuple[int, int]:
    """Return width and height by the first chunk; Pillow takes memory for the pixels as soon as it opens the file."""
    if first.startswith(b"VP8X"):
        return int.from_bytes(first[12:15], "little") + 1, int.from_bytes(first[15:18], "little") + 1
    if first.startswith(b"VP8L"):
        sides = int.from_bytes(first[9:13], "little")
        return (sides & 0x3FFF) + 1, (sides >> 14 & 0x3FFF) + 1
    return int.from_bytes(first[14:16], "little") & 0x3FFF, int.from_bytes(first[16:18], "little") & 0x3FFF


def _bmp(stream: BinaryIO, head: bytes, name: str) -> PictureFile:
    """Pass a BMP on as it is, which has no metadata, unless it has run lengths: Pillow decodes those in Python."""
    pixels: BinaryIO = stream
    header, width, height, _, _, compression = struct.unpack("<IiihhI", head[14:34].ljust(20, b"\0"))
    if header >= 40 and compression in (1, 2):
        if abs(width * height) > _MOST_RLE_PIXELS:
            raise _refused(name, f"is a BMP with run lengths and more than {_MOST_RLE_PIXELS:,} pixels")
        # Two bytes a pixel is the longest that run lengths come to, with an end of each line and of the picture.
        pixels = io.BytesIO(stream.read(2**17 + 2 * abs(width * height) + 2 * abs(height)))
    length = int.from_bytes(head[2:6], "little")
    return PictureFile("BMP", pixels, ends_early=lambda: length > stream.seek(0, io.SEEK_END))


_TIFF_SIZES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_TIFF_INTEGERS: Final = {1: "u1", 3: "u2", 4: "u4", 8: "i2", 9: "i4", 13: "u4", 16: "u8"}
_TIFF_PIXEL_TAGS: Final = frozenset(
    (
        *(254, 256, 257, 258, 259, 262, 266, 273, _ORIENTATION, 277, 278, 279, 284),  # size, bits, colours, strips
        *(292, 293, 317, 320, 322, 323, 324, 325, 332, 338, 339),  # packing, palette, tiles, alpha, kinds of numbers
        *(347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532),  # JPEG inside
        *(32995, 32996, 32997, 32998, 50674),  # old names of these, and the parameters of one packing
    )
)
_XMP: Final = 700


@dataclass(frozen=True, slots=True)
class _Tag:
    number: int
    kind: int
    count: int
    content: bytes  # where it fits in place, else empty
    offset: int
    entry: bytes

    @property
    def size(self) -> int:
        return self.count * _TIFF_SIZES.get(self.kind, 0)


class _Layout:
    """How a TIFF, or the EXIF that is made like one, writes its first directory."""

    def __init__(self, order: str, *, is_big: bool) -> None:
        self._order = order
        self.count = struct.Struct(order + ("Q" if is_big else "H"))
        self.entry = struct.Struct(order + ("HHQ8s" if is_big else "HHI4s"))
        self.pointer = struct.Struct(order + ("Q" if is_big else "I"))

    def tags(self, stream: BinaryIO, position: int) -> list[_Tag]:
        """Return the directory at a position, as far as it is there."""
        stream.seek(position)
        raw = stream.read(self.count.size)
        if len(raw) < self.count.size:
            return []
        step = self.entry.size
        entries = stream.read(min(*self.count.unpack(raw), 0xFFFF) * step)
        tags = []
        for start in range(0, len(entries) // step * step, step):
            entry = entries[start : start + step]
            number, kind, count, value = self.entry.unpack(entry)
            size = count * _TIFF_SIZES.get(kind, 0)
            (offset,) = self.pointer.unpack(value)
            tags.append(_Tag(number, kind, count, value[:size] if size <= len(value) else b"", offset, entry))
        return tags

    def integers(self, stream: BinaryIO, tag: _Tag | None) -> np.ndarray:
        """Return a tag's whole numbers; none where it has none, or lies outside of the file."""
        if tag is None or tag.kind not in _TIFF_INTEGERS:
            return np.empty(0, np.int64)
        size = _TIFF_SIZES[tag.kind]
        content = tag.content or _read_at(stream, tag.offset, min(tag.count, _MOST_TIFF_VALUES) * size)
        return np.frombuffer(content[: len(content) // size * size], self._order + _TIFF_INTEGERS[tag.kind])


def _read_at(stream: BinaryIO, offset: int, size: int) -> bytes:
    stream.seek(min(offset, 2**62))
    return stream.read(size)


def _tiff(stream: BinaryIO, name: str) -> PictureFile:
    """Let the decoder see a first directory that holds what makes pixels, and no further one."""
    head = stream.read(16)
    is_big = head[2:3] == b"+"
    layout = _Layout("<" if head[:2] == b"II" else ">", is_big=is_big)
    (directory,) = layout.pointer.unpack(head.ljust(16, b"\0")[slice(8, 16) if is_big else slice(4, 8)])
    length = stream.seek(0, io.SEEK_END)
    tags = layout.tags(stream, directory) if directory < length else []
    kept = {tag.number: tag for tag in tags if tag.number in _TIFF_PIXEL_TAGS}
    outside = [tag.number for tag in kept.values() if not tag.content and tag.offset + tag.size > length]
    if outside:
        raise DamagedImage(f"{name} is a TIFF whose tag {outside[0]} lies outside of the file; replace the file")
    if any(tag.count > _MOST_TIFF_VALUES for tag in kept.values()):
        raise _refused(name, f"has more than {_MOST_TIFF_VALUES:,} strips or tiles")
    width, height, across, down = (
        layout.integers(stream, kept.get(number))[:1].sum() for number in (256, 257, 322, 323)
    )
    if int(across) * int(down) > max(_MOST_TILE_PIXELS, 4 * int(width) * int(height)):
        raise _refused(name, f"has tiles of {across} × {down} pixels for a picture of {width} × {height}")
    entries = [tag.entry for tag in kept.values()]
    patch = layout.count.pack(len(entries)) + b"".join(entries) + bytes(layout.pointer.size)
    xmp = next((tag for tag in tags if tag.number == _XMP and _ORIENTATION not in kept), None)
    text = _read_at(stream, xmp.offset, min(xmp.count, _MOST_TEXT)) if xmp else b""
    seen = _replaced(stream, begin=directory, end=directory + len(patch), by=patch)
    return PictureFile("TIFF", seen, _orientation(b"", text), lambda: _end_of_pixels(layout, stream, kept) > length)


def _end_of_pixels(layout: _Layout, stream: BinaryIO, tags: dict[int, _Tag]) -> int:
    """Return where the last strip or tile ends, as the file says; far away where there are none."""
    end = 0 if tags else 2**64
    for offsets, sizes in ((273, 279), (324, 325)):
        begins, lengths = (layout.integers(stream, tags.get(number)).astype(np.int64) for number in (offsets, sizes))
        several = min(len(begins), len(lengths))
        end = max(end, int((begins[:several] + lengths[:several]).max(initial=0)))
    return end


class _Replaced(io.RawIOBase):
    """A file with some bytes in the place of others; the file itself stays as it is, and no copy is made of it."""

    def __init__(self, stream: BinaryIO, *, begin: int, end: int, by: bytes) -> None:
        self._stream = stream
        self._begin = begin
        self._patch = by
        self._shift = end - begin - len(by)  # from here to there, behind what is replaced
        self._length = stream.seek(0, io.SEEK_END) - self._shift
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._position = offset + (0, self._position, self._length)[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def readall(self) -> bytes:
        """Return the rest at once, where the method that is inherited would read 8 KiB at a time."""
        rest = memoryview(bytearray(max(0, self._length - self._position)))
        count = 0
        while more := self.readinto(rest[count:]):
            count += more
        return bytes(rest[:count])

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        """Read from one file or the other, and return how much that was."""
        inside = self._position - self._begin
        if 0 <= inside < len(self._patch):
            content = self._patch[inside : inside + len(buffer)]
            buffer[: len(content)] = content
            count = len(content)
        else:
            self._stream.seek(self._position + (self._shift if inside >= 0 else 0))
            part = memoryview(buffer)[: -inside if inside < 0 else None]
            count = self._stream.readinto(part)  # type: ignore[attr-defined]
        self._position += count
        return count


def _replaced(stream: BinaryIO, *, begin: int, end: int, by: bytes) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(_Replaced(stream, begin=begin, end=end, by=by)))


def _orientation(exif: bytes, xmp: bytes) -> int:
    """Return the orientation that EXIF tells, or else XMP; 1, upright, where neither can be read."""
    while exif.startswith(b"Exif\0\0"):
        exif = exif[6:]
    said = None
    if exif[:4] in (b"II*\0", b"MM\0*"):
        layout = _Layout("<" if exif[:2] == b"II" else ">", is_big=False)
        stream = io.BytesIO(exif)
        (position,) = layout.pointer.unpack(exif[4:8].ljust(4, b"\0"))
        tag = next((tag for tag in reversed(layout.tags(stream, position)) if tag.number == _ORIENTATION), None)
        said = next(iter(layout.integers(stream, tag).tolist()), None)
    if said is None:
        found = _XMP_ORIENTATION.search(xmp, 0, _MOST_TEXT)
        said = int(found[1]) if found else 1
    return said if 1 <= said <= 8 else 1
