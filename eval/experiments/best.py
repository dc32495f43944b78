"""Accuracy at the best number of neighbours, as the paper's Tables 1 and 3 give it (appendix I)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import Bool, Float

from eval.intervals import mcnemar_p
from eval.scoring import interval, is_right, percent, truth_codes, winners
from eval.types import Interval, Percent, QueryResults
from retrieval.errors import InvalidArgument
from retrieval.voting import Factors

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OPTIMISTIC: Final = (
    "Each figure is the best over every number of neighbours, chosen on the queries that are scored, as in the paper: "
    "it is a little optimistic."
)


@dataclass(frozen=True, slots=True, eq=False)
class Best:
    """Top-1 accuracy at the number of neighbours that makes it highest."""

    top1: Percent
    interval: Interval  # 95 %, Wilson, at that number
    k: int
    with_all: Percent  # accuracy with all neighbours instead
    right: Bool[np.ndarray, " queries"]  # which queries are right at that number

    def p_of_change(self, before: "Best") -> float:
        """Return two-sided p of McNemar's exact test that the same queries do as well as before."""
        fixed, broken = int((self.right & ~before.right).sum()), int((before.right & ~self.right).sum())
        return float(mcnemar_p(np.array([fixed]), np.array([broken]))[0])


def right_by_k(results: QueryResults, method: str, *, factors: Factors | None = None) -> Bool[np.ndarray, "queries k"]:
    """Tell which queries a method answers rightly with 1, 2, …, k neighbours; see `predict_every_k`."""
    return is_right(winners(results, method, factors=factors), truth_codes(results))


def best_over_k(right: Bool[np.ndarray, "queries k"]) -> Best:
    """Return the highest accuracy; of equal ones that with the fewest neighbours.

    Raises:
        InvalidArgument: no query.
    """
    if not len(right):
        raise InvalidArgument("there is no query to be scored: give pictures that the memory's labels are right for")
    k = int(right.mean(axis=0).argmax()) + 1
    chosen = right[:, k - 1]
    return Best(percent(chosen), interval(chosen), k, percent(right[:, -1]), chosen)


def draw_best(axes: "Axes", places: Float[np.ndarray, " places"], best: Sequence[Best], **style: str) -> None:
    """Draw accuracies with their intervals, each at its place."""
    middle = np.array([one.top1 for one in best])
    reach = np.abs(np.array([one.interval for one in best]).T - middle)
    axes.errorbar(places, middle, yerr=reach, capsize=3, ls="none", **style)  # type: ignore[arg-type]
