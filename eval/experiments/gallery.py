"""Pictures side by side with a line below each, as in the paper's Figures 5, 6, 16 and 17."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from eval.report.plots import drawing, readable
from retrieval.images import shown_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Pictures = Callable[[Sequence[str]], list[bytes | None]]  # ids → encoded pictures; None where there is none
_SIDE: Final = 192  # pixels: 1.28 inches at 150 dots, the width of a tile
_INCHES: Final = 1.28
_CAPTION: Final = 0.42  # height of the lines below a tile, in tiles
_HEADING: Final = 0.3  # height of a section's headings, in tiles
_LONGEST_LINE: Final = 22  # characters that fit below a tile
_GREY: Final = "#e3e6ec"


@dataclass(frozen=True, slots=True)
class Tile:
    """One picture of a gallery."""

    id: str
    lines: tuple[str, ...]  # below it: two at most
    picture: bytes | None = None  # encoded
    edge: str | None = None  # colour of its frame


def fetch(pictures: Pictures | None, ids: Sequence[str]) -> dict[str, bytes]:
    """Return the pictures that can be had, by id."""
    if pictures is None or not ids:
        return {}
    wanted = list(dict.fromkeys(ids))
    return {name: picture for name, picture in zip(wanted, pictures(wanted), strict=True) if picture is not None}


@dataclass(frozen=True, slots=True)
class Section:
    """Rows of tiles under common headings."""

    headings: Sequence[str]
    rows: Sequence[Sequence[Tile]]


def draw_gallery(*sections: Section, title: str = "") -> "Figure":
    """Draw sections below each other; a tile without a usable picture is grey and shows its id."""
    width = max(len(section.headings) for section in sections)
    height = sum(_HEADING + (1 + _CAPTION) * len(section.rows) for section in sections)
    with drawing((_INCHES * width, _INCHES * height + 0.3 * bool(title)), title) as (figure, axes):
        top = 0.0
        for section in sections:
            top += _HEADING
            for column, heading in enumerate(section.headings):
                axes.text(column + 0.5, top - 0.08, _line(heading), ha="center", va="bottom", fontsize=8, weight="bold")
            for row in section.rows:
                for column, tile in enumerate(row):
                    _draw_tile(axes, column, top, tile)
                top += 1 + _CAPTION
        axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
        axes.axis("off")
    return figure


def _draw_tile(axes: "Axes", left: float, top: float, tile: Tile) -> None:
    from matplotlib.patches import Rectangle

    pixels = shown_picture(tile.picture, longest_side=_SIDE)
    if pixels is None:
        axes.text(left + 0.5, top + 0.5, readable(tile.id)[-_LONGEST_LINE:], ha="center", va="center", fontsize=6)
    else:
        wide, high = (0.94 * side / max(pixels.size) for side in pixels.size)
        x, y = left + 0.5 - wide / 2, top + 0.5 - high / 2
        axes.imshow(pixels, extent=(x, x + wide, y + high, y), interpolation="antialiased", zorder=2)
    frame = Rectangle((left + 0.03, top + 0.03), 0.94, 0.94, lw=2 if tile.edge else 0, edgecolor=tile.edge or _GREY,
                      facecolor=_GREY if pixels is None else "none", zorder=3 if pixels is not None else 0)  # fmt: skip
    axes.add_patch(frame)
    for number, line in enumerate(tile.lines):
        axes.text(left + 0.5, top + 1.08 + 0.14 * number, _line(line), ha="center", va="center", fontsize=7)


def _line(text: str) -> str:
    shown = readable(text)
    return shown if len(shown) <= _LONGEST_LINE else shown[: _LONGEST_LINE - 1] + "…"
