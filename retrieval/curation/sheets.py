"""Pictures side by side with lines of text below each, as one PNG or one HTML file, to be looked at by people."""

import base64
import html
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from markupsafe import Markup

from retrieval.curation.explaining import Attribution
from retrieval.errors import InvalidArgument
from retrieval.images import shown_picture, thumbnail
from retrieval.storage.places import writing
from retrieval.support.html import Shown, grid, label_words, more, picture_tile, text_line
from retrieval.support.terminal import printable
from retrieval.types import Neighbor
from retrieval.view import MemoryView

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

    Font = FreeTypeFont | ImageFont


SUFFIXES: Final = (".png", ".html")
COLUMNS: Final = 6  # tiles that stand side by side
_SIDE: Final = 160  # pixels of a picture
_GAP: Final = 12  # pixels around a tile
_LINE: Final = 16  # pixels that a line of text takes
_FONT: Final = 12
_LONGEST: Final = 200  # characters of a line that are looked at
_WIDTH: Final = _GAP + COLUMNS * (_SIDE + _GAP)  # pixels of a PNG
_MOST_LINES: Final = 250  # rows of a PNG, some 60,000 pixels: higher ones many viewers refuse
_GREY: Final = "#e3e6ec"
_STYLE: Final = (
    "body{font:13px sans-serif;margin:1em;background:#fff;color:#222}"
    f"section{{display:grid;grid-template-columns:repeat({COLUMNS},{_SIDE}px);gap:{_GAP}px}}"
    f"section{{border-top:1px solid {_GREY};padding:{_GAP}px 0}}"
    f"figure{{margin:0}}img,.none{{width:{_SIDE}px;height:{_SIDE}px;object-fit:contain;background:{_GREY}}}"
    "figcaption{overflow-wrap:anywhere}"
)


@dataclass(frozen=True, slots=True)
class Tile:
    """A picture and what stands below it."""

    picture: bytes | None  # encoded; None where there is none to be had
    lines: tuple[str, ...]


def write_sheet(path: Path, title: str, rows: Sequence[Sequence[Tile]]) -> None:
    """Write rows of tiles to a file, as PNG or HTML by its ending; texts may hold anything and stay texts.

    A PNG has boxes for other letters than basic Latin ones: Pillow's own font, which is everywhere, has no more.

    Raises:
        InvalidArgument: another ending, or more than a PNG can hold.
        StorageError: the disk refuses.
    """
    check_sheet(path)
    with writing(path):
        if path.suffix.lower() == ".html":
            path.write_text(_page(title, rows), encoding="utf-8", errors="replace")
        else:
            _drawing(title, rows).save(path, "PNG")


def check_sheet(path: Path) -> None:
    """Raise InvalidArgument unless the file's ending is one of ``SUFFIXES``: before anything slow is done for it."""
    if path.suffix.lower() not in SUFFIXES:
        raise InvalidArgument(f"{path} ends with {path.suffix or 'nothing'}: a sheet of pictures is .png or .html")


def _page(title: str, rows: Sequence[Sequence[Tile]]) -> str:
    def text(words: str) -> str:
        return html.escape(printable(words))

    def figure(tile: Tile) -> str:
        image, shown = shown_picture(tile.picture, longest_side=_SIDE), '<div class="none"></div>'
        if image is not None:
            encoded = base64.b64encode(thumbnail(image, longest_side=_SIDE)).decode()
            shown = f'<img alt="" src="data:image/jpeg;base64,{encoded}">'
        return f"<figure>{shown}<figcaption>{'<br>'.join(map(text, tile.lines))}</figcaption></figure>"

    sections = "\n".join(f"<section>{''.join(map(figure, row))}</section>" for row in rows)
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="Content-Security-Policy"'
        f' content="{policy}"><title>{text(title)}</title><style>{_STYLE}</style><h1>{text(title)}</h1>\n{sections}\n'
    )


