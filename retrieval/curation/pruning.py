"""How far each item of a memory can be relied on, from querying the memory with itself (section 3.6, appendix I).

An item helps a query whose label it has, and hurts one whose label is another: the paper's "contributed to a wrong
decision", counted as its release counts it (code/main_analysis_plots.ipynb), whatever the whole vote decided. What
hurts too often is left out (hard pruning), or has less weight the more often it hurts (soft).

Where an item's class has fewer items than neighbours are counted, some neighbours must be of other labels, and would be
blamed for the size of the class. So a neighbour counts only among as many of the nearest as half the class: as many as
could all be of its label with as many to spare. With the whole class in place of half of it, classes of 8 lose 1.6
points on pictures that are not in the memory; with half of it, nothing.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Int

from retrieval.errors import InvalidArgument
from retrieval.indexes.base import Skipped
from retrieval.indexes.exact import ExactIndex
from retrieval.voting import Factors, predict_every_k

NEIGHBORS: Final = {"soft": 10, "hard": 100}  # that each item is answered with (the release; appendix I for hard)
HARD_LIMIT: Final = 128  # wrong votes from which an item is left out (appendix I)
SOFT_SCALE: Final = 1.75  # d of appendix I
SOFT_OFFSET: Final = 1.0  # c of appendix I
_ITEMS_AT_A_TIME: Final = 8192  # a search's answers for so many take some 10 MB

Search = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
"""From unit vectors and k to rows and distances, each of shape (vectors, k), nearest first: as `Index.search`."""


@dataclass(frozen=True, slots=True, eq=False)
class Ledger:
    """How often each item was among the neighbours of another."""

    helped: Int[np.ndarray, " items"]  # with the label of that other one
    hurt: Int[np.ndarray, " items"]  # with another label: v of appendix I


def count_self_votes(
    vectors: Float[np.ndarray, "items dimension"],
    labels: Int[np.ndarray, " items"],
    search: Search,
    *,
    k: int,
    within: Int[np.ndarray, " items"] | None = None,
) -> Ledger:
    """Return how often each item helps and hurts when every item of a memory is a query to all others (appendix I).

    Memory grows with the number of items, not with items × k.

    Args:
        vectors: of the memory, of length 1.
        labels: of its items, as numbers.
        search: answers from the same vectors, in the same order.
        k: neighbours of each query.
        within: how many of each query's nearest neighbours count, as `half_of_class` gives them; None: all k.

    Raises:
        InvalidArgument: k below 1.
    """
    return count_votes(((own, rows) for own, rows, _ in nearest_others(vectors, search, k=k)), labels, within=within)


def half_of_class(labels: Int[np.ndarray, " items"]) -> Int[np.ndarray, " items"]:
    """Return half the size of each item's class, rounded down: 0 for an item that is the only one of its label."""
    half: np.ndarray = np.bincount(labels)[labels] // 2
    return half


def nearest_others(
    vectors: Float[np.ndarray, "items dimension"],
    search: Search,
    *,
    k: int,
    asked: Int[np.ndarray, " asked"] | None = None,
) -> Iterator[tuple[Int[np.ndarray, " some"], Int[np.ndarray, "some k"], Float[np.ndarray, "some k"]]]:
    """Yield rows of items with rows and distances of their k nearest others, some thousand items at a time.

    k is clipped to the number of other items, and to what the search gives less one. ``asked``: rows of the items that
    are asked about; None: all.

    Raises:
        InvalidArgument: k below 1.
    """
    if k < 1:
        raise InvalidArgument(f"k={k}: each item is to be answered with one neighbour or more")
    asked = np.arange(len(vectors)) if asked is None else asked
    for start in range(0, len(asked), _ITEMS_AT_A_TIME):
        own = asked[start : start + _ITEMS_AT_A_TIME]
        rows, distances = search(vectors[own], min(k + 1, len(vectors)))
        others = other_places(rows, own)
        yield own, *(found[others].reshape(len(own), -1) for found in (rows, distances))


