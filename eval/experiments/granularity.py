"""Figure 4: how finely a class is placed in a taxonomy, from before its first exemplar to its fiftieth."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import Bool, Float, Int

from eval.experiments.base import Analysis, Cell
from eval.experiments.material import Material, Taxonomy, class_order, inaturalist_taxonomy, neighbors_within
from eval.report.plots import BLUE, GREEN, INK, ORANGE, PINK, drawing, readable
from eval.types import Percent
from eval.wording import counted
from retrieval.errors import InvalidArgument

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXEMPLARS: Final = 50  # of every class (section 3.5)
PUBLISHED_GENUS: Final[Percent] = 35.2  # of a species without any exemplar (section 3.5), of iNaturalist 2021
_SHOWN: Final = (0, 1, 2, 5, 10, 20, 50)  # exemplars that the table has rows for
_COLOURS: Final = (INK, PINK, GREEN, ORANGE, BLUE, "#56b4e9", "#e69f00")  # Okabe and Ito's, coarse to fine
_MARKERS: Final = "osD^vPX"


@dataclass(frozen=True, slots=True)
class _Curves:
    accuracy: Float[np.ndarray, "levels grown"]  # percent, averaged over the classes, with 0, 1, … exemplars
    majority: list[Percent]  # of answering with the most frequent group, by level
    classes: int
    queries: int


def granularity(
    material: Material, *, taxonomy: Taxonomy | None = None, exemplars: int = EXEMPLARS, seed: int = 0
) -> Analysis:
    """Measure the nearest neighbour at every level while one class at a time grows (section 3.5, Figure 4).

    All other classes keep their exemplars throughout. Nothing is searched again as a class grows: a query's answer
    is the nearest of the other classes until one of the first exemplars of its own is nearer.

    Args:
        material: a memory and queries.
        taxonomy: of the memory's labels; None: read from names as iNaturalist's.
        exemplars: of every class; of a smaller one, all.
        seed: of the draw.

    Raises:
        InvalidArgument: a label without a place in the taxonomy, fewer than two classes, or no query with one right
            label that the memory has.
    """
    taxonomy = taxonomy or inaturalist_taxonomy(material.label_names)
    curves = _measure(material, taxonomy.codes(material.label_names), exemplars, seed)
    shown = sorted({grown for grown in _SHOWN if grown < exemplars} | {exemplars})
    return Analysis(
        name="granularity",
        title=f"Taxonomic levels as a class grows: {material.name}, {material.embedder}",
        source="Section 3.5, Figure 4",
        columns=("level", *(counted(grown, "exemplar") for grown in shown), "majority (%)", "paper at 0"),
        rows=[_row(level, curves, place, shown) for place, level in enumerate(taxonomy.levels)],
        finding=_finding(taxonomy.levels, curves, exemplars),
        draw=lambda: _draw(f"{readable(material.name)}, {readable(material.embedder)}", taxonomy.levels, curves),
        notes=[
            f"The mean over {counted(curves.classes, 'class')} of their accuracies, on "
            f"{counted(curves.queries, 'query')} with one right label that the memory has; one neighbour decides.",
            "A class with fewer exemplars counts with all that it has.",
            "The paper's figure is for DINOv2 ViT-L14 on iNaturalist's 10,000 species.",
        ],
    )


def _finding(levels: tuple[str, ...], curves: _Curves, exemplars: int) -> str:
    coarsest, coarser, finest = (curves.accuracy[place] for place in (0, -2, -1))
    few = min(5, exemplars)
    return (
        f"Before its first exemplar a class is placed in the right {levels[-2]} for {coarser[0]:.1f} % of its pictures "
        f"({curves.majority[-2]:.1f} % by always saying the most frequent one). The right {levels[-1]} is given for "
        f"{finest[few]:.1f} % with {counted(few, 'exemplar')} and {finest[-1]:.1f} % with {exemplars}, while the right "
        f"{levels[0]} rises from {coarsest[0]:.1f} % to {coarsest[-1]:.1f} %."
    )


def _measure(material: Material, codes: Int[np.ndarray, "labels levels"], exemplars: int, seed: int) -> _Curves:
    order = class_order(material.labels, np.random.default_rng(seed))
    own = _own_labels(material)
    asked = np.flatnonzero(own >= 0)
    _check(asked, exemplars, len(np.unique(material.labels)))
    # Of the nearest exemplars + 1, one at least is of another class, since no class has more than that.
    found = neighbors_within(material, order < exemplars, k=exemplars + 1)
    others = found.neighbor_labels.codes != own[:, None]
    first = others.argmax(axis=1)[:, None]
    nearest = np.take_along_axis(found.neighbor_labels.codes, first, axis=1)[:, 0]
    distance = np.take_along_axis(found.neighbor_distances, first, axis=1)[:, 0]
    placed = codes[nearest] == codes[own]  # (queries, levels): what the other classes' nearest gets right
    sums, classes = np.zeros((codes.shape[1], exemplars + 1)), np.unique(own[asked])
    for label in classes.tolist():
        queries = np.flatnonzero(own == label)
        known = _known(material, queries, np.flatnonzero(material.labels == label), order, distance[queries], exemplars)
        sums += (placed[queries].T[:, :, None] | known).mean(axis=1)
    majority = [100.0 * np.bincount(codes[own[asked], level]).max() / len(asked) for level in range(codes.shape[1])]
    return _Curves(100.0 * sums / len(classes), majority, len(classes), len(asked))


def _own_labels(material: Material) -> Int[np.ndarray, " queries"]:
    """Return the number of each query's only right label; -1 where it has several, or the memory has none of it."""
    numbers = {label: number for number, label in enumerate(material.label_names)}
    return np.array([numbers.get(min(truth), -1) if len(truth) == 1 else -1 for truth in material.truths], np.int64)


