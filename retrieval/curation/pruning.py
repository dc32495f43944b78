"""How far each item of a memory can be relied on, from querying the memory with itself (section 3.6, appendix I).

An item helps a query whose label it has, and hurts one whose label is another: the paper's "contributed to a wrong
decision". What it hurts too often is left out (hard pruning), or has less weight the more often it hurts (soft).
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Int

from retrieval.errors import InvalidArgument

SELF_NEIGHBORS: Final = 100  # that each item is answered with (appendix I)
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
    k: int = SELF_NEIGHBORS,
) -> Ledger:
    """Return how often each item helps and hurts when every item of a memory is a query to all others (appendix I).

    Memory grows with the number of items, not with items × k.

    Args:
        vectors: of the memory, of length 1.
        labels: of its items, as numbers.
        search: answers from the same vectors, in the same order.
        k: neighbours of each query.

    Raises:
        InvalidArgument: k below 1.
    """
    return count_votes(((own, rows) for own, rows, _ in nearest_others(vectors, search, k=k)), labels)


def nearest_others(
    vectors: Float[np.ndarray, "items dimension"], search: Search, *, k: int
) -> Iterator[tuple[Int[np.ndarray, " some"], Int[np.ndarray, "some k"], Float[np.ndarray, "some k"]]]:
    """Yield rows of items with rows and distances of their k nearest others, some thousand items at a time.

    k is clipped to the number of other items.

    Raises:
        InvalidArgument: k below 1.
    """
    if k < 1:
        raise InvalidArgument(f"k={k}: each item is to be answered with one neighbour or more")
    wanted = min(k + 1, len(vectors))
    for start in range(0, len(vectors), _ITEMS_AT_A_TIME):
        own = np.arange(start, min(start + _ITEMS_AT_A_TIME, len(vectors)))
        rows, distances = search(vectors[own], wanted)
        others = other_places(rows, own)
        yield own, *(found[others].reshape(len(own), wanted - 1) for found in (rows, distances))


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
    found: Iterable[tuple[Int[np.ndarray, " _"], Int[np.ndarray, "_ k"]]], labels: Int[np.ndarray, " items"]
) -> Ledger:
    """Return how often each item helps and hurts.

    Args:
        found: rows of items that were queries, with the rows of their neighbours.
        labels: of all items, as numbers.
    """
    helped, hurt = np.zeros(len(labels), np.int64), np.zeros(len(labels), np.int64)
    for queries, neighbors in found:
        same = labels[neighbors] == labels[queries][:, None]
        helped += np.bincount(neighbors[same], minlength=len(labels))
        hurt += np.bincount(neighbors[~same], minlength=len(labels))
    return Ledger(helped, hurt)


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
    hurt: Int[np.ndarray, " items"], *, scale: float = SOFT_SCALE, offset: float = SOFT_OFFSET
) -> Float[np.ndarray, " items"]:
    """Return what soft pruning multiplies each item's weight by: γ = d / (c + v), and 1 where v = 0 (appendix I).

    Raises:
        InvalidArgument: d or c not above 0.
    """
    if not (scale > 0 and offset > 0):
        raise InvalidArgument(f"scale {scale} and offset {offset}: both must be above 0")
    return np.where(hurt == 0, 1.0, scale / (offset + hurt))
