"""Figure 3 and appendix F: how the error falls as a memory grows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float

from eval.experiments.base import Analysis, Axes, Row, plotted, right_by_k
from eval.experiments.embedded import MOST_NEIGHBORS, Embedded, class_order
from eval.metrics.votes import percent
from eval.report.plots import BLUE, GREEN, INK, ORANGE, PINK, readable
from eval.types import Percent
from retrieval.errors import InvalidArgument
from retrieval.voting import DEFAULT_METHOD

FRACTIONS: Final = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
PUBLISHED_SIZES: Final = (1e3, 1e9)  # for which appendix F gives its fits
PUBLISHED_ONE_EACH: Final = (1000, 41.0)  # items and error in percent of DINOv2 ViT-L14 (section 3.2)
_STROKES: Final = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "D"), (PINK, "^"), (INK, "v"))


@dataclass(frozen=True, slots=True)
class Fit:
    """log10(error in %) = slope · log10(log10(items)) + offset: the form of appendix F."""

    slope: float
    offset: float

    def error(self, items: Float[np.ndarray, " sizes"]) -> Float[np.ndarray, " sizes"]:
        """Return the error in percent of memories of some sizes."""
        errors: np.ndarray = 10.0 ** (self.slope * np.log10(np.log10(items)) + self.offset)
        return errors


PUBLISHED: Final = {"DINOv2 ViT-L14": Fit(-0.9434, 2.0704), "DINOv2 ViT-S14": Fit(-1.0942, 2.3187)}  # appendix F


@dataclass(frozen=True, slots=True)
class _Size:
    items: int
    errors: list[Percent]  # of rank voting, one a repeat
    nearest: list[Percent]  # errors of the nearest neighbour alone

    @property
    def error(self) -> Percent:
        return float(np.mean(self.errors))


@dataclass(frozen=True, slots=True)
class _Measured:
    embedder: str
    sizes: list[_Size]
    fit: Fit | None

    def rows(self) -> list[Row]:
        return [self._row(size) for size in self.sizes]

    def _row(self, size: _Size) -> Row:
        at = np.array([size.items], float)
        inside = PUBLISHED_SIZES[0] <= size.items <= PUBLISHED_SIZES[1]
        published = [float(line.error(at)[0]) if inside else None for line in PUBLISHED.values()]
        fitted = float(self.fit.error(at)[0]) if self.fit and size.items > 1 else None
        spread = (size.error, min(size.errors), max(size.errors), float(np.mean(size.nearest)))
        return self.embedder, size.items, len(size.errors), *spread, fitted, *published

    def fall(self) -> str:
        first, last = self.sizes[0], self.sizes[-1]
        return (
            f"{self.embedder}: the error falls from {first.error:.1f} % with {first.items:,} items to "
            f"{last.error:.1f} % with {last.items:,}."
        )

    def slope(self) -> list[str]:
        if not self.fit:
            return []
        published = " and ".join(f"{line.slope:.2f}" for line in PUBLISHED.values())
        items, errors = np.array([(size.items, size.error) for size in self.sizes if size.items > 1]).T
        return [
            f"{self.embedder}'s fit has a slope of {self.fit.slope:.2f}, against the paper's {published}, and is off "
            f"by {np.abs(self.fit.error(items) - errors).max():.1f} points at most."
        ]


def memory_size(
    *memories: Embedded,
    fractions: Sequence[float] = FRACTIONS,
    repeats: int = 3,
    seed: int = 0,
    k: int = MOST_NEIGHBORS,
) -> Analysis:
    """Measure the error of rank voting with a part of each class in memory (Figure 3, appendix F).

    Parts are drawn anew in each repeat, a smaller one out of the larger; a class keeps one item at least. A point with
    one item a class comes first.

    Args:
        memories: the same queries and memory by one embedder or several.
        fractions: of each class, above 0 and at most 1.
        repeats: draws of each part that is not the whole.
        seed: of the draws.
        k: neighbours that vote.

    Raises:
        InvalidArgument: no memory, two by one embedder, a fraction out of bounds, no repeat, or no query.
    """
    _check(memories, fractions, repeats)
    measured = [_measure(embedded, fractions, repeats, seed, k) for embedded in memories]
    slopes = [sentence for one in measured for sentence in one.slope()]
    return Analysis(
        name="memory_size",
        title=f"Memory size: {memories[0].name}",
        source="Figure 3 and appendix F",
        columns=(
            "embedder",
            "items",
            "repeats",
            "error (%)",
            "lowest",
            "highest",
            "nearest alone (%)",
            "our fit (%)",
            *(f"paper's fit, {name} (%)" for name in PUBLISHED),
        ),
        rows=[row for one in measured for row in one.rows()],
        finding=" ".join([*(one.fall() for one in measured), *slopes]),
        draw=lambda: _draw(readable(memories[0].name), measured),
        notes=[
            f"Error of {DEFAULT_METHOD} voting with {k} neighbours, or with all items where there are fewer; the paper "
            "does not say with how many. In a memory hardly larger than that, distant items outvote near ones.",
            "Appendix F's lines are fits of log10(error) to log10(log10(items)), which its own figures need to make "
            "sense: 42 % at 1,000 items for ViT-L14, as section 3.2's 41 %. They are for ImageNet's 1,000 classes.",
        ],
    )


def fit_error(items: Sequence[int], errors: Sequence[Percent]) -> Fit | None:
    """Return the least-squares line of appendix F through points; None where fewer than two have an error.

    Points of one item or without any error have no logarithm and do not count.
    """
    points = [(size, error) for size, error in zip(items, errors, strict=True) if size > 1 and error > 0]
    if len({size for size, _ in points}) < 2:
        return None
    sizes, percents = np.array(points, float).T
    slope, offset = np.polyfit(np.log10(np.log10(sizes)), np.log10(percents), 1)
    return Fit(float(slope), float(offset))


def _check(memories: Sequence[Embedded], fractions: Sequence[float], repeats: int) -> None:
    if not memories or not all(embedded.query_ids for embedded in memories):
        raise InvalidArgument("memory size is measured on queries: give at least one data set with pictures")
    if len({embedded.embedder for embedded in memories}) < len(memories):
        raise InvalidArgument("two of the memories are by one embedder: memory size is compared between embedders")
    if not fractions or not all(0 < fraction <= 1 for fraction in fractions):
        raise InvalidArgument(f"fractions {list(fractions)}: numbers above 0 and up to 1 expected")
    if repeats < 1:
        raise InvalidArgument(f"repeats={repeats}: one draw or more expected")


def _measure(embedded: Embedded, fractions: Sequence[float], repeats: int, seed: int, k: int) -> _Measured:
    class_sizes = np.bincount(embedded.labels)[embedded.labels]  # of each item's class
    orders = [class_order(embedded.labels, np.random.default_rng([seed, repeat])) for repeat in range(repeats)]
    found: dict[int, _Size] = {}
    for fraction in (0.0, *sorted(fractions)):  # 0: one item a class
        for order in orders[:1] if fraction == 1.0 else orders:
            kept = order < np.maximum(1, np.round(fraction * class_sizes))
            size = found.setdefault(int(kept.sum()), _Size(int(kept.sum()), [], []))
            if len(size.errors) < repeats:  # two fractions may keep as many of small classes
                right = right_by_k(embedded.neighbors_within(kept, k=k), DEFAULT_METHOD)
                size.errors.append(100.0 - percent(right[:, -1]))
                size.nearest.append(100.0 - percent(right[:, 0]))
    fit = fit_error(list(found), [size.error for size in found.values()])
    return _Measured(embedded.embedder, list(found.values()), fit)


@plotted((6.4, 4.8), legend=2)
def _draw(axes: Axes, measured: Sequence[_Measured]) -> None:
    for place, one in enumerate(measured):
        colour, marker = _STROKES[place % len(_STROKES)]
        name, items = readable(one.embedder), np.array([size.items for size in one.sizes], float)
        middle = np.array([size.error for size in one.sizes])
        reach = [middle - [min(size.errors) for size in one.sizes], [max(size.errors) for size in one.sizes] - middle]
        axes.errorbar(items, middle, yerr=reach, fmt=marker, color=colour, capsize=3, label=name)
        nearest = [np.mean(size.nearest) for size in one.sizes]
        axes.plot(items, nearest, marker, mfc="none", color=colour, ms=5, label=f"{name}, nearest alone")
        if one.fit:
            fitted = np.geomspace(max(items.min(), 2), items.max(), 50)
            axes.plot(fitted, one.fit.error(fitted), color=colour, lw=1, label=f"our fit, slope {one.fit.slope:.2f}")
    published = np.geomspace(PUBLISHED_SIZES[0], 1.28e6, 50)  # on to ImageNet's size
    for (name, line), stroke in zip(PUBLISHED.items(), ("--", ":"), strict=True):
        label = f"paper's fit, {name}, ImageNet"
        axes.plot(published, line.error(published), color=INK, lw=1, ls=stroke, label=label)
    axes.plot(*PUBLISHED_ONE_EACH, "*", color=INK, ms=11, label="paper, ViT-L14, one item a class")
    axes.set(xscale="log", yscale="log", xlabel="items in memory", ylabel="top-1 error (%)")
    _plain_ticks(axes)


def _plain_ticks(axes: Axes) -> None:
    """Write numbers as such: powers of ten would need mathematical text, which labels are not trusted with."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for axis, steps in ((axes.xaxis, (1.0,)), (axes.yaxis, (1.0, 2.0, 3.0, 5.0, 7.0))):
        axis.set_major_locator(LogLocator(subs=steps))
        axis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:,.0f}"))
        axis.set_minor_formatter(NullFormatter())
