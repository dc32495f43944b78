"""How plots look and how they become files: one style, text that is only ever text.

Colours are Okabe and Ito's, which tell apart under every kind of colour blindness; every line also has a marker or a
stroke of its own. The background is white, so that a plot reads on a dark page as well.
"""

import io
import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from retrieval.terminal import printable
from retrieval.voting import METHODS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PINK, INK = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#333333"
STROKES: Final = dict(zip(METHODS, [(BLUE, "-"), (ORANGE, "--"), (GREEN, "-."), (PINK, ":")], strict=True))
LONGEST_NAME: Final = 32
_DOTS_PER_INCH: Final = 150


def as_svg(figure: "Figure") -> str:
    """Return a figure as SVG: text as outlines, the same text for the same figure."""
    return _saved(figure, "svg", metadata={"Date": None}).decode()


def as_png(figure: "Figure") -> bytes:
    """Return a figure as PNG."""
    return _saved(figure, "png", dpi=_DOTS_PER_INCH)


@contextmanager
def drawing(
    inches: tuple[float, float], title: str = "", *, rows: tuple[int, ...] = ()
) -> Iterator[tuple["Figure", Any]]:
    """Give a figure with one pair of axes, or with several above each other of relative heights.

    Args:
        inches: width and height.
        title: of a single pair of axes, in characters that the font has.
        rows: heights of several.
    """
    from matplotlib.figure import Figure

    with _style():
        figure = Figure(figsize=inches, layout="constrained")
        if rows:
            yield figure, figure.subplots(len(rows), 1, sharex=True, height_ratios=rows)
        else:
            axes = figure.subplots()
            axes.set_title(title)
            yield figure, axes


def _style() -> AbstractContextManager[None]:
    """Return a context in which figures are made and saved: ticks get their texts only then."""
    import matplotlib

    return matplotlib.rc_context(
        {
            "text.parse_math": False,  # a label such as $\frac is text
            "font.family": "DejaVu Sans",  # comes with matplotlib, so that plots are the same everywhere
            "font.size": 9.0,
            "axes.titlesize": 10.0,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": "#e3e6ec",
            "axes.axisbelow": True,
            "legend.frameon": False,
            "svg.fonttype": "path",
            "svg.hashsalt": "visual-memory-agent",  # names inside the file are the same whenever it is written
        }
    )


def _saved(figure: "Figure", kind: str, **options: Any) -> bytes:  # noqa: ANN401
    encoded = io.BytesIO()
    with _style():
        figure.savefig(encoded, format=kind, facecolor="white", **options)
    return encoded.getvalue()


def plain_numbers(axes: "Axes") -> None:
    """Write the numbers of logarithmic axes out: powers would need the mathematical text that is switched off."""
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda number, place: f"{number:,.0f}" if number >= 1 else f"{number:g}")
        axis.set_minor_formatter(lambda number, place: "")


def readable(name: str) -> str:
    """Return a name on one line, in characters that the font has."""
    has = _characters()
    return "".join(c if ord(c) in has else "�" for c in printable(name, longest=LONGEST_NAME))


def slugs(names: Iterable[str]) -> list[str]:
    """Return the names as names of files or folders, each another one."""
    slugs: list[str] = []
    for name in names:
        slug = re.sub(r"[^A-Za-z0-9_.-]+", "-", name)[:LONGEST_NAME].lstrip(".") or "-"
        while slug in slugs:
            slug += "-"
        slugs.append(slug)
    return slugs


@lru_cache(maxsize=1)
def _characters() -> frozenset[int]:
    from matplotlib.font_manager import findfont
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(findfont("DejaVu Sans")).get_charmap())
