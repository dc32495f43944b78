"""A memory with some of its items, answered from the one wide search of the whole memory wherever that reaches."""

from collections.abc import Iterator
from typing import Final

import numpy as np
from jaxtyping import Bool, Int

from eval.experiments.material import MOST_NEIGHBORS, Material
from eval.types import Names, QueryResults
from retrieval.errors import InvalidArgument
from retrieval.indexes.base import ArrayBlocks
from retrieval.indexes.exact import ExactIndex

WIDE: Final = 500  # neighbours searched once: a mask that keeps a third of a memory mostly finds 100 among them
_QUERIES_AT_A_TIME: Final = 4096  # whose wide neighbours are looked through together


def neighbors_within(material: Material, kept: Bool[np.ndarray, " items"], *, k: int = MOST_NEIGHBORS) -> QueryResults:
    """Return what the queries would find in a memory of the kept items alone, without building it.

    Neighbours in the whole memory are looked through for kept ones; queries for which too few are among them are
    compared with the kept items. k is clipped to the number of these. Where the index of the whole memory is exact, so
    is the answer, ties included.

    Raises:
        InvalidArgument: no item is kept.
    """
    items = np.flatnonzero(kept)
    if not len(items):
        raise InvalidArgument("no item of the memory is kept: leave at least one in it")
    k = min(k, len(items))
    wide = material.neighbors(max(WIDE, k)).results
    rows, distances = np.empty((len(wide), k), np.int64), np.empty((len(wide), k), np.float32)
    short = np.ones(len(wide), bool)
    for some, columns in _kept_columns(wide.neighbor_ids.codes, kept, k):
        short[some] = False
        rows[some] = np.take_along_axis(wide.neighbor_ids.codes[some], columns, axis=1)
        distances[some] = np.take_along_axis(wide.neighbor_distances[some], columns, axis=1)
    if short.any():
        found, distances[short] = ExactIndex.build(ArrayBlocks(material.vectors[items])).search(
            material.queries[short], k
        )
        rows[short] = items[found]
    labels = Names(material.labels[rows], material.label_names)
    return QueryResults(material.query_ids, material.truths, Names(rows, material.item_ids), labels, distances, {})


def _kept_columns(
    rows: Int[np.ndarray, "queries wide"], kept: Bool[np.ndarray, " items"], k: int
) -> Iterator[tuple[Int[np.ndarray, " some"], Int[np.ndarray, "some k"]]]:
    """Yield queries with at least k kept neighbours, and in which columns their nearest k stand."""
    for start in range(0, len(rows), _QUERIES_AT_A_TIME):
        reached = np.cumsum(stays := kept[rows[start : start + _QUERIES_AT_A_TIME]], axis=1, dtype=np.int32)
        enough = np.flatnonzero(reached[:, -1] >= k)
        first = stays[enough] & (reached[enough] <= k)
        yield start + enough, np.nonzero(first)[1].reshape(len(enough), k)


def class_order(labels: Int[np.ndarray, " items"], random: np.random.Generator) -> Int[np.ndarray, " items"]:
    """Return each item's place, from 0, in a random order of its class: those below n are n items a class, nested."""
    shuffled = random.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    starts = np.cumsum(counts := np.bincount(labels)) - counts
    places = np.empty(len(labels), np.int64)
    places[by_class] = np.arange(len(labels)) - np.repeat(starts, counts)
    return places
