"""Figure 4: how finely a class is placed in a taxonomy, from before its first exemplar to its fiftieth."""

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Int

from eval.experiments.base import Analysis, Axes, caption, plotted
from eval.experiments.embedded import Embedded, class_order
from eval.report.plots import BLUE, GREEN, INK, ORANGE, PINK, readable
from eval.types import Percent
from retrieval.errors import InvalidArgument
from retrieval.labels import composed
from retrieval.support.terminal import counted

EXEMPLARS: Final = 50  # of every class (section 3.5)
PUBLISHED_GENUS: Final[Percent] = 35.2  # of a species without any exemplar (section 3.5), of iNaturalist 2021
_SHOWN: Final = (0, 1, 2, 5, 10, 20, 50)  # exemplars that the table has rows for
_COLOURS: Final = (INK, PINK, GREEN, ORANGE, BLUE, "#56b4e9", "#e69f00")  # Okabe and Ito's, coarse to fine
_MARKERS: Final = "osD^vPX"
_INATURALIST: Final = re.compile(r"\d{5}_([^_]+)_([^_]+)_([^_]+)_([^_]+)_([^_]+)_([^_]+)_[^_]+")
_INATURALIST_LEVELS: Final = ("kingdom", "phylum", "class", "order", "family", "genus", "species")


@dataclass(frozen=True, slots=True)
class Taxonomy:
    """A tree with labels for leaves."""

    levels: tuple[str, ...]  # from coarse to fine; the last is the label itself
    groups: dict[str, tuple[str, ...]]  # of each label, one name for each level but the last

    def codes(self, labels: Iterable[str]) -> Int[np.ndarray, "labels levels"]:
        """Return the number of each label's group at each level; groups of one name under different parents differ.

        Raises:
            InvalidArgument: a label that is not in the taxonomy.
        """
        numbers: dict[tuple[str, ...], int] = {}
        rows = []
        for label in labels:
            if label not in self.groups:
                raise InvalidArgument(f"the taxonomy does not hold {label!r}: give it a line")
            path = (*self.groups[label], label)
            rows.append([numbers.setdefault(path[:end], len(numbers)) for end in range(1, len(path) + 1)])
        return np.array(rows, np.int64).reshape(-1, len(self.levels))


def inaturalist_taxonomy(labels: Iterable[str]) -> Taxonomy:
    """Return the seven levels that iNaturalist 2021 writes into its folders' names.

    ``00000_Animalia_Annelida_Clitellata_Haplotaxida_Lumbricidae_Lumbricus_terrestris``: kingdom to species.

    Raises:
        InvalidArgument: a label of another form.
    """
    groups = {}
    for label in labels:
        found = _INATURALIST.fullmatch(label)
        if found is None:
            raise InvalidArgument(
                f"{label!r} does not name its taxa as iNaturalist's folders do: give a taxonomy as a CSV file"
            )
        groups[label] = found.groups()
    return Taxonomy(_INATURALIST_LEVELS, groups)