def blocks_of(items: int) -> int:
    """Return how many times `nearest_others` yields for so many items, for a progress bar."""
    return -(-items // _ITEMS_AT_A_TIME)


def other_places(
    rows: Int[np.ndarray, "queries found"], own: Int[np.ndarray, " queries"]
) -> Bool[np.ndarray, "queries found"]:
    """Tell all but one of each query's neighbours: all but its own item wherever that stands, else but the farthest.

    The paper discards the first neighbour. Where pictures are in a memory twice that may be the other one, and the item
    would vote for itself.
    """
    others: np.ndarray = rows != own[:, None]
    others[others.all(axis=1), -1:] = False
    return others


def count_votes(
    found: Iterable[tuple[Int[np.ndarray, " _"], Int[np.ndarray, "_ k"]]],
    labels: Int[np.ndarray, " items"],
    *,
    within: Int[np.ndarray, " items"] | None = None,
) -> Ledger:
    """Return how often each item helps and hurts.

    Args:
        found: rows of items that were queries, with the rows of their neighbours, nearest first.
        labels: of all items, as numbers.
        within: how many of each query's nearest neighbours count; None: all.
    """
    helped, hurt = np.zeros(len(labels), np.int64), np.zeros(len(labels), np.int64)
    for queries, neighbors in found:
        counted = _counted(queries, neighbors, within)
        same = labels[neighbors] == labels[queries][:, None]
        helped += np.bincount(neighbors[same & counted], minlength=len(labels))
        hurt += np.bincount(neighbors[~same & counted], minlength=len(labels))
    return Ledger(helped, hurt)


def wrong_votes(
    queries: Int[np.ndarray, " queries"],
    neighbors: Int[np.ndarray, "queries k"],
    labels: Int[np.ndarray, " items"],
    *,
    within: Int[np.ndarray, " items"] | None = None,
) -> Bool[np.ndarray, "queries k"]:
    """Tell which neighbours hurt the items that they are neighbours of; arguments as for `count_votes`."""
    differs: np.ndarray = labels[neighbors] != labels[queries][:, None]
    differs &= _counted(queries, neighbors, within)
    return differs


def _counted(
    queries: Int[np.ndarray, " queries"], neighbors: Int[np.ndarray, "queries k"], within: np.ndarray | None
) -> Bool[np.ndarray, "#queries k"]:
    ranks = np.arange(neighbors.shape[1])[None]
    counted: np.ndarray = ranks >= 0 if within is None else ranks < within[queries][:, None]
    return counted


def leave_one_out(
    vectors: Float[np.ndarray, "items dimension"],
    labels: Int[np.ndarray, " items"],
    asked: Int[np.ndarray, " asked"],
    reliability: Float[np.ndarray, " items"],
    *,
    k: int,
    factors_of: Callable[[np.ndarray, np.ndarray], Factors] | None = None,
) -> Bool[np.ndarray, " asked"]:
    """Tell which items get their own label from the rank vote of their k nearest others, compared exactly.

    Similarities are computed in blocks, and no more than k of each item's are kept.

    Args:
        vectors: of the memory, of length 1.
        labels: of its items, as numbers.
        asked: rows of the items that are asked about.
        reliability: by which an item's vote is multiplied; where it is 0 the item is not found.
        k: neighbours that vote, clipped to as many as there are.
        factors_of: from rows of asked items and of their neighbours to what the votes are multiplied by, where that is
            not the neighbour's reliability.
    """
    skip = Skipped(reliability == 0)
    living, index = len(vectors) - skip.number, ExactIndex(vectors)

    def search(queries: np.ndarray, wanted: int) -> tuple[np.ndarray, np.ndarray]:
        return index.search(queries, min(wanted, living), skip=skip if skip.number else None)

    right = np.zeros(len(asked), bool)
    done = 0
    for own, rows, distances in nearest_others(vectors, search, k=k, asked=asked) if living > 1 else ():
        factors = reliability[rows] if factors_of is None else factors_of(own, rows)
        won = predict_every_k(labels[rows], distances, factors=factors)[:, -1]
        right[done : done + len(own)] = won == labels[own]
        done += len(own)
    return right


def kept_items(hurt: Int[np.ndarray, " items"], *, limit: int = HARD_LIMIT) -> Bool[np.ndarray, " items"]:
    """Tell which items hard pruning keeps: those that hurt less often than the limit (appendix I).

    Raises:
        InvalidArgument: a limit below 1, at which nothing could be kept.
    """
    if limit < 1:
        raise InvalidArgument(f"a limit of {limit} wrong votes leaves no item: 1 or more expected")
    kept: np.ndarray = hurt < limit
    return kept


def reliability(
    hurt: Int[np.ndarray, "*any"], *, scale: float = SOFT_SCALE, offset: float = SOFT_OFFSET
) -> Float[np.ndarray, "*any"]:
    """Return what soft pruning multiplies each item's weight by: γ = d / (c + v), and 1 where v = 0 (appendix I).

    Raises:
        InvalidArgument: d or c not above 0.
    """
    if not (0 < scale < np.inf and 0 < offset < np.inf):
        raise InvalidArgument(f"scale {scale} and offset {offset}: both must be finite and above 0")
    return np.where(hurt == 0, 1.0, scale / (offset + hurt))
