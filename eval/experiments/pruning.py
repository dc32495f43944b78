"""Table 3: accuracy with unreliable items left out of the memory, or with less weight the more often they are wrong."""

from collections.abc import Mapping
from typing import Final

import numpy as np

from eval.experiments.base import (
    OPTIMISTIC,
    Analysis,
    Axes,
    Best,
    Row,
    best_over_k,
    caption,
    draw_best,
    plotted,
    right_by_k,
)
from eval.experiments.embedded import MOST_NEIGHBORS, Embedded
from eval.report.plots import BLUE, GREEN, INK, ORANGE
from eval.types import Percent
from retrieval.curation.pruning import HARD_LIMIT, NEIGHBORS, count_self_votes, kept_items, reliability
from retrieval.voting import DEFAULT_METHOD, METHODS

PUBLISHED: Final[dict[str, dict[str, Percent]]] = {  # Table 3: DINOv2 ViT-L14 on ImageNet
    "none": {"plurality": 83.2, "distance": 83.3, "softmax": 83.6, "rank": 83.6},
    "hard": {"plurality": 83.3, "distance": 83.4, "softmax": 83.6, "rank": 83.7},
    "soft": {"plurality": 83.6, "distance": 83.6, "softmax": 83.9, "rank": 84.1},
}
_STROKES: Final = {"none": (INK, "o"), "hard": (ORANGE, "s"), "soft": (BLUE, "D")}

Scores = dict[str, dict[str, Best]]  # pruning → voting method → accuracy


def pruning(
    embedded: Embedded,
    *,
    k: int = MOST_NEIGHBORS,
    self_neighbors: Mapping[str, int] = NEIGHBORS,
    limit: int = HARD_LIMIT,
) -> Analysis:
    """Compare no, hard and soft pruning under the four voting methods (section 3.6, appendix I, Table 3).

    Votes are counted as in the paper's release: soft pruning among 10 neighbours, hard among 100, all of which count
    whatever the size of classes. `vmem memory prune` does so with ``--paper``.

    Args:
        embedded: a memory and queries.
        k: the most neighbours that vote; each figure is that of the best number up to it.
        self_neighbors: with which the memory answers each of its own items, for soft and for hard pruning.
        limit: wrong votes from which hard pruning leaves an item out.

    Raises:
        InvalidArgument: no query, or hard pruning leaves no item.
    """
    hurt = {
        kind: count_self_votes(embedded.vectors, embedded.labels, embedded.search, k=neighbors).hurt
        for kind, neighbors in self_neighbors.items()
    }
    kept = kept_items(hurt["hard"], limit=limit)
    everything = embedded.neighbors_within(np.ones(len(kept), bool), k=k)
    pruned = embedded.neighbors_within(kept, k=k)
    reached = reliability(hurt["soft"])[everything.neighbor_ids.codes]
    scores = {
        "none": {method: best_over_k(right_by_k(everything, method)) for method in METHODS},
        "hard": {method: best_over_k(right_by_k(pruned, method)) for method in METHODS},
        "soft": {method: best_over_k(right_by_k(everything, method, factors=reached)) for method in METHODS},
    }
    return Analysis(
        name="pruning",
        title=f"Memory pruning: {embedded.name}, {embedded.embedder}",
        source="Section 3.6, Table 3 and appendix I",
        columns=(
            "pruning",
            "voting",
            "top-1 (%)",
            "95 % from",
            "to",
            "best k",
            "change (points)",
            "p of the change",
            f"with all {k} (%)",
            "paper (%)",
            "paper: change",
        ),
        rows=[_row(kind, method, scores) for kind in scores for method in METHODS],
        finding=f"Rank voting reaches {scores['none'][DEFAULT_METHOD].top1:.1f} % without pruning. Hard pruning leaves "
        f"out {len(kept) - int(kept.sum()):,} of {len(kept):,} items and changes that by {_change(scores, 'hard')}, "
        f"soft pruning by {_change(scores, 'soft')}.",
        draw=lambda: _draw(caption(embedded.name, embedded.embedder), scores),
        notes=[
            OPTIMISTIC,
            "A vote is wrong where the item's label is not that of the item asked about, whatever the whole vote "
            "decided; the paper's words allow either.",
            f"Soft pruning asked about each item with its {self_neighbors['soft']} nearest others, hard pruning with "
            f"{self_neighbors['hard']}, as the paper's release does. For soft pruning the median item gave "
            f"{np.median(hurt['soft']):.0f} wrong votes, and {100 * np.mean(hurt['soft'] == 0):.1f} % gave none. In "
            "classes with fewer others than neighbours some votes are wrong however well classes are told apart: "
            "`vmem memory prune` counts only as many as half the class, unless with --paper.",
            "The paper's figures are for DINOv2 ViT-L14 on ImageNet: compare changes, not accuracies.",
        ],
    )


def _row(kind: str, method: str, scores: Scores) -> Row:
    best, plain = scores[kind][method], scores["none"][method]
    p = best.p_of_change(plain) if kind != "none" else None
    published = PUBLISHED[kind][method]
    paper = (published, published - PUBLISHED["none"][method])
    return kind, method, best.top1, *best.interval, best.k, best.top1 - plain.top1, p, best.with_all, *paper


def _change(scores: Scores, kind: str) -> str:
    best, plain = scores[kind][DEFAULT_METHOD], scores["none"][DEFAULT_METHOD]
    return f"{best.top1 - plain.top1:+.2f} points (p = {best.p_of_change(plain):.2g})"


@plotted((6.4, 4.0), legend=2)
def _draw(axes: Axes, scores: Scores) -> None:
    places = np.arange(len(METHODS))
    for side, (kind, (colour, marker)) in enumerate(_STROKES.items()):
        where = places + 0.2 * (side - 1)
        label = f"{kind} pruning".replace("none", "no")
        draw_best(axes, where, [scores[kind][method] for method in METHODS], color=colour, fmt=marker, label=label)
        if kind != "none":  # the paper's accuracies are another embedder's and off the scale, but not its gains
            gains = [PUBLISHED[kind][method] - PUBLISHED["none"][method] for method in METHODS]
            ours = np.array([scores["none"][method].top1 for method in METHODS])
            axes.plot(where + 0.08, ours + gains, "_", color=GREEN, ms=10, mew=2)
    axes.plot([], [], "_", color=GREEN, ms=10, mew=2, label="no pruning + the paper's gain (Table 3)")
    axes.set_xticks(places, METHODS)
    axes.set(xlabel="voting method", ylabel="top-1 accuracy at the best k (%)")
