"""Figure 3 and appendix F: how the error falls as a memory grows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import Float

from eval.experiments.base import Analysis, Cell, right_by_k
from eval.experiments.material import MOST_NEIGHBORS, Material, class_order, neighbors_within
from eval.metrics.votes import percent
from eval.report.plots import BLUE, GREEN, INK, ORANGE, PINK, drawing, readable
from eval.types import Percent
from retrieval.errors import InvalidArgument
from retrieval.voting import DEFAULT_METHOD

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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


def memory_size(
    *materials: Material,
    fractions: Sequence[float] = FRACTIONS,
    repeats: int = 3,
    seed: int = 0,
    k: int = MOST_NEIGHBORS,
) -> Analysis:
    """Measure the error of rank voting with a part of each class in memory (Figure 3, appendix F).

    Parts are drawn anew in each repeat, a smaller one out of the larger; a class keeps one item at least. A point with
    one item a class comes first.

    Args:
        materials: the same queries and memory by one embedder or several.
        fractions: of each class, above 0 and at most 1.
        repeats: draws of each part that is not the whole.
        seed: of the draws.
        k: neighbours that vote.

    Raises:
        InvalidArgument: no material, two by one embedder, a fraction out of bounds, no repeat, or no query.
    """
    _check(materials, fractions, repeats)
    measured = {material.embedder: _measure(material, fractions, repeats, seed, k) for material in materials}
    fits = {name: fit_error([size.items for size in sizes], _means(sizes)) for name, sizes in measured.items()}
    return Analysis(
        name="memory_size",
        title=f"Memory size: {materials[0].name}",
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
        rows=[_row(name, size, fits[name]) for name, sizes in measured.items() for size in sizes],
        finding=f"{_finding(measured)} {_fit_sentence(measured, fits)}".strip(),
        draw=lambda: _draw(readable(materials[0].name), measured, fits),
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


def _check(materials: Sequence[Material], fractions: Sequence[float], repeats: int) -> None:
    if not materials or not all(material.query_ids for material in materials):
        raise InvalidArgument("memory size is measured on queries: give at least one data set with pictures")
    if len({material.embedder for material in materials}) < len(materials):
        raise InvalidArgument("two of the memories are by one embedder: memory size is compared between embedders")
    wrong = [fraction for fraction in fractions if not 0 < fraction <= 1]
    if wrong or not fractions:
        raise InvalidArgument(f"fractions {list(fractions)}: numbers above 0 and up to 1 expected")
    if repeats < 1:
        raise InvalidArgument(f"repeats={repeats}: one draw or more expected")


def _measure(material: Material, fractions: Sequence[float], repeats: int, seed: int, k: int) -> list[_Size]:
    sizes = np.bincount(material.labels)[material.labels]  # of each item's class
    orders = [class_order(material.labels, np.random.default_rng([seed, repeat])) for repeat in range(repeats)]
    found: dict[int, _Size] = {}
    for fraction in (0.0, *sorted(fractions)):  # 0: one item a class
        for order in orders[:1] if fraction == 1.0 else orders:
            kept = order < np.maximum(1, np.round(fraction * sizes))
            size = found.setdefault(int(kept.sum()), _Size(int(kept.sum()), [], []))
            if len(size.errors) < repeats:  # two fractions may keep as many of small classes
                right = right_by_k(neighbors_within(material, kept, k=k), DEFAULT_METHOD)
                size.errors.append(100.0 - percent(right[:, -1]))
                size.nearest.append(100.0 - percent(right[:, 0]))
    return list(found.values())


def _means(sizes: Sequence[_Size]) -> list[Percent]:
    return [float(np.mean(size.errors)) for size in sizes]


def _row(embedder: str, size: _Size, fit: Fit | None) -> tuple[Cell, ...]:
    at = np.array([size.items], float)
    published = [
        float(line.error(at)[0]) if PUBLISHED_SIZES[0] <= size.items <= PUBLISHED_SIZES[1] else None
        for line in PUBLISHED.values()
    ]
    fitted = float(fit.error(at)[0]) if fit and size.items > 1 else None
    spread = (float(np.mean(size.errors)), min(size.errors), max(size.errors), float(np.mean(size.nearest)))
    return embedder, size.items, len(size.errors), *spread, fitted, *published


def _finding(measured: dict[str, list[_Size]]) -> str:
    return " ".join(
        f"{name}: the error falls from {np.mean(sizes[0].errors):.1f} % with {sizes[0].items:,} items to "
        f"{np.mean(sizes[-1].errors):.1f} % with {sizes[-1].items:,}."
        for name, sizes in measured.items()
    )


def _fit_sentence(measured: dict[str, list[_Size]], fits: dict[str, Fit | None]) -> str:
    published = " and ".join(f"{line.slope:.2f}" for line in PUBLISHED.values())
    return " ".join(
        f"{name}'s fit has a slope of {fit.slope:.2f}, against the paper's {published}, and is off by "
        f"{_farthest(measured[name], fit):.1f} points at most."
        for name, fit in fits.items()
        if fit
    )


def _farthest(sizes: Sequence[_Size], fit: Fit) -> float:
    counted = [size for size in sizes if size.items > 1]
    fitted = fit.error(np.array([size.items for size in counted], float))
    return float(np.abs(fitted - _means(counted)).max())


def _draw(title: str, measured: dict[str, list[_Size]], fits: dict[str, Fit | None]) -> "Figure":
    with drawing((6.4, 4.8), title) as (figure, axes):
        for place, (name, sizes) in enumerate(measured.items()):
            _draw_sizes(axes, name, sizes, fits[name], _STROKES[place % len(_STROKES)])
        published = np.geomspace(PUBLISHED_SIZES[0], 1.28e6, 50)  # on to ImageNet's size
        for (name, line), stroke in zip(PUBLISHED.items(), ("--", ":"), strict=True):
            label = f"paper's fit, {name}, ImageNet"
            axes.plot(published, line.error(published), color=INK, lw=1, ls=stroke, label=label)
        axes.plot(*PUBLISHED_ONE_EACH, "*", color=INK, ms=11, label="paper, ViT-L14, one item a class")
        axes.set(xscale="log", yscale="log", xlabel="items in memory", ylabel="top-1 error (%)")
        _plain_ticks(axes)
        figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    return figure


def _draw_sizes(axes: "Axes", name: str, sizes: Sequence[_Size], fit: Fit | None, stroke: tuple[str, str]) -> None:
    colour, marker = stroke
    items, middle = np.array([size.items for size in sizes], float), np.array(_means(sizes))
    reach = [middle - [min(size.errors) for size in sizes], [max(size.errors) for size in sizes] - middle]
    axes.errorbar(items, middle, yerr=reach, fmt=marker, color=colour, capsize=3, label=readable(name))
    nearest = [np.mean(size.nearest) for size in sizes]
    axes.plot(items, nearest, marker, mfc="none", color=colour, ms=5, label=f"{readable(name)}, nearest alone")
    if fit:
        line = np.geomspace(max(items.min(), 2), items.max(), 50)
        axes.plot(line, fit.error(line), color=colour, lw=1, label=f"our fit, slope {fit.slope:.2f}")


def _plain_ticks(axes: "Axes") -> None:
    """Write numbers as such: powers of ten would need mathematical text, which labels are not trusted with."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for axis, steps in ((axes.xaxis, (1.0,)), (axes.yaxis, (1.0, 2.0, 3.0, 5.0, 7.0))):
        axis.set_major_locator(LogLocator(subs=steps))
        axis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:,.0f}"))
        axis.set_minor_formatter(NullFormatter())
