"""Accuracy by the count of the most frequent label (Geirhos et al., appendix M, Figure 15)."""

from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import Bool, Float, Int

from eval.calibration import calibrate
from eval.drawing import BLUE, INK, drawing, readable
from eval.experiments.base import Analysis, Cell, Neighborhoods
from eval.intervals import wilson_interval
from eval.scoring import is_right, truth_codes
from retrieval.voting import heaviest_labels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BINS: Final = 20  # so that 100 neighbours make bins of five counts


def calibration(found: Neighborhoods) -> Analysis:
    """Return how often the label that most neighbours share is right, by how many share it."""
    results = found.results
    labels, shares = heaviest_labels(
        results.neighbor_labels.codes, results.neighbor_distances, count=1, method="plurality"
    )
    right = is_right(labels, truth_codes(results))[:, 0]
    counts = np.rint(shares[:, 0] * results.k).astype(np.int64)
    ece = calibrate(shares[:, 0], right).ece
    rows = _bins(counts, right, results.k)
    share, top1 = 100.0 * float(shares.mean()), 100.0 * float(right.mean())
    return Analysis(
        name="calibration",
        title="Accuracy by the count of the most frequent label",
        source="Figure 15; appendix M",
        columns=("count from", "to", "queries", "mean count", "top-1 (%)", "95 % from (%)", "to (%)"),
        rows=rows,
        finding=f"The most frequent label holds {share:.1f} % of {results.k} neighbours on average and is right for"
        f" {top1:.1f} % of the queries: counts are {_which_way(top1 - share)}, with an expected calibration error of"
        f" {ece:.1f} points.",
        draw=lambda: _draw(found, rows),
        notes=[
            "Of labels with the same count, the one that reached it nearest to the query counts.",
            "The paper shows the same plot of three DINOv2 models on ImageNet, without numbers in its text.",
        ],
    )


def _which_way(points: float) -> str:
    """Return what accuracy less share means; a point more or less is none."""
    if abs(points) < 1.0:
        return "about right on average"
    return "too modest" if points > 0 else "too sure"


def _bins(counts: Int[np.ndarray, " queries"], right: Bool[np.ndarray, " queries"], k: int) -> list[tuple[Cell, ...]]:
    """Return one row for each range of counts that a query has."""
    width = max(1, -(-k // _BINS))
    rows: list[tuple[Cell, ...]] = []
    for low in range(1, k + 1, width):
        high = min(low + width - 1, k)
        within = (low <= counts) & (counts <= high)
        if total := int(within.sum()):
            hits = int(right[within].sum())
            mean = float(counts[within].mean())
            rows.append((low, high, total, mean, 100.0 * hits / total, *wilson_interval(hits, total)))
    return rows


def _draw(found: Neighborhoods, rows: list[tuple[Cell, ...]]) -> "Figure":
    k = found.results.k
    table: Float[np.ndarray, "bins 7"] = np.array(rows, float)
    queries, count, top1, low, high = table[:, 2:].T
    with drawing((6.4, 4.8), rows=(3, 1)) as (figure, (upper, lower)):
        upper.set_title(f"{readable(found.name)}, {readable(found.embedder)}")
        upper.plot([0, k], [0, 100], color=INK, lw=1, ls=":", label="count = accuracy")
        upper.errorbar(
            count, top1, yerr=np.maximum([top1 - low, high - top1], 0.0), fmt="o-", color=BLUE, markersize=4, capsize=2,
            label="plurality voting, with 95 % intervals",
        )  # fmt: skip
        upper.set(ylabel="top-1 accuracy (%)", ylim=(-2, 102))
        upper.legend(fontsize=8)
        middle, width = table[:, :2].mean(axis=1), table[:, 1] - table[:, 0] + 0.8
        lower.bar(middle, 100.0 * queries / queries.sum(), width, color=BLUE)
        lower.set(ylabel="queries (%)", xlabel=f"count of the most frequent label among {k} neighbours")
    return figure
