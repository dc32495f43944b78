"""Accuracy while labels in the memory are replaced by random ones (Geirhos et al., appendix D, Figure 10)."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import Float, Int

from eval.experiments.base import BY_METHOD, UNCHANGED_UP_TO, Analysis, Neighborhoods, accuracy_every_k, best
from eval.metrics.intervals import SEED
from eval.metrics.votes import is_right, truth_codes
from eval.report.plots import INK, STROKES, drawing, readable
from eval.types import Percent
from retrieval.errors import InvalidArgument
from retrieval.voting import DEFAULT_METHOD

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEVELS: Final = tuple(range(0, 101, 5))  # percent: 21 levels
_KS: Final = (1, 10, 50, 100)
_UNCHANGED: Final = 2.0  # points lost up to which accuracy counts as almost unchanged


def label_noise(found: Neighborhoods, *, levels: Sequence[int] = LEVELS, seed: int = SEED) -> Analysis:
    """Return the accuracy of rank voting with a share of the memory's labels replaced by random ones.

    An item that is replaced has the same random label for every query, and stays replaced at every higher level.

    Args:
        found: the neighbours, each of which is one item of the memory by its id.
        levels: whole percent of the items whose label is drawn anew, from all labels with the same probability: the
            old one may come back.
        seed: of the items and the labels that are drawn.

    Raises:
        InvalidArgument: a level outside 0 to 100, or none.
    """
    if not levels or not all(0 <= level <= 100 for level in levels):
        raise InvalidArgument(f"levels from 0 to 100 percent expected: got {list(levels)}")
    results = found.results
    truths, curves = truth_codes(results), []
    for labels in corrupt(found, levels, seed=seed):
        right = is_right(labels, truths)
        weighings = [BY_METHOD[DEFAULT_METHOD]]
        distances, factors = results.neighbor_distances, results.reliabilities
        curves.append(accuracy_every_k(labels, distances, right, weighings, factors=factors)[0])
    top1 = np.array(curves)
    ks = [k for k in _KS if k <= results.k] or [results.k]
    bests = [best(curve) for curve in top1]
    return Analysis(
        name="label_noise",
        title="Accuracy of rank voting with random labels in the memory",
        source="Figure 10; appendix D",
        columns=("random labels (%)", *(f"top-1 at k = {k} (%)" for k in ks), "best top-1 (%)", "at k"),
        rows=[
            (level, *curve[[k - 1 for k in ks]].tolist(), *top)
            for level, curve, top in zip(levels, top1, bests, strict=True)
        ],
        finding=_finding(levels, [top for top, _ in bests]),
        draw=lambda: _draw(found, levels, top1, ks),
        notes=[
            "Corrupted are the items that are a neighbour of some query; the others change no vote.",
            f'The paper states that accuracy is "almost unchanged" up to about {UNCHANGED_UP_TO:.0f} % on ImageNet, at'
            " a k that it does not tell, and no other number.",
        ],
    )


def corrupt(found: Neighborhoods, levels: Sequence[int], *, seed: int) -> Iterator[Int[np.ndarray, "queries k"]]:
    """Yield the neighbours' labels at each level, as numbers like those that they have.

    What is drawn depends on ids and labels alone, not on the order in which they are stored.
    """
    items, labels = found.results.neighbor_ids, found.results.neighbor_labels
    there = np.zeros(len(items.names), bool)
    there[items.codes] = True
    by_id = np.array(sorted(np.flatnonzero(there).tolist(), key=items.names.__getitem__), np.int64)
    by_name = np.array(sorted(range(len(labels.names)), key=labels.names.__getitem__), labels.codes.dtype)
    draw = np.random.default_rng(seed)
    order = np.empty(len(items.names), np.int64)
    order[by_id] = draw.permutation(len(by_id))
    drawn = np.empty(len(items.names), labels.codes.dtype)
    drawn[by_id] = by_name[draw.integers(len(by_name), size=len(by_id))]
    turn, replacement = order[items.codes], drawn[items.codes]
    for level in levels:
        yield np.where(turn < round(level / 100 * len(by_id)), replacement, labels.codes)


def _finding(levels: Sequence[int], tops: Sequence[Percent]) -> str:
    clean = tops[int(np.argmin(levels))]
    kept = [level for level, top in zip(levels, tops, strict=True) if top >= clean - _UNCHANGED]
    first, last, worst = min(levels), max(levels), tops[int(np.argmax(levels))]
    return (
        f"At the best k, rank voting is right for {clean:.1f} % with {first:g} % random labels and loses at most"
        f" {_UNCHANGED:g} points up to {max(kept):g} %; with {last:g} % it is right for {worst:.1f} %."
    )


def _draw(
    found: Neighborhoods, levels: Sequence[int], top1: Float[np.ndarray, "levels k"], ks: Sequence[int]
) -> "Figure":
    with drawing((6.4, 4.2), f"{readable(found.name)}, {readable(found.embedder)}") as (figure, axes):
        for k, marker, (colour, stroke) in zip(ks, "os^v", STROKES.values(), strict=False):
            axes.plot(levels, top1[:, k - 1], marker, ls=stroke, color=colour, markersize=3, label=f"k = {k}")
        stated = f"ImageNet almost unchanged up to about {UNCHANGED_UP_TO:.0f} % (paper, appendix D)"
        axes.axvline(UNCHANGED_UP_TO, color=INK, lw=1, ls=(0, (1, 1)), label=stated)
        axes.set(xlabel="memory items with a random label (%)", ylabel="top-1 accuracy of rank voting (%)")
        axes.set_ylim(bottom=0)
        figure.legend(fontsize=8, loc="outside lower center", ncols=3)
    return figure
