"""How plots look and how they become files: one style, white ground, text that is only ever text."""

import io
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from retrieval.terminal import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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


def readable(name: str) -> str:
    """Return a name on one line, in characters that the font has."""
    has = _characters()
    return "".join(c if ord(c) in has else "�" for c in printable(name, longest=LONGEST_NAME))


@lru_cache(maxsize=1)
def _characters() -> frozenset[int]:
    from matplotlib.font_manager import findfont
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(findfont("DejaVu Sans")).get_charmap())
