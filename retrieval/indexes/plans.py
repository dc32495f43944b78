"""How a ScaNN tree is laid out, and how much of it a search has to look at.

The layout goes by size and dimension. The effort goes by the vectors themselves: of 100,000 in 632 leaves, 14 % of the
leaves hold 0.99 of the neighbours where classes are far apart, and 30 % hold 0.92 where they overlap and have few more
members than neighbours are asked for (benchmarks/tuning.py, noise 1 and 2). No table by size fits both. So a tree,
once filled, is asked for the neighbours of some of its vectors, and the cheapest plan that finds enough is kept.
Those vectors are none that it was trained on: centres lie nearer to these, of whose neighbours 0.995 are found where of
other queries' only 0.982 are (100,000 vectors, noise 1, 5 % of the leaves).

Queries differ, too: those that lie far from their neighbours have these in many leaves. A plan therefore looks into few
leaves first, and into many for the queries whose neighbours turn out to be far, as Li et al. stop early for easy ones
("Improving approximate nearest neighbor search through learned adaptive early termination", SIGMOD 2020).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float

from retrieval.indexes.base import MOST_RECALL

RECALLS: Final = (*(round(0.9 + step / 1000, 3) for step in range(100)), MOST_RECALL)
"""Shares of the true neighbours, on average, that plans are made for."""

_ASKED: Final = 2000  # vectors whose neighbours are looked for
_ASKED_SHARE: Final = 20  # one in so many of a small tree's, which then takes a third of the time to build
NEIGHBORS: Final = 50  # of each: the paper's k
_SHARES: Final = (
    *(0.0007, 0.0014),  # one leaf and two of a million vectors
    *(0.002, 0.003, 0.005, 0.007, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.065, 0.08, 0.09, 0.1, 0.12, 0.14, 0.165),
    *(0.2, 0.25, 0.3, 0.36, 0.43, 0.5, 0.6, 0.7, 0.85, 1.0),
)  # of the leaves
_CANDIDATES: Final = (100, 150, 175, 200, 225, 250, 300, 350, 400, 450, 500, 700, 1000)  # compared exactly
_FAR: Final = (0.0, 0.02, 0.05, 0.08, 0.12, 0.16, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6)  # shares of the queries asked twice
_CODES_A_CANDIDATE: Final = 20
_CODES_A_LEAF: Final = 4
"""Vectors that are compared by their codes in the time that one is compared exactly, or one leaf's centre: with
1,000,000 of 384 dimensions, a leaf of 500 more costs 1.18 µs a query, a candidate 0.047, 2,000 centres 19 (2 cores,
batches of 1,000)."""

NONE_IS_FARTHER: Final = 2.0  # cosine distance


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
        return Effort(round(self.leaves * factor), round(self.candidates * factor))


@dataclass(frozen=True, slots=True)
class Plan:
    """An effort for all queries, and another for those that lie far from their neighbours."""

    first: Effort
    beyond: float  # distance of neighbour number `NEIGHBORS`, from which a query is asked again
    second: Effort

    def for_neighbors(self, k: int) -> "Plan":
        """Return the plan for another number of neighbours than `NEIGHBORS`: no less for fewer.

        For more, all queries are asked as those that lie far, in proportion: neighbours beyond a class's members lie
        anywhere, and a query that is near its first 50 tells nothing of them. Where 0.99 is asked for, that
        finds 0.998 of 100 and of 1,000 neighbours, among 100,000 vectors in classes of 100.
        """
        if k <= NEIGHBORS:
            return self
        effort = self.second.times(k / NEIGHBORS)
        return Plan(effort, NONE_IS_FARTHER, effort.times(2.0))

    def times(self, factor: float) -> "Plan":
        """Return so many times the effort."""
        return Plan(self.first.times(factor), self.beyond, self.second.times(factor))

    def again(self) -> "Plan":
        """Return the plan for queries that are asked again, and again with twice the effort each time."""
        return Plan(self.second, NONE_IS_FARTHER, self.second.times(2.0))


def asked_of(items: int) -> int:
    """Return how many of a tree's vectors are asked about their neighbours, on which it is not trained."""
    return min(_ASKED, items // _ASKED_SHARE)


def layout_for(items: int) -> Layout:
    """Return the layout for a number of vectors.

    Leaves of 1.4 × the root serve both kinds of search. One query alone is compared with every leaf's centre, so that
    fewer leaves are faster; of a batch the centres cost next to nothing, and more leaves hold less that is not asked
    for. Queries a second in batches of 1,000, and µs alone (1,000,000 vectors, noise as in benchmarks/clustered.py):

        recall, dimensions, noise    1 × √n            1.4 × √n          2 × √n
        0.99     384   2             17,200, 102       24,000, 107       22,700, 126
        0.99     384   2.25           2,260, 590        3,110, 290        3,130, 440
        0.99   1,024   2                               12,700, 203       10,900, 250
        0.999    384   2              3,430, 340        5,610, 160        6,070, 230
        0.999    384   2.25             470, 7,500        750, 2,100        780, 3,200
        0.999  1,024   2                               10,800, 230        9,830, 270

    At 100,000 × 384 the two on the right are as fast as each other. Two dimensions to a code word are faster than four,
    which need twice the candidates. A tree trained on 125 vectors a leaf is as good as one trained on all.
    """
    leaves = round(1.4 * math.sqrt(items))
    return Layout(leaves, 2, min(items - asked_of(items), 125 * leaves))


def cheapest_plans(
    search: Callable[[Effort], tuple[Bool[np.ndarray, "queries candidates"], Float[np.ndarray, "queries candidates"]]],
    *,
    items: int,
    leaves: int,
) -> list[Plan]:
    """Return the cheapest plan for each of `RECALLS`; the greatest effort where none is enough.

    Enough is a mean recall that is above what is asked for, less its standard error. A plan is made of any two efforts
    that were tried, the second for any of the shares of the queries that are asked twice.

    Args:
        search: from an effort to whether each candidate, the most likely first, is one of the true neighbours, and to
            its distance, NaN for one that does not count.
        items: vectors in the tree.
        leaves: of the tree.
    """
    efforts, costs, recalls_of, reach_of = [], [], [], []
    for inside in sorted({math.ceil(share * leaves) for share in _SHARES}):
        right, distances = search(Effort(inside, _CANDIDATES[-1]))
        found = np.minimum(np.cumsum(right, axis=1), NEIGHBORS) / np.float32(NEIGHBORS)
        for candidates in _CANDIDATES:
            efforts.append(Effort(inside, candidates))
            costs.append(inside / leaves * items + _CODES_A_CANDIDATE * candidates + _CODES_A_LEAF * leaves)
            recalls_of.append(found[:, candidates - 1])
            reach_of.append(np.partition(distances[:, :candidates], NEIGHBORS - 1, axis=1)[:, NEIGHBORS - 1])
        most = recalls_of[-1]
        if most.mean() - most.std() / math.sqrt(len(most)) >= MOST_RECALL:
            break  # more leaves find no more, and cost more
    recalls, cost = np.stack(recalls_of), np.array(costs)
    reach = np.nan_to_num(np.stack(reach_of), nan=np.inf)  # distance of neighbour number `NEIGHBORS` in what was found
    farthest = np.sort(reach, axis=1)
    last, number = recalls.shape[1] - 1, np.float32(recalls.shape[1])
    sure, price, beyond = [], [], []
    for share in _FAR:
        limit = np.minimum(farthest[:, math.ceil(last * (1 - share))], np.float32(NONE_IS_FARTHER))
        far = (reach > limit[:, None]).astype(np.float32)
        means, squares = (
            (np.vecdot(1 - far, values)[:, None] + far @ values.T) / number for values in (recalls, recalls**2)
        )
        sure.append(means - np.sqrt(np.maximum(squares - means**2, 0) / number))
        price.append(cost[:, None] + far.mean(axis=1)[:, None] * cost)
        beyond.append(limit)
    all_sure, all_prices = np.stack(sure), np.stack(price)
    plans = []
    for least in RECALLS:
        enough = np.where(all_sure >= least, all_prices, np.inf)
        place = np.unravel_index(int(enough.argmin()), enough.shape)
        share, first, second = (int(number) for number in place)
        effort = efforts[first if np.isfinite(enough[place]) else -1]
        if _FAR[share] and np.isfinite(enough[place]):
            plans.append(Plan(effort, float(beyond[share][first]), efforts[second]))
        else:
            plans.append(Plan(effort, NONE_IS_FARTHER, effort.times(2.0)))
    return plans