def _check(asked: Int[np.ndarray, " asked"], exemplars: int, classes: int) -> None:
    if exemplars < 1:
        raise InvalidArgument(f"exemplars={exemplars}: one or more of each class expected")
    if classes < 2 or not len(asked):
        raise InvalidArgument("growing a class takes two classes in the memory and a query with one right label in it")


def _known(
    material: Material,
    queries: Int[np.ndarray, " queries"],
    items: Int[np.ndarray, " items"],
    order: Int[np.ndarray, " all"],
    distance: Float[np.ndarray, " queries"],
    exemplars: int,
) -> Bool[np.ndarray, "queries grown"]:
    """Tell for which queries an exemplar of their own class is nearest, with the first 0, 1, … of them in memory.

    Args:
        material: a memory and queries.
        queries: of the class.
        items: of the class.
        order: of all items, each in its class.
        distance: to the nearest item of another class; at equal distance that one wins.
        exemplars: how far the class grows.
    """
    items = items[np.argsort(order[items])][:exemplars]
    own = np.clip(1.0 - material.queries[queries] @ material.vectors[items].T, 0.0, 2.0)
    nearer = np.logical_or.accumulate(own < distance[:, None], axis=1)
    known = np.zeros((len(queries), exemplars + 1), bool)
    known[:, 1 : 1 + len(items)] = nearer
    known[:, 1 + len(items) :] = nearer[:, -1:]
    return known


def _row(level: str, curves: _Curves, place: int, shown: list[int]) -> tuple[Cell, ...]:
    published = PUBLISHED_GENUS if level == "genus" else None
    return level, *(float(curves.accuracy[place, grown]) for grown in shown), curves.majority[place], published


def _draw(title: str, levels: tuple[str, ...], curves: _Curves) -> "Figure":
    with drawing((6.4, 4.2), title) as (figure, axes):
        for place, level in enumerate(levels):
            stroke = {"color": _COLOURS[place % len(_COLOURS)], "marker": _MARKERS[place % len(_MARKERS)]}
            axes.plot(curves.accuracy[place], markevery=5, markersize=4, label=readable(level), **stroke)
            axes.axhline(curves.majority[place], color=stroke["color"], lw=0.8, ls=":")
        if "genus" in levels:
            axes.plot(0, PUBLISHED_GENUS, "*", color=INK, ms=12, label="genus, paper (section 3.5)", clip_on=False)
        axes.plot([], [], color=INK, lw=0.8, ls=":", label="most frequent group")
        axes.set(xlabel="exemplars of the class in memory", ylabel="top-1 accuracy, k = 1 (%)", ylim=(0, 101))
        figure.legend(loc="outside lower center", ncols=4, fontsize=8)
    return figure
