"""How a ScaNN tree is laid out, and how much of it a search has to look at.

The layout goes by size and dimension. The effort goes by the vectors themselves: of 100,000 in 632 leaves, 14 % of the
leaves hold 0.99 of the neighbours where classes are far apart, and 30 % hold 0.92 where they overlap and have few more
members than neighbours are asked for (benchmarks/tuning.py, noise 1 and 2). No table by size fits both. So a tree,
once filled, is asked for the neighbours of some of its vectors, and the cheapest effort that finds enough is kept.
Those vectors are none that it was trained on: centres lie nearer to these, of whose neighbours 0.995 are found where of
other queries' only 0.982 are (100,000 vectors, noise 1, 5 % of the leaves).
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

ASKED: Final = 1000  # vectors whose neighbours are looked for
NEIGHBORS: Final = 50  # of each: the paper's k
_MARGIN: Final = 2e-4
"""By which the mean of their recalls must be above what is asked for, less its standard error. The table keeps vectors
in float16: of the neighbours among float32 vectors, 0.0002 to 0.0004 fewer are found (1,000,000 × 384)."""

_SHARES: Final = (
    *(0.002, 0.003, 0.005, 0.007, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.065, 0.08, 0.09, 0.1, 0.12, 0.14, 0.165),
    *(0.2, 0.25, 0.3, 0.36, 0.43, 0.5, 0.7, 1.0),
)  # of the leaves
_CANDIDATES: Final = (100, 150, 175, 200, 225, 250, 300, 350, 400, 450, 500, 700, 1000)  # compared exactly
_CODES_A_CANDIDATE: Final = 40
"""Vectors that are compared by their codes in the time that one is compared exactly: with 1,000,000 of 384 dimensions,
a leaf of 500 more costs 1.18 µs a query, a candidate more 0.095 µs (2 cores, batches of 1,000)."""


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

    Args:
        items: more than `ASKED`, which it is not trained on.
    """
    leaves = round(2 * math.sqrt(items))
    return Layout(leaves, 2, min(items - ASKED, 125 * leaves))


def cheapest_efforts(
    search: Callable[[Effort], Bool[np.ndarray, "queries candidates"]], *, items: int, leaves: int
) -> list[Effort]:
    """Return the cheapest effort for each of `RECALLS`; the greatest where none is enough.

    Args:
        search: from an effort to whether each candidate, the most likely first, is one of the true neighbours.
        items: vectors in the tree.
        leaves: of the tree.
    """
    tried: list[tuple[float, Effort, float]] = []  # cost, effort, recall that is sure
    for inside in sorted({math.ceil(share * leaves) for share in _SHARES}):
        right = np.minimum(np.cumsum(search(Effort(inside, _CANDIDATES[-1])), axis=1), NEIGHBORS) / NEIGHBORS
        for candidates in _CANDIDATES:
            recalls = right[:, candidates - 1]
            sure = float(recalls.mean() - recalls.std() / math.sqrt(len(recalls)))
            cost = inside / leaves * items + _CODES_A_CANDIDATE * candidates
            tried.append((cost, Effort(inside, candidates), sure))
        if sure >= RECALLS[-1] + _MARGIN:
            break  # more leaves find no more, and cost more
    return [_cheapest(tried, least + _MARGIN) for least in RECALLS]


def _cheapest(tried: Sequence[tuple[float, Effort, float]], least: float) -> Effort:
    enough = [(cost, effort) for cost, effort, sure in tried if sure >= least]
    return min(enough, key=lambda pair: pair[0])[1] if enough else tried[-1][1]
