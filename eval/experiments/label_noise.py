"""Accuracy while labels in the memory are replaced by random ones (Geirhos et al., appendix D, Figure 10)."""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from jaxtyping import Float, Int

from eval.experiments.base import (
    BY_METHOD,
    UNCHANGED_UP_TO,
    Analysis,
    Axes,
    accuracy_every_k,
    best,
    caption,
    plotted,
)
from eval.metrics.intervals import SEED
from eval.metrics.votes import truth_codes
from eval.report.plots import INK, STROKES
from eval.types import Neighborhoods
from retrieval.errors import InvalidArgument
from retrieval.voting import DEFAULT_METHOD

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
    truths, rank = truth_codes(found.results), [BY_METHOD[DEFAULT_METHOD]]
    top1 = np.concatenate(
        [accuracy_every_k(found, rank, labels=labels, truths=truths) for labels in corrupt(found, levels, seed=seed)]
    )
    ks = [k for k in _KS if k <= found.results.k] or [found.results.k]
    bests = [best(curve) for curve in top1]
    by_level = {level: top for level, (top, _) in zip(levels, bests, strict=True)}
    first, last = min(levels), max(levels)
    unchanged = [level for level, top in by_level.items() if top >= by_level[first] - _UNCHANGED]
    return Analysis(
        name="label_noise",
        title="Accuracy of rank voting with random labels in the memory",
        source="Figure 10; appendix D",
        columns=("random labels (%)", *(f"top-1 at k = {k} (%)" for k in ks), "best top-1 (%)", "at k"),
        rows=[
            (level, *curve[[k - 1 for k in ks]].tolist(), *top)
            for level, curve, top in zip(levels, top1, bests, strict=True)
        ],
        finding=f"At the best k, rank voting is right for {by_level[first]:.1f} % with {first:g} % random labels and"
        f" loses at most {_UNCHANGED:g} points up to {max(unchanged):g} %; with {last:g} % it is right for"
        f" {by_level[last]:.1f} %.",
        draw=lambda: _draw(caption(found.name, found.embedder), levels, top1, ks),
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


@plotted((6.4, 4.2), legend=3)
def _draw(axes: Axes, levels: Sequence[int], top1: Float[np.ndarray, "levels k"], ks: Sequence[int]) -> None:
    for k, marker, (colour, stroke) in zip(ks, "os^v", STROKES.values(), strict=False):
        axes.plot(levels, top1[:, k - 1], marker, ls=stroke, color=colour, markersize=3, label=f"k = {k}")
    stated = f"ImageNet almost unchanged up to about {UNCHANGED_UP_TO:.0f} % (paper, appendix D)"
    axes.axvline(UNCHANGED_UP_TO, color=INK, lw=1, ls=(0, (1, 1)), label=stated)
    axes.set(xlabel="memory items with a random label (%)", ylabel="top-1 accuracy of rank voting (%)")
    axes.set_ylim(bottom=0)