def read_taxonomy(path: Path) -> Taxonomy:
    """Return a taxonomy from a CSV file: a line of headings, then each label with its groups from coarse to fine.

    The headings name the levels, the label's own first: ``species,kingdom,family`` has species as its finest.

    Raises:
        InvalidArgument: the file cannot be read, has no level beside the label, an incomplete line or a label twice.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            heading, *rows = [row for row in csv.reader(lines) if row]
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as failure:
        raise InvalidArgument(f"{path} is no taxonomy: a CSV file with label,level,level… expected") from failure
    groups: dict[str, tuple[str, ...]] = {}
    for row in ([composed(cell) for cell in row] for row in rows):
        if len(heading) < 2 or len(row) != len(heading) or not all(row):
            raise InvalidArgument(f"{path}: the line of {row[0]!r} must have {max(2, len(heading))} filled cells")
        if row[0] in groups:
            raise InvalidArgument(f"{path} has {row[0]!r} twice: give each label one line")
        groups[row[0]] = tuple(row[1:])
    if not groups:
        raise InvalidArgument(f"{path} holds no label: one line each expected, below the headings")
    return Taxonomy((*heading[1:], heading[0]), groups)


@dataclass(frozen=True, slots=True)
class _Curves:
    accuracy: Float[np.ndarray, "levels grown"]  # percent, averaged over the classes, with 0, 1, … exemplars
    majority: list[Percent]  # of answering with the most frequent group, by level
    classes: int
    queries: int


def granularity(
    embedded: Embedded, *, taxonomy: Taxonomy | None = None, exemplars: int = EXEMPLARS, seed: int = 0
) -> Analysis:
    """Measure the nearest neighbour at every level while one class at a time grows (section 3.5, Figure 4).

    All other classes keep their exemplars throughout. Nothing is searched again as a class grows: a query's answer
    is the nearest of the other classes until one of the first exemplars of its own is nearer.

    Args:
        embedded: a memory and queries.
        taxonomy: of the memory's labels; None: read from names as iNaturalist's.
        exemplars: of every class; of a smaller one, all.
        seed: of the draw.

    Raises:
        InvalidArgument: a label without a place in the taxonomy, fewer than two classes, or no query with one right
            label that the memory has.
    """
    taxonomy = taxonomy or inaturalist_taxonomy(embedded.label_names)
    levels, curves = taxonomy.levels, _measure(embedded, taxonomy.codes(embedded.label_names), exemplars, seed)
    shown = sorted({grown for grown in _SHOWN if grown < exemplars} | {exemplars})
    coarsest, coarser, finest = (curves.accuracy[place] for place in (0, -2, -1))
    few = min(5, exemplars)
    return Analysis(
        name="granularity",
        title=f"Taxonomic levels as a class grows: {embedded.name}, {embedded.embedder}",
        source="Section 3.5, Figure 4",
        columns=("level", *(counted(grown, "exemplar") for grown in shown), "majority (%)", "paper at 0"),
        rows=[
            (level, *curve[shown].tolist(), majority, PUBLISHED_GENUS if level == "genus" else None)
            for level, curve, majority in zip(levels, curves.accuracy, curves.majority, strict=True)
        ],
        finding=f"Before its first exemplar a class is placed in the right {levels[-2]} for {coarser[0]:.1f} % of its "
        f"pictures ({curves.majority[-2]:.1f} % by always saying the most frequent one). The right {levels[-1]} is "
        f"given for {finest[few]:.1f} % with {counted(few, 'exemplar')} and {finest[-1]:.1f} % with {exemplars}, while "
        f"the right {levels[0]} rises from {coarsest[0]:.1f} % to {coarsest[-1]:.1f} %.",
        draw=lambda: _draw(caption(embedded.name, embedded.embedder), levels, curves),
        notes=[
            f"The mean over {counted(curves.classes, 'class')} of their accuracies, on "
            f"{counted(curves.queries, 'query')} with one right label that the memory has; one neighbour decides.",
            "A class with fewer exemplars counts with all that it has.",
            "The paper's figure is for DINOv2 ViT-L14 on iNaturalist's 10,000 species.",
        ],
    )


def _measure(embedded: Embedded, codes: Int[np.ndarray, "labels levels"], exemplars: int, seed: int) -> _Curves:
    order = class_order(embedded.labels, np.random.default_rng(seed))
    numbers = {label: number for number, label in enumerate(embedded.label_names)}
    # Each query's only right label; -1 where it has several, or the memory has none of it.
    own = np.array([numbers.get(min(truth), -1) if len(truth) == 1 else -1 for truth in embedded.truths], np.int64)
    asked = np.flatnonzero(own >= 0)
    if exemplars < 1:
        raise InvalidArgument(f"exemplars={exemplars}: one or more of each class expected")
    if len(np.unique(embedded.labels)) < 2 or not len(asked):
        raise InvalidArgument("growing a class takes two classes in the memory and a query with one right label in it")
    # Of the nearest exemplars + 1, one at least is of another class, since no class has more than that.
    found = embedded.neighbors_within(order < exemplars, k=exemplars + 1)
    first = (found.neighbor_labels.codes != own[:, None]).argmax(axis=1)[:, None]
    nearest = np.take_along_axis(found.neighbor_labels.codes, first, axis=1)[:, 0]
    distance = np.take_along_axis(found.neighbor_distances, first, axis=1)[:, 0]
    placed = codes[nearest] == codes[own]  # (queries, levels): what the other classes' nearest gets right
    sums, classes = np.zeros((codes.shape[1], exemplars + 1)), np.unique(own[asked])
    for label in classes.tolist():
        queries, items = np.flatnonzero(own == label), np.flatnonzero(embedded.labels == label)
        items = items[np.argsort(order[items])][:exemplars]
        distances = np.clip(1.0 - embedded.queries[queries] @ embedded.vectors[items].T, 0.0, 2.0)
        known = _known(distances, distance[queries], exemplars)
        sums += (placed[queries].T[:, :, None] | known).mean(axis=1)
    majority = [100.0 * np.bincount(codes[own[asked], level]).max() / len(asked) for level in range(codes.shape[1])]
    return _Curves(100.0 * sums / len(classes), majority, len(classes), len(asked))


def _known(
    own: Float[np.ndarray, "queries items"], others: Float[np.ndarray, " queries"], exemplars: int
) -> Bool[np.ndarray, "queries grown"]:
    """Tell for which queries an exemplar of their own class is nearest, with the first 0, 1, … of them in memory.

    Args:
        own: distances to the exemplars of the queries' class, in the order in which it grows.
        others: to the nearest item of another class; at equal distance that one wins.
        exemplars: how far the class grows.
    """
    nearer = np.logical_or.accumulate(own < others[:, None], axis=1)
    known = np.zeros((len(own), exemplars + 1), bool)
    known[:, 1 : 1 + nearer.shape[1]] = nearer
    known[:, 1 + nearer.shape[1] :] = nearer[:, -1:]
    return known


@plotted((6.4, 4.2), legend=4)
def _draw(axes: Axes, levels: tuple[str, ...], curves: _Curves) -> None:
    for place, level in enumerate(levels):
        stroke = {"color": _COLOURS[place % len(_COLOURS)], "marker": _MARKERS[place % len(_MARKERS)]}
        axes.plot(curves.accuracy[place], markevery=5, markersize=4, label=readable(level), **stroke)
        axes.axhline(curves.majority[place], color=stroke["color"], lw=0.8, ls=":")
    if "genus" in levels:
        axes.plot(0, PUBLISHED_GENUS, "*", color=INK, ms=12, label="genus, paper (section 3.5)", clip_on=False)
    axes.plot([], [], color=INK, lw=0.8, ls=":", label="most frequent group")
    axes.set(xlabel="exemplars of the class in memory", ylabel="top-1 accuracy, k = 1 (%)", ylim=(0, 101))
