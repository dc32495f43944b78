"""From a tree's candidates to the nearest vectors, and how many candidates that takes."""

from typing import Final

import numpy as np
from jaxtyping import Float, Int

from retrieval.indexes import tree
from retrieval.indexes.base import Skipped
from retrieval.indexes.exact import ExactIndex
from retrieval.indexes.fixed_point import FixedPointRows
from retrieval.indexes.nearest import NOTHING, farthest_within, ranked, unranked
from retrieval.indexes.tuning import ASKED, NEIGHBORS, NONE_IS_FARTHER, Effort, Plan, cheapest_plans

_MOST: Final = 16_384  # candidates, whose rows take 40 MB at 384 dimensions; beyond, all vectors are gone through
_COMPARED_AT_A_TIME: Final = 65_536  # when all are
_ROUNDING: Final = 1e-6  # that similarities differ by which are computed in two ways


def search_tree(
    searcher: tree.Searcher,
    rows: FixedPointRows,
    queries: Float[np.ndarray, "queries dimension"],
    k: int,
    plan: Plan,
    skip: Skipped | None,
) -> Int[np.ndarray, "queries k"]:
    """Return numbers (`retrieval.indexes.nearest`) of the nearest that are not skipped.

    Queries that lie far from their neighbours are asked for twice, as planned. Those most of whose candidates are
    skipped are asked for again, more widely each time, at last by all vectors.
    """
    living, enough = len(rows), max(k, plan.first.candidates // 2)
    if skip:
        living -= skip.number
        plan = plan.times(len(rows) / max(living, 1))
    if living <= _MOST:
        return _compare_all(rows, queries, k, skip)
    return _search(searcher, rows, queries, k, plan, skip, enough)


def _search(
    searcher: tree.Searcher,
    rows: FixedPointRows,
    queries: np.ndarray,
    k: int,
    plan: Plan,
    skip: Skipped | None,
    enough: int,
) -> np.ndarray:
    if plan.first.candidates > _MOST:
        return _compare_all(rows, queries, k, skip)
    numbers = _ask(searcher, rows, queries, plan.first, skip)
    unsure = numbers[:, enough - 1] == NOTHING
    if plan.beyond < NONE_IS_FARTHER:
        unsure |= numbers[:, NEIGHBORS - 1] > farthest_within(plan.beyond)
    numbers = numbers[:, :k]
    if np.count_nonzero(unsure):
        numbers[unsure] = _search(searcher, rows, queries[unsure], k, plan.again(), skip, enough)
    return numbers


def measure_plans(searcher: tree.Searcher, rows: FixedPointRows, leaves: int) -> tuple[Plan, ...]:
    """Return the plans (`retrieval.indexes.tuning`) that find enough of the neighbours of some of the vectors.

    Those are the last of the shuffled ones, where the tree was trained on the first.
    """
    own = np.sort(rows.shuffled()[-ASKED:])
    queries = rows.unit(own)
    farthest = unranked(_compare_all(rows, queries, NEIGHBORS + 1, None))[1][:, -1:]  # the nearest is it itself

    def search(effort: Effort) -> tuple[np.ndarray, np.ndarray]:
        positions, distances = unranked(rows.ranked(queries, *tree.ask(searcher, queries, effort), None))
        distances[positions == own[:, None]] = np.nan
        return distances <= farthest + _ROUNDING, distances

    return tuple(cheapest_plans(search, items=len(rows), leaves=leaves))


def _ask(
    searcher: tree.Searcher, rows: FixedPointRows, queries: np.ndarray, effort: Effort, skip: Skipped | None
) -> np.ndarray:
    """Return numbers of the tree's candidates, the nearest first."""
    numbers = rows.ranked(queries, *tree.ask(searcher, queries, effort), skip.mask if skip else None)
    numbers.sort(axis=1)
    return numbers


def _compare_all(rows: FixedPointRows, queries: np.ndarray, k: int, skip: Skipped | None) -> np.ndarray:
    """Return numbers of the nearest of all vectors that are not skipped."""
    living = np.arange(len(rows)) if skip is None else np.flatnonzero(~skip.mask)
    numbers = np.empty((len(queries), 0), np.int64)
    for start in range(0, len(living), _COMPARED_AT_A_TIME):
        some = living[start : start + _COMPARED_AT_A_TIME]
        found, distances = ExactIndex(rows.unit(some)).search(queries, min(k, len(some)))
        here = ranked(some[found], 1 - distances, np.ones(found.shape, bool))
        numbers = np.sort(np.concatenate([numbers, here], axis=1), axis=1)[:, :k]
    return numbers
