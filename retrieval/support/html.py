"""Results as HTML for notebooks: inline styles that suit light and dark themes, no script, untrusted text as text."""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from typing import Any, Final, Protocol

from markupsafe import Markup, escape

from retrieval.images import shown_picture, thumbnail
from retrieval.labels import full_name
from retrieval.support.terminal import printable
from retrieval.types import Label, Neighbors

EVIDENCE: Final = "★ evidence"  # in words too, since not everybody tells colours apart
SHOWN_NEIGHBORS: Final = 10
TILE_PIXELS: Final = 96  # longest side of a neighbour's picture; a query's is half as long again
_SHOWN_QUERIES: Final = 3
_SHOWN_RECORDS: Final = 20
_QUALITY: Final = 75  # of JPEG, as on the pages of runs: half the bytes of 85, and as good at this size
_LINE: Final = "1px solid rgba(128,128,128,.4)"
_CELL: Final = "padding:2px 10px 2px 0;vertical-align:top;overflow-wrap:anywhere;text-align:"
_TABLE: Final = f"border-collapse:collapse;margin:4px 0 10px;border-bottom:{_LINE};font-variant-numeric:tabular-nums"
_ORANGE, _GREY = "#d97706", "rgba(128,128,128,.3)"  # seen on white and on black


class Displayed(Protocol):
    """What shows itself in a notebook."""

    def _repr_html_(self) -> str: ...


@dataclass(frozen=True, slots=True, repr=False)
class Shown:
    """Something to be looked at in a notebook."""

    html: Markup

    def _repr_html_(self) -> str:
        return str(self.html)

    def __repr__(self) -> str:
        return f"<pictures or tables, {len(self.html):,} characters of HTML: a notebook shows them>"


def words(text: object, *, longest: int = 200) -> Markup:
    """Return untrusted text as HTML: on one line, without control or bidirectional characters, cut to a length."""
    return escape(printable(text, longest=longest))


def label_words(label: Label) -> Markup:
    """Return a label as HTML, after the name that it is called by where that is another."""
    return words(full_name(label) if isinstance(label, str) else label)


def heading(text: object) -> Markup:
    """Return a line that stands above a table or pictures."""
    return Markup('<div style="font-weight:600;margin:8px 0 2px">{}</div>').format(words(text, longest=500))


def text_line(text: object) -> Markup:
    """Return a sentence as a line of its own."""
    return Markup('<div style="margin:2px 0">{}</div>').format(words(text, longest=1000))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, caption: str = "") -> Markup:
    """Return a table; cells that are numbers stand to the right, and each row's first cell is its header."""
    head = Markup("").join(
        Markup('<th scope="col" style="{}left;border-bottom:{}">{}</th>').format(_CELL, _LINE, words(column))
        for column in columns
    )
    lines = (Markup("").join(_cell(cell, first=not place) for place, cell in enumerate(row)) for row in rows)
    body = Markup("").join(Markup("<tr>{}</tr>").format(cells) for cells in lines)
    told = Markup('<caption style="text-align:left;font-weight:600">{}</caption>').format(words(caption))
    return Markup('<table style="{}">{}<thead><tr>{}</tr></thead><tbody>{}</tbody></table>').format(
        _TABLE, told if caption else "", head, body
    )


def _cell(cell: object, *, first: bool) -> Markup:
    number = isinstance(cell, int | float) and not isinstance(cell, bool)
    shown = f"{cell:.3f}" if isinstance(cell, float) else f"{cell:,}" if number else cell
    told = cell if isinstance(cell, Markup) else words(shown)
    form = '<th scope="row" style="{}{};font-weight:inherit">{}</th>' if first else '<td style="{}{}">{}</td>'
    return Markup(form).format(_CELL, "right" if number else "left", told)


def picture_tile(
    encoded: bytes | None, lines: Sequence[object], *, pixels: int = TILE_PIXELS, marked: bool = False
) -> Markup:
    """Return a picture with lines of text below it, framed where it is marked; a grey box where there is no picture.

    Args:
        encoded: the picture as kept, or None.
        lines: texts, or HTML made here.
        pixels: its longest side.
        marked: whether it stands out.
    """
    told = Markup("<br>").join(text if isinstance(text, Markup) else words(text, longest=80) for text in lines)
    style = f"box-sizing:border-box;width:100%;aspect-ratio:1;border:3px solid {_ORANGE if marked else 'transparent'}"
    return Markup(
        '<figure style="width:{}px;margin:0;font-size:12px;line-height:1.35;overflow-wrap:anywhere">'
        "{}<figcaption>{}</figcaption></figure>"
    ).format(pixels, _drawn(encoded, pixels, style), told)


def _drawn(encoded: bytes | None, pixels: int, style: str) -> Markup:
    image = shown_picture(encoded, longest_side=pixels)
    if image is None:
        return Markup('<div role="img" aria-label="no picture" style="{};background:{}"></div>').format(style, _GREY)
    small = base64.b64encode(thumbnail(image, longest_side=pixels, quality=_QUALITY)).decode()
    return Markup(
        '<img alt="" src="data:image/jpeg;base64,{}" style="display:block;margin:0;object-fit:contain;{}">'
    ).format(small, style)


def grid(tiles: Iterable[Markup]) -> Markup:
    """Return tiles side by side, in as many rows as the width asks for."""
    return Markup('<div style="display:flex;flex-wrap:wrap;gap:10px;margin:4px 0 10px">{}</div>').format(
        Markup("").join(tiles)
    )


def neighbors_html(neighbors: Neighbors) -> str:
    """Return the nearest neighbours of the first queries of a batch."""
    nearest, queries = neighbors.nearest(SHOWN_NEIGHBORS), len(neighbors)
    shown = [
        table(
            ("rank", "label", "id", "distance"),
            [(rank, label_words(one.label), one.id, float(one.distance)) for rank, one in enumerate(nearest[query], 1)],
            caption=f"Query {query + 1:,} of {queries:,}: the nearest of {neighbors.k:,}",
        )
        for query in range(min(queries, _SHOWN_QUERIES))
    ]
    return str(Markup("").join([*shown, more(queries - _SHOWN_QUERIES, "query", "queries")]))


def more(number: int, thing: str, things: str = "") -> Markup:
    """Say that so many things are not shown; nothing where all are."""
    named = thing if number == 1 else things or f"{thing}s"
    return text_line(f"… {number:,} more {named}") if number > 0 else Markup("")


def side_by_side(*things: Displayed) -> Shown:
    """Return things that show themselves in columns that scroll; below each other where there is no room."""
    column = Markup(
        '<div style="flex:1 1 320px;min-width:0;max-height:800px;overflow:auto;padding:0 8px;border:{}">{}</div>'
    )
    columns = Markup("").join(column.format(_LINE, Markup(thing._repr_html_())) for thing in things)
    return Shown(Markup('<div style="display:flex;flex-wrap:wrap;gap:10px">{}</div>').format(columns))


def show_records(records: Iterable[Any], *, most: int = _SHOWN_RECORDS) -> Shown:
    """Return dataclasses of one kind, such as the versions of a memory, as a table of their fields."""
    every = [record for record in records if is_dataclass(record)]
    columns = [one.name for one in fields(every[0])] if every else ["nothing"]
    rows = [[_plain(getattr(record, column)) for column in columns] for record in every[:most]]
    return Shown(table(columns, rows) + more(len(every) - most, "row"))


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value))
    return "" if value is None else value
