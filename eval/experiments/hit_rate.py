"""How often a right label is among the first k neighbours' (Geirhos et al., Figure 11, appendix E)."""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from eval.drawing import BLUE, INK, ORANGE, drawing, readable
from eval.experiments.base import Analysis, Neighborhoods
from eval.experiments.published import HIT_RATE, TABLE_KS
from eval.experiments.votes import BY_METHOD, accuracy_every_k, right_neighbors
from retrieval.voting import DEFAULT_METHOD

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def hit_rate(found: Neighborhoods) -> Analysis:
    """Return the hit rate at every k: the ceiling of whatever picks among the neighbours' labels."""
    results, right = found.results, right_neighbors(found)
    hits = 100.0 * np.logical_or.accumulate(right, axis=1).mean(axis=0)
    vote = accuracy_every_k(
        results.neighbor_labels.codes,
        results.neighbor_distances,
        right,
        [BY_METHOD[DEFAULT_METHOD]],
        factors=results.reliabilities,
    )[0]
    k = len(hits)
    return Analysis(
        name="hit_rate",
        title="Hit rate by number of neighbours",
        source="Figure 11; appendix E",
        columns=("k", "hit rate (%)", "rank voting (%)"),
        rows=list(zip(range(1, k + 1), hits.tolist(), vote.tolist(), strict=True)),
        finding=f"With {k} neighbours a right label is among theirs for {hits[-1]:.1f} % of the queries, where rank"
        f" voting picks it for {vote[-1]:.1f} %: {hits[-1] - vote[-1]:.1f} points are left for a better choice.",
        draw=lambda: _draw(found, hits, vote),
        notes=[f"The paper states {HIT_RATE:.0f} % at k = 100 for its best model on ImageNet, and no other number."],
    )


def _draw(found: Neighborhoods, hits: Float[np.ndarray, " k"], vote: Float[np.ndarray, " k"]) -> "Figure":
    ks = np.arange(1, len(hits) + 1)
    with drawing((6.4, 4.2), f"{readable(found.name)}, {readable(found.embedder)}") as (figure, axes):
        axes.plot(ks, hits, color=BLUE, lw=1.8, label="hit rate")
        axes.plot(ks, vote, color=ORANGE, ls="--", lw=1.8, label="rank voting")
        best_model = "hit rate of the best model, ImageNet (paper, appendix E)"
        axes.plot(TABLE_KS[-1], HIT_RATE, "*", color=INK, markersize=9, label=best_model)
        axes.set(xlabel="number of neighbours, k", ylabel="queries (%)", ylim=(None, 101))
        figure.legend(fontsize=8, loc="outside lower center", ncols=3)
    return figure
