"""A comparison in one sentence."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from eval.compare import PairedFigures, RunComparison, Side
from eval.intervals import ALPHA
from eval.power import needed_queries
from eval.wording import counted, points

_ASKED: Final = 1.0  # points: the difference for which a sentence says how many queries would tell it
_ROUNDING: Final = 1e-6  # points, less than one query of a hundred million: nothing but the error of floating point


def conclude(before: Side, other: RunComparison) -> str:
    """Say whether a run is better than the baseline over all their queries, and if that is open, what would tell.

    Names of runs stand in it as they came. Its p is adjusted for the number of runs that are compared.
    """
    figures = other.overall
    queries = counted(figures.count, "query")
    if not figures.fixed + figures.broken:
        return (
            f"{other.after.name} and {before.name} are right on the same queries: none of {figures.count:,} tells them "
            "apart."
        )
    if figures.adjusted >= ALPHA:
        return (
            f"No difference between {other.after.name} and {before.name} can be told on {queries} "
            f"({_with_interval(figures)}); {_what_would_tell(figures)}."
        )
    turned = figures if figures.difference > 0 else _turned(figures)
    direction = "better" if turned is figures else "worse"
    names = f"{other.after.name} is {direction} than {before.name}"
    return f"{names} by {_with_interval(turned)} on {queries}."


def describe_setting(setting: object) -> str:
    """Return a setting of a run as people read it; ``none`` for None."""
    if isinstance(setting, Mapping):
        return ", ".join(f"{name} {describe_setting(part)}" for name, part in setting.items())
    return "none" if setting in (None, "") else str(setting)


def format_difference(figures: PairedFigures) -> tuple[str, str]:
    """Return a difference with its sign, and its interval, as ``+1.2`` and ``0.3 to 2.1``.

    They have as many decimals as it takes for no difference, and no end of the interval, to look like none.
    """
    numbers = (figures.difference, *figures.difference_interval)
    smallest = min((abs(number) for number in numbers if abs(number) > _ROUNDING), default=1.0)
    decimals = max(1, math.ceil(-math.log10(smallest)))
    low, high = (f"{end:.{decimals}f}" for end in figures.difference_interval)
    return f"{figures.difference:+.{decimals}f}", f"{low} to {high}"


def format_p(p: float) -> str:
    """Return a p to three decimals, as ``p = 0.002`` or ``p < 0.001``."""
    return f"p = {p:.3f}" if p >= 0.001 else "p < 0.001"


def _what_would_tell(figures: PairedFigures) -> str:
    share = figures.discordant
    if share < _ASKED:
        return f"they differ in being right on {share:.2g} % of the queries only, too few for {points(_ASKED)}"
    needed = needed_queries(difference=_ASKED, discordant=share)
    if needed <= figures.count:
        return f"so many would most likely have told {points(_ASKED)}"
    about = counted(int(float(f"{needed:.2g}")), "query")
    return f"to tell {points(_ASKED)} you would need about {about}"


def _turned(figures: PairedFigures) -> PairedFigures:
    low, high = figures.difference_interval
    return replace(figures, difference=-figures.difference, difference_interval=(-high, -low))


def _with_interval(figures: PairedFigures) -> str:
    difference, interval = format_difference(figures)
    told = points(float(difference), f".{len(difference.partition('.')[2])}f")
    return f"{told}, 95 % interval {interval}, {format_p(figures.adjusted)}"
