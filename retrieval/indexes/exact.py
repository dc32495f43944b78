"""Exact search: a blocked matrix product."""

from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int

_BLOCK_BYTES = 64 * 2**20  # of similarities held at a time
_QUERIES_AT_A_TIME = 256  # a matrix product of this height keeps the cores busy
_SPARE = 8  # candidates beyond k: the product's rounding may have swapped those around the k-th
_ROUNDING = 2e-6  # more than two ways to round a similarity differ by
_COMPARED_AT_A_TIME = 16  # queries whose candidates are compared once more


class ExactIndex:
    """Compares every query with every vector. The truth by which other indexes are judged."""

    kind: ClassVar[str] = "exact"

    def __init__(self, vectors: Float[np.ndarray, "items dimension"]) -> None:
        self._vectors = vectors

    @classmethod
    def build(cls, vectors: Float[np.ndarray, "items dimension"]) -> "ExactIndex":
        """Return an index over the vectors; they are not copied."""
        return cls(vectors)

    @classmethod
    def load(cls, folder: Path) -> "ExactIndex":
        """Return the index that `save` wrote; its vectors are mapped, so that opening reads nothing."""
        vectors = np.load(folder / "vectors.npy", mmap_mode="r", allow_pickle=False)
        if vectors.ndim != 2 or vectors.dtype != np.float32:
            raise ValueError(f"{folder} holds {vectors.dtype} of shape {vectors.shape}: float32 vectors expected")
        return cls(vectors)

    def save(self, folder: Path) -> None:
        """Write the vectors as one NumPy file."""
        np.save(folder / "vectors.npy", self._vectors, allow_pickle=False)

    def __len__(self) -> int:
        return len(self._vectors)

    def search(
        self, queries: Float[np.ndarray, "queries dimension"], k: int
    ) -> tuple[Int[np.ndarray, "queries k"], Float[np.ndarray, "queries k"]]:
        """Return positions and cosine distances, nearest first; equal distances in order of position.

        A query's result does not depend on those that it is searched together with: a matrix product rounds by its
        shape, so the best are compared once more, one by one.
        """
        positions = np.empty((len(queries), k), np.int64)
        distances = np.empty((len(queries), k), np.float32)
        for start in range(0, len(queries), _QUERIES_AT_A_TIME):
            some = slice(start, start + _QUERIES_AT_A_TIME)
            positions[some], distances[some] = self._search_some(queries[some], k)
        return positions, distances

    def _search_some(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        candidates = self._candidates(queries, min(k + _SPARE, len(self)))
        similarities = np.empty(candidates.shape, np.float32)
        for start in range(0, len(queries), _COMPARED_AT_A_TIME):
            some = slice(start, start + _COMPARED_AT_A_TIME)
            np.einsum("qkd,qd->qk", self._vectors[candidates[some]], queries[some], out=similarities[some])
        order = np.lexsort((candidates, -similarities))[:, :k]
        positions = np.take_along_axis(candidates, order, axis=1)
        best = np.take_along_axis(similarities, order, axis=1)
        if candidates.shape[1] < len(self):
            for query in np.flatnonzero(best[:, -1] - similarities.min(axis=1) < _ROUNDING):
                positions[query], best[query] = self._search_all(queries[query], k, float(best[query, -1]))
        return positions, np.clip(1.0 - best, 0.0, 2.0)

    def _search_all(self, query: np.ndarray, k: int, least: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the best of every vector as similar as the least one, of which there are more than the candidates."""
        near = np.flatnonzero(self._vectors @ query >= least - _ROUNDING)
        similarities = np.einsum("nd,d->n", self._vectors[near], query)
        order = np.lexsort((near, -similarities))[:k]
        return near[order], similarities[order]

    def _candidates(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Return the positions of the k most similar vectors by a matrix product, in any order."""
        items_at_a_time = max(k, _BLOCK_BYTES // (4 * len(queries)))
        positions = np.empty((len(queries), 0), np.int64)
        similarities = np.empty((len(queries), 0), np.float32)
        for start in range(0, len(self), items_at_a_time):
            block = queries @ self._vectors[start : start + items_at_a_time].T
            best = _top(block, k)
            positions = np.concatenate([positions, best + start], axis=1)
            similarities = np.concatenate([similarities, np.take_along_axis(block, best, axis=1)], axis=1)
            if positions.shape[1] > k:
                kept = _top(similarities, k)
                positions = np.take_along_axis(positions, kept, axis=1)
                similarities = np.take_along_axis(similarities, kept, axis=1)
        return positions


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
