"""Neighbours on numbered contact sheets: one picture to send in the place of dozens.

How large is a sheet? Gemini's older models count 258 tokens for each 768 × 768 pixels that a picture above 384 pixels
takes; Gemini 3 spends a fixed number on a picture, 1,120 unless told otherwise, however large it is. So a sheet is
1,536 pixels at most on either side: four of the former's squares, about one token to 46 × 46 pixels in the latter.
Fifty neighbours on five rows of ten then have tiles of 149 pixels, and cost as much as four pictures, or as one, did.
A tile is never larger than a thumbnail is kept: enlarging adds tokens and shows nothing.

Labels stand beneath the tiles where they can be read there. One that does not fit on two lines, or holds more than
ASCII, for which Pillow's own font has boxes, is left to the prompt's text.
"""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from PIL import Image, ImageDraw

from prompts.template import Layout
from prompts.types import ImagePart
from retrieval.errors import ImageError
from retrieval.images import decode

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

_SHEET_PIXELS: Final = 1536  # the longest side
_TILE_PIXELS: Final = 224  # of a kept thumbnail, see retrieval.memory.THUMBNAIL_PIXELS
_GAP: Final = 4  # pixels around a tile
_FONT_PIXELS: Final = 16  # read at this size by people, and the patches of vision models are 14 to 16 pixels
_LINE: Final = 20  # pixels that a line of text takes
_MARGIN: Final = 3  # pixels beside it
_MOST_LINES: Final = 2
_GREY: Final = "#d8dbe0"
_QUALITY: Final = 85  # of JPEG, as thumbnails have


@dataclass(frozen=True, slots=True)
class Tile:
    """A neighbour on a sheet."""

    label: str
    picture: bytes | None  # encoded; None or damaged leaves a grey tile


@dataclass(frozen=True, slots=True)
class Sheet:
    """A contact sheet; its tiles are numbered from ``first`` to ``last`` and filled row by row."""

    picture: ImagePart
    first: int
    last: int


def draw_sheets(tiles: Sequence[Tile], layout: Layout, *, labels: bool) -> list[Sheet]:
    """Return the sheets that so many tiles take, the last one no larger than it must be; none without any picture.

    Args:
        tiles: neighbours, in the order of their numbers.
        layout: rows and columns of a full sheet.
        labels: whether labels stand beneath the tiles, where they `fit`.
    """
    if all(tile.picture is None for tile in tiles):
        return []
    size = layout[0] * layout[1]
    return [
        _draw(tiles[start : start + size], start + 1, layout, labels=labels) for start in range(0, len(tiles), size)
    ]


def tile_pixels(layout: Layout, *, labels: bool) -> int:
    """Return the side of a tile's picture in pixels."""
    rows, columns = layout
    caption = _MOST_LINES * _LINE if labels else 0
    return min(_TILE_PIXELS, _SHEET_PIXELS // columns - _GAP, _SHEET_PIXELS // rows - _GAP - caption)


@lru_cache(maxsize=4096)
def caption_lines(label: str, width: int) -> tuple[str, ...]:
    """Return a label on the lines that it takes beneath a tile; none where it cannot be read there."""
    if not label.isascii() or not label.isprintable():
        return ()
    lines, room = [""], width - 2 * _MARGIN
    for word in label.split():
        longer = f"{lines[-1]} {word}".strip()
        if _font().getlength(longer) <= room:
            lines[-1] = longer
        else:
            lines.append(word)
    fits = lines[0] and len(lines) <= _MOST_LINES and all(_font().getlength(line) <= room for line in lines)
    return tuple(lines) if fits else ()


def _draw(tiles: Sequence[Tile], first: int, layout: Layout, *, labels: bool) -> Sheet:
    side = tile_pixels(layout, labels=labels)
    captions = [caption_lines(tile.label, side) if labels else () for tile in tiles]
    step = side + _GAP
    row_height = step + _LINE * max(map(len, captions))
    columns = min(layout[1], len(tiles))
    canvas = Image.new("RGB", (columns * step, -(-len(tiles) // columns) * row_height), "white")
    drawn = []
    for place, (tile, caption) in enumerate(zip(tiles, captions, strict=True)):
        left, top = place % columns * step + _GAP // 2, place // columns * row_height + _GAP // 2
        canvas.paste(_GREY, (left, top, left + side, top + side))
        if _paste_picture(canvas, tile, (left, top), side) and tile.picture is not None:
            drawn.append(hashlib.sha256(tile.picture).hexdigest())
        canvas.paste(_written(str(first + place), "white", "black"), (left, top))
        for number, line in enumerate(caption):
            canvas.paste(_written(line, "black", "white"), (left, top + side + number * _LINE))
    part = ImagePart(_encoded(canvas), size=canvas.size, drawn=tuple(drawn))
    return Sheet(part, first, first + len(tiles) - 1)


def _paste_picture(canvas: Image.Image, tile: Tile, corner: tuple[int, int], side: int) -> bool:
    left, top = corner
    try:
        image = decode(tile.picture or b"")
    except ImageError:  # none is kept, or a damaged one
        canvas.paste(_written("no picture", "black", _GREY), (left + _GAP, top + side // 2))
        return False
    image.thumbnail((side, side), Image.Resampling.HAMMING)  # as thumbnails are made: half of bicubic's time
    canvas.paste(image, (left + (side - image.width) // 2, top + (side - image.height) // 2))
    return True


@lru_cache(maxsize=1024)
def _written(text: str, ink: str, paper: str) -> Image.Image:
    """Return a line of text; numbers and labels come again and again, and drawing them took a quarter of the time."""
    strip = Image.new("RGB", (round(_font().getlength(text)) + 2 * _MARGIN, _LINE), paper)
    ImageDraw.Draw(strip).text((_MARGIN, 0), text, ink, _font())
    return strip


def _encoded(canvas: Image.Image) -> bytes:
    encoded = io.BytesIO()
    canvas.save(encoded, "JPEG", quality=_QUALITY)
    return encoded.getvalue()


@lru_cache(maxsize=1)
def _font() -> "FreeTypeFont | ImageFont":
    from PIL import ImageFont

    return ImageFont.load_default(_FONT_PIXELS)
