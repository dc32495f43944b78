"""How a ScaNN tree is laid out, and how much of it a search has to look at.

The layout goes by size and dimension. The effort goes by the vectors themselves: of 100,000 in 632 leaves, 14 % of the
leaves hold 0.99 of the neighbours where classes are far apart, and 30 % hold 0.92 where they overlap and have few more
members than neighbours are asked for (benchmarks/tuning.py, noise 1 and 2). No table by size fits both. So a tree,
once filled, is asked for the neighbours of some of its own vectors, and the cheapest effort that finds enough is kept.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool

from retrieval.indexes.base import DEFAULT_RECALL, MOST_RECALL

RECALLS: Final = (DEFAULT_RECALL, MOST_RECALL)
"""What a search can be asked for: at least this share of the true neighbours, on average."""

ASKED: Final = 1000  # vectors whose neighbours are looked for: the mean of their recalls is sure to within 0.001
NEIGHBORS: Final = 50  # of each: the paper's k
_WANTED: Final = (0.992, 0.9995)
"""For each of them, of the neighbours among rows in float16: of those among float32, 0.0004 fewer are found (1,000,000
× 384). The rest is for chance, and for queries that are no items."""

_SHARES: Final = (
    *(0.003, 0.005, 0.007, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.065, 0.08, 0.1, 0.12, 0.14, 0.165, 0.2, 0.25),
    *(0.3, 0.36, 0.43, 0.5, 0.7, 1.0),
)  # of the leaves
_CANDIDATES: Final = (2, 3, 4, 5, 6, 7, 8, 10, 14, 20)  # compared exactly, for each neighbour
_CODES_A_CANDIDATE: Final = 430
"""Vectors that are compared by their codes in the time that one is compared exactly: with 1,000,000 of 384 dimensions,
133 leaves of 500 more cost 78 µs a query, 150 candidates more 77 µs (2 cores)."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What is fixed when a tree is trained."""

    leaves: int
    dimensions_per_word: int  # that share one of 16 code words
    sample: int  # vectors that it is trained on


@dataclass(frozen=True, slots=True)
class Effort:
    """What a search may cost."""

    leaves: int  # looked into; more than there are is all of them
    candidates: int  # compared exactly

    def times(self, factor: float) -> "Effort":
        """Return so many times the effort."""
        return Effort(math.ceil(self.leaves * factor), math.ceil(self.candidates * factor))

    def for_neighbors(self, k: int) -> "Effort":
        """Return the effort for another number of neighbours than `NEIGHBORS`: no less for fewer.

        In proportion, for the leaves too: neighbours beyond a class's members lie anywhere. Where 0.99 is asked for,
        that finds 0.987 of 100 and 0.92 of 1,000 neighbours, among 100,000 vectors in classes of 100.
        """
        return self.times(max(1.0, k / NEIGHBORS))


def layout_for(items: int) -> Layout:
    """Return the layout for a number of vectors.

    Leaves of 2 × the root are the fastest of 0.5 to 4 at recall 0.99 for 1,000 to 1,000,000 vectors, and two dimensions
    to a code word faster than four, which need twice the candidates (1,000,000 × 384, 1,000 classes). A tree trained on
    125 vectors a leaf is as good as one trained on all.
    """
    leaves = round(2 * math.sqrt(items))
    return Layout(leaves, 2, min(items, 125 * leaves))


def cheapest_efforts(
    search: Callable[[Effort], Bool[np.ndarray, "queries candidates"]], *, items: int, leaves: int
) -> list[Effort]:
    """Return the cheapest effort for each of `RECALLS`; the greatest where none is enough.

    Args:
        search: from an effort to whether each candidate, the most likely first, is one of the true neighbours.
        items: vectors in the tree.
        leaves: of the tree.
    """
    tried: list[tuple[float, Effort, float]] = []  # cost, effort, recall
    most = NEIGHBORS * _CANDIDATES[-1]
    for share in _SHARES:
        inside = math.ceil(share * leaves)
        right = np.minimum(np.cumsum(search(Effort(inside, most)), axis=1), NEIGHBORS)
        for each in _CANDIDATES:
            candidates = each * NEIGHBORS
            recall = float(right[:, candidates - 1].mean()) / NEIGHBORS
            tried.append((share * items + _CODES_A_CANDIDATE * candidates, Effort(inside, candidates), recall))
        if recall > _WANTED[-1]:
            break  # more leaves find no more, and cost more
    return [_cheapest(tried, least) for least in _WANTED]


def _cheapest(tried: Sequence[tuple[float, Effort, float]], least: float) -> Effort:
    enough = [(cost, effort) for cost, effort, recall in tried if recall >= least]
    return min(enough, key=lambda pair: pair[0])[1] if enough else tried[-1][1]
