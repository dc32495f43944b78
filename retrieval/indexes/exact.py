"""Exact search: a blocked matrix product."""

from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int

from retrieval.indexes.base import DEFAULT_RECALL, WORN_SHARE, Skipped, VectorBlocks
from retrieval.vectors import to_unit

_BLOCK_BYTES = 4 * 2**20  # of similarities held at a time: those that are looked through next stay in the cache
_QUERIES_AT_A_TIME = 256  # a matrix product of this height keeps the cores busy
_SPARE = 8  # candidates beyond k: the product's rounding may have swapped those around the k-th
_ROUNDING = 2e-6  # more than two ways to round a similarity differ by
_COMPARED_AT_A_TIME = 16  # queries whose candidates are compared once more


class ExactIndex:
    """Compares every query with every vector. The truth by which other indexes are judged."""

    kind: ClassVar[str] = "exact"
    saved: ClassVar[bool] = False

    def __init__(self, vectors: Float[np.ndarray, "items dimension"]) -> None:
        """Search float32 vectors of length 1, which are not copied."""
        self._vectors = vectors

    @classmethod
    def build(cls, blocks: VectorBlocks, folder: Path | None = None) -> "ExactIndex":
        """Return an index over a float32 copy, with each vector scaled to length 1; nothing is written."""
        return cls(np.empty((0, blocks.dimension), np.float32)).extended(blocks)

    def extended(self, blocks: VectorBlocks, folder: Path | None = None) -> "ExactIndex":
        """Return an index over these vectors and more."""
        first = len(self)
        vectors = np.empty((first + len(blocks), blocks.dimension), np.float32)
        vectors[:first] = self._vectors
        for block in blocks:
            vectors[first : first + len(block)] = to_unit(block)
            first += len(block)
        return ExactIndex(vectors)

    def worn(self, *, skipped: int) -> bool:
        """Tell whether a fifth of the vectors held, and compared with, is of no use."""
        return skipped > WORN_SHARE * len(self)

    def __len__(self) -> int:
        return len(self._vectors)

    def search(
        self,
        queries: Float[np.ndarray, "queries dimension"],
        k: int,
        *,
        skip: Skipped | None = None,
        recall: float = DEFAULT_RECALL,
    ) -> tuple[Int[np.ndarray, "queries k"], Float[np.ndarray, "queries k"]]:
        """Return positions and cosine distances, nearest first; equal distances in order of position.

        A query's result does not depend on those that it is searched together with: a matrix product rounds by its
        shape, so the best are compared once more, one by one.
        """
        positions = np.empty((len(queries), k), np.int64)
        distances = np.empty((len(queries), k), np.float32)
        for start in range(0, len(queries), _QUERIES_AT_A_TIME):
            some = slice(start, start + _QUERIES_AT_A_TIME)
            positions[some], distances[some] = self._search_some(queries[some], k, skip)
        return positions, distances

    def _search_some(self, queries: np.ndarray, k: int, skip: Skipped | None) -> tuple[np.ndarray, np.ndarray]:
        living = len(self) - (skip.number if skip else 0)
        candidates = self._candidates(queries, min(k + _SPARE, living), skip)
        similarities = np.empty(candidates.shape, np.float32)
        for start in range(0, len(queries), _COMPARED_AT_A_TIME):
            some = slice(start, start + _COMPARED_AT_A_TIME)
            np.vecdot(self._vectors[candidates[some]], queries[some, None, :], out=similarities[some])
        order = np.lexsort((candidates, -similarities))[:, :k]
        positions = np.take_along_axis(candidates, order, axis=1)
        best = np.take_along_axis(similarities, order, axis=1)
        if candidates.shape[1] < living:
            for query in np.flatnonzero(best[:, -1] - similarities.min(axis=1) < _ROUNDING):
                positions[query], best[query] = self._search_all(queries[query], k, float(best[query, -1]), skip)
        return positions, np.clip(1.0 - best, 0.0, 2.0)

    def _search_all(
        self, query: np.ndarray, k: int, least: float, skip: Skipped | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the best of every vector as similar as the least one, of which there are more than the candidates."""
        near = np.flatnonzero(self._vectors @ query >= least - _ROUNDING)
        near = near if skip is None else near[~skip.mask[near]]
        similarities = np.vecdot(self._vectors[near], query)
        order = np.lexsort((near, -similarities))[:k]
        return near[order], similarities[order]

    def _candidates(self, queries: np.ndarray, k: int, skip: Skipped | None) -> np.ndarray:
        """Return the positions of the k most similar vectors by a matrix product, in any order."""
        items_at_a_time = max(k, _BLOCK_BYTES // (4 * len(queries)))
        positions, similarities = np.empty((0, 0), np.int64), np.empty((0, 0), np.float32)
        for start in range(0, len(self), items_at_a_time):
            block = queries @ self._vectors[start : start + items_at_a_time].T
            if skip is not None:
                block[:, skip.mask[start : start + items_at_a_time]] = -np.inf
            if start == 0:
                positions = _top(block, k)
                similarities = np.take_along_axis(block, positions, axis=1)
                continue
            columns, values = _above(block, similarities.min(axis=1))  # of whole blocks few are
            positions = np.concatenate([positions, columns + start], axis=1)
            similarities = np.concatenate([similarities, values], axis=1)
            best = _top(similarities, k)
            positions = np.take_along_axis(positions, best, axis=1)
            similarities = np.take_along_axis(similarities, best, axis=1)
        return positions


def _above(block: np.ndarray, least: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the columns of the values above the least that count in each row, and those; a row of few ends in -inf."""
    rows, columns = np.nonzero(block > least[:, None])
    counts = np.bincount(rows, minlength=len(block))
    places = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    found = np.zeros((len(block), int(counts.max())), np.int64)
    values = np.full(found.shape, -np.inf, np.float32)
    found[rows, places], values[rows, places] = columns, block[rows, columns]
    return found, values


def _top(similarities: np.ndarray, k: int) -> np.ndarray:
    """Return the columns of the k greatest values of each row, in any order; of equal values the first columns count.

    All columns where there are fewer.
    """
    columns = similarities.shape[1]
    if columns <= k:
        return np.broadcast_to(np.arange(columns), similarities.shape)
    best = np.argpartition(similarities, columns - k, axis=1)[:, columns - k :]
    least = np.take_along_axis(similarities, best, axis=1).min(axis=1, keepdims=True)
    # The partition leaves open which of several equal values it takes: decide where more than k reach the least one.
    for row in np.flatnonzero(np.count_nonzero(similarities >= least, axis=1) > k):
        above = np.flatnonzero(similarities[row] > least[row])
        best[row] = np.concatenate([above, np.flatnonzero(similarities[row] == least[row])[: k - len(above)]])
    return best