def _drawing(title: str, rows: Sequence[Sequence[Tile]]) -> "Image":
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(_FONT)
    lines = [(row[start : start + COLUMNS], start == 0) for row in rows for start in range(0, len(row), COLUMNS)]
    if len(lines) > _MOST_LINES:
        raise InvalidArgument(f"{len(lines)} rows of pictures are too many for a PNG: write .html, or show fewer")
    heights = [_SIDE + _LINE * max(len(tile.lines) for tile in line) + 2 * _GAP for line, _ in lines]
    sheet = Image.new("RGB", (_WIDTH, 2 * _GAP + _LINE + sum(heights)), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((_GAP, _GAP), _fitting(title, font, _WIDTH - 2 * _GAP), "black", font)
    top = 2 * _GAP + _LINE
    for (line, is_first), height in zip(lines, heights, strict=True):
        if is_first:
            pen.line((0, top, _WIDTH, top), _GREY)
        _draw_line(sheet, pen, line, top + _GAP, font)
        top += height
    return sheet


def _draw_line(sheet: "Image", pen: "ImageDraw", tiles: Sequence[Tile], top: int, font: "Font") -> None:
    for place, tile in enumerate(tiles):
        left = _GAP + place * (_SIDE + _GAP)
        image = shown_picture(tile.picture, longest_side=_SIDE)
        if image is None:
            pen.rectangle((left, top, left + _SIDE, top + _SIDE), _GREY)
        else:
            sheet.paste(image, (left + (_SIDE - image.width) // 2, top + (_SIDE - image.height) // 2))
        for number, line in enumerate(tile.lines):
            pen.text((left, top + _SIDE + 2 + number * _LINE), _fitting(line, font, _SIDE), "black", font)


def _fitting(text: str, font: "Font", width: int) -> str:
    """Return as much of a text as fits a width, on one line; it ends in "…" where it was cut."""
    shown = printable(text, longest=_LONGEST)
    if font.getlength(shown) <= width:
        return shown
    while shown and font.getlength(shown + "…") > width:
        shown = shown[:-1]
    return shown + "…"


_SHOWN: Final = 24
_REMOVED: Final = "✕ taken out"  # in words too, since not everybody tells colours apart


def show_items(memory: MemoryView, ids: Sequence[str], lines: Sequence[str] = ()) -> Shown:
    """Return items of a memory as pictures with their labels, to be looked at in a notebook.

    Args:
        memory: where they lie.
        ids: of the items.
        lines: a line of text below each.
    """
    shown = ids[:_SHOWN]
    texts = [[text] for text in lines[: len(shown)]] or [[]] * len(shown)
    return Shown(grid(item_tiles(memory, shown, texts)) + more(len(ids) - len(shown), "item"))


def show_attribution(memory: MemoryView, neighbors: Sequence[Neighbor], found: Attribution) -> Shown:
    """Return the neighbours that voted with what each does to the winner's lead, and those that turn the vote framed.

    Args:
        memory: where the neighbours' pictures lie.
        neighbors: as `retrieval.curation.explaining.explain` gives them.
        found: what it found.
    """
    removed = found.flip.removed if found.flip else ()
    places = [*range(len(found.effects)), *(place for place in removed if place >= len(found.effects))][:_SHOWN]
    texts = [
        [f"lead {0.0 - 100 * found.effects[place]:+.1f}" if place < len(found.effects) else "did not vote"]
        + [_REMOVED] * (place in removed)
        for place in places
    ]
    ids = [neighbors[place].id for place in places]
    tiles = item_tiles(memory, ids, texts, marked={neighbors[place].id for place in removed})
    lead = Markup("<div><b>{}</b> leads by {} % of the vote; below each neighbour: how that changes without it.</div>")
    turn = text_line("Taking out any of those that were looked at does not turn the vote.")
    if found.flip:
        told = Markup("<div>Without those framed ({}) it is <b>{}</b>; no smaller set turns the vote.</div>")
        turn = told.format(len(removed), label_words(found.flip.label))
    return Shown(lead.format(label_words(found.label), f"{100 * found.margin:.1f}") + grid(tiles) + turn)


def item_tiles(
    memory: MemoryView, ids: Sequence[str], texts: Sequence[Sequence[str]], *, marked: Collection[str] = ()
) -> list[Markup]:
    """Return items as pictures with their labels and some lines of text below each, those that are marked framed."""
    rows = memory.snapshot().rows
    slots = rows.find(list(ids))
    labels = iter(rows.labels(slots[slots >= 0]).tolist())
    named = [label_words(next(labels)) if there else Markup("<i>gone</i>") for there in (slots >= 0).tolist()]
    return [
        picture_tile(picture, [label, *lines], marked=item in marked)
        for item, picture, label, lines in zip(ids, memory.thumbnails(ids), named, texts, strict=True)
    ]
