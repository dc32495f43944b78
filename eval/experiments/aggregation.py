"""Top-1 accuracy by voting method and number of neighbours (Geirhos et al., Figures 2, 7 and 8; Tables 4 to 9)."""

from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import Float

from eval.drawing import INK, STROKES, drawing, readable
from eval.experiments.base import Analysis, Neighborhoods
from eval.experiments.published import AGGREGATION, NEAREST, TABLE_KS, same_model, where
from eval.experiments.votes import BY_METHOD, accuracy_every_k, best, right_neighbors
from eval.intervals import wilson_interval
from retrieval.voting import METHODS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_RANK: Final = METHODS.index("rank")


def aggregation(found: Neighborhoods) -> Analysis:
    """Return the accuracy of the four voting methods of section 2.2 when 1, 2, …, k neighbours vote."""
    results = found.results
    top1 = accuracy_every_k(
        results.neighbor_labels.codes,
        results.neighbor_distances,
        right_neighbors(found),
        list(BY_METHOD.values()),
        factors=results.reliabilities,
    )
    model = same_model(found.embedder)
    published = AGGREGATION[model]
    rows = []
    for k, column in enumerate(top1.T.tolist(), start=1):
        stated = [published[name][TABLE_KS.index(k)] if k in TABLE_KS else None for name in METHODS]
        rows.append((k, *column, *stated))
    columns = ("k", *(f"{name} (%)" for name in METHODS), *(f"{name}, paper (%)" for name in METHODS))
    return Analysis(
        name="aggregation",
        title="Top-1 accuracy by voting method and number of neighbours",
        source="Figures 2, 7 and 8; Tables 4 to 9",
        columns=columns,
        rows=rows,
        finding=_finding(top1, len(results)),
        draw=lambda: _draw(found, top1, model),
        notes=[
            f"The paper's figures are of {where(model)}: other pictures and another memory.",
            "The best k is chosen on the queries that are scored, as in the paper's Table 9, and is optimistic.",
        ],
    )


def _finding(top1: Float[np.ndarray, "methods k"], queries: int) -> str:
    bests = {name: best(curve) for name, curve in zip(METHODS, top1, strict=True)}
    winner = max(bests, key=lambda name: bests[name][0])
    highest, at = bests[winner]
    low, high = wilson_interval(round(highest / 100 * queries), queries)
    lost = {name: bests[name][0] - float(curve[-1]) for name, curve in zip(METHODS, top1, strict=True)}
    changes = ", ".join(f"{name} {lost[name]:.1f}" for name in METHODS)
    return (
        f"The nearest neighbour alone is right for {top1[_RANK, 0]:.1f} %, and {winner} voting is best with"
        f" {highest:.1f} % at k = {at} (95 % interval {low:.1f} to {high:.1f});"
        f" from its own best k to k = {top1.shape[1]} each method loses, in points: {changes}."
    )


def _draw(found: Neighborhoods, top1: Float[np.ndarray, "methods k"], model: str) -> "Figure":
    ks = np.arange(1, top1.shape[1] + 1)
    # The paper's curves may lie far above or below ours, and what matters of both is how they bend.
    with drawing((6.4, 5.6), rows=(3, 2)) as (figure, (ours, stated)):
        for name, curve in zip(METHODS, top1, strict=True):
            colour, stroke = STROKES[name]
            ours.plot(ks, curve, color=colour, ls=stroke, lw=1.8, label=name)
            stated.plot(TABLE_KS, AGGREGATION[model][name], "o", color=colour, ls=stroke, lw=1.2, markersize=3)
        if model in NEAREST:
            stated.plot(1, NEAREST[model], "o", color=INK, markersize=4)
            stated.annotate("nearest alone (Table 9)", (1, NEAREST[model]), xytext=(6, -3), textcoords="offset points")
        ours.set(ylabel="top-1 accuracy (%)", title=f"{readable(found.name)}, {readable(found.embedder)}")
        stated.set(xlabel="number of neighbours that vote, k", ylabel="top-1 accuracy (%)", title=where(model))
        figure.legend(fontsize=8, loc="outside lower center", ncols=4)
    return figure
