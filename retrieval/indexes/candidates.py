"""From a tree's candidates to the nearest vectors, and how many candidates that takes."""

from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Int

from retrieval.indexes import tree
from retrieval.indexes.exact import ExactIndex
from retrieval.indexes.fixed_point import FixedPointRows
from retrieval.indexes.nearest import nearest, ranked, unranked
from retrieval.indexes.tuning import ASKED, NEIGHBORS, Effort, cheapest_efforts

_MOST: Final = 16_384  # candidates, whose rows take 40 MB at 384 dimensions; beyond, all vectors are gone through
_COMPARED_AT_A_TIME: Final = 65_536  # when all are
_ROUNDING: Final = 1e-6  # that similarities differ by which are computed in two ways


def search_tree(
    searcher: tree.Searcher,
    rows: FixedPointRows,
    queries: Float[np.ndarray, "queries dimension"],
    k: int,
    effort: Effort,
    skip: Bool[np.ndarray, " items"] | None,
) -> Int[np.ndarray, "queries k"]:
    """Return numbers (`retrieval.indexes.nearest`) of the nearest that are not skipped.

    Queries most of whose candidates are skipped are asked for again, more widely each time, at last by all vectors.
    """
    living = len(rows) - (0 if skip is None else int(np.count_nonzero(skip)))
    enough = min(living, max(k, effort.candidates // 2))
    effort = effort.times(len(rows) / living)
    if living <= _MOST:
        return _compare_all(rows, queries, k, skip)
    return _search(searcher, rows, queries, k, effort, skip, enough)


def _search(
    searcher: tree.Searcher,
    rows: FixedPointRows,
    queries: np.ndarray,
    k: int,
    effort: Effort,
    skip: np.ndarray | None,
    enough: int,
) -> np.ndarray:
    """Return numbers of the nearest, with more effort for queries of whose candidates fewer than enough count."""
    if effort.candidates > _MOST:
        return _compare_all(rows, queries, k, skip)
    positions, similarities, counts = _ask(searcher, rows, queries, effort, skip)
    numbers = nearest(ranked(positions, similarities, counts), k)
    short = np.flatnonzero(np.count_nonzero(counts, axis=1) < enough)
    if short.size:
        numbers[short] = _search(searcher, rows, queries[short], k, effort.times(2.0), skip, enough)
    return numbers


def measure_efforts(searcher: tree.Searcher, rows: FixedPointRows, leaves: int) -> tuple[tuple[int, int], ...]:
    """Return leaves and candidates that find enough of the neighbours of some of the vectors themselves.

    Those are the last of the shuffled ones, where the tree was trained on the first.
    """
    own = np.sort(rows.shuffled()[-ASKED:])
    queries = rows.unit(own)
    farthest = unranked(_compare_all(rows, queries, NEIGHBORS + 1, None))[1][:, -1:]  # the nearest is it itself

    def search(effort: Effort) -> np.ndarray:
        positions, similarities, counts = _ask(searcher, rows, queries, effort, None)
        right: np.ndarray = counts & (positions != own[:, None]) & (similarities >= 1 - farthest - _ROUNDING)
        return right

    efforts = cheapest_efforts(search, items=len(rows), leaves=leaves)
    return tuple((effort.leaves, effort.candidates) for effort in efforts)


def _ask(
    searcher: tree.Searcher, rows: FixedPointRows, queries: np.ndarray, effort: Effort, skip: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the tree's candidates, most likely first: positions, similarities, and which count."""
    positions, rough = tree.ask(searcher, queries, effort)
    counts = ~np.isnan(rough)
    if skip is not None:
        counts &= ~skip[positions]
    return positions, rows.similarities(positions, queries), counts


def _compare_all(rows: FixedPointRows, queries: np.ndarray, k: int, skip: np.ndarray | None) -> np.ndarray:
    """Return numbers of the nearest of all vectors that are not skipped."""
    living = np.arange(len(rows)) if skip is None else np.flatnonzero(~skip)
    numbers = np.empty((len(queries), 0), np.int64)
    for start in range(0, len(living), _COMPARED_AT_A_TIME):
        some = living[start : start + _COMPARED_AT_A_TIME]
        found, distances = ExactIndex(rows.unit(some)).search(queries, min(k, len(some)))
        here = ranked(some[found], 1 - distances, np.ones(found.shape, bool))
        numbers = nearest(np.concatenate([numbers, here], axis=1), k)
    return numbers
