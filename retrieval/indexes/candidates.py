"""From a tree's candidates to the nearest vectors, and how many candidates that takes."""

from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Int

from retrieval.indexes import tree
from retrieval.indexes.exact import ExactIndex
from retrieval.indexes.halves import Halves
from retrieval.indexes.nearest import NOTHING, nearest, ranked, unranked
from retrieval.indexes.tuning import ASKED, NEIGHBORS, Effort, cheapest_efforts

_MOST: Final = 16_384  # candidates, whose rows take 40 MB at 384 dimensions; beyond, all vectors are gone through
_COMPARED_AT_A_TIME: Final = 65_536  # when all are
_ROUNDING: Final = 1e-6  # that similarities differ by which are computed in two ways


def search_tree(
    searcher: tree.Searcher,
    halves: Halves,
    queries: Float[np.ndarray, "queries dimension"],
    k: int,
    effort: Effort,
    skip: Bool[np.ndarray, " items"] | None,
) -> Int[np.ndarray, "queries k"]:
    """Return numbers (`retrieval.indexes.nearest`) of the nearest that are not skipped.

    Queries most of whose candidates are skipped are asked for again, more widely each time, at last by all vectors.
    """
    living = len(halves) - (0 if skip is None else int(np.count_nonzero(skip)))
    enough = min(living, max(k, effort.candidates // 2))
    effort = effort.times(len(halves) / living)
    numbers = np.full((len(queries), k), NOTHING)
    short = np.arange(len(queries))
    while short.size and effort.candidates <= _MOST < living:
        positions, similarities, counts = _ask(searcher, halves, queries[short], effort, skip)
        found = ranked(positions, similarities, counts)
        good = np.count_nonzero(counts, axis=1) >= enough
        numbers[short[good]] = nearest(found[good], k)
        short, effort = short[~good], effort.times(2.0)
    if short.size:
        numbers[short] = _compare_all(halves, queries[short], k, skip)
    return numbers


def measure_efforts(searcher: tree.Searcher, halves: Halves, leaves: int) -> tuple[tuple[int, int], ...]:
    """Return leaves and candidates that find enough of the neighbours of some of the vectors themselves."""
    own = np.sort(np.random.default_rng(0).choice(len(halves), min(len(halves), ASKED), replace=False))
    queries = halves.unit(own)
    farthest = unranked(_compare_all(halves, queries, NEIGHBORS + 1, None))[1][:, -1:]  # the nearest is it itself

    def search(effort: Effort) -> np.ndarray:
        positions, similarities, counts = _ask(searcher, halves, queries, effort, None)
        right: np.ndarray = counts & (positions != own[:, None]) & (similarities >= 1 - farthest - _ROUNDING)
        return right

    efforts = cheapest_efforts(search, items=len(halves), leaves=leaves)
    return tuple((effort.leaves, effort.candidates) for effort in efforts)


def _ask(
    searcher: tree.Searcher, halves: Halves, queries: np.ndarray, effort: Effort, skip: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the tree's candidates, most likely first: positions, similarities, and which count."""
    positions, rough = tree.ask(searcher, queries, effort)
    counts = ~np.isnan(rough)
    if skip is not None:
        counts &= ~skip[positions]
    return positions, halves.similarities(positions, queries), counts


def _compare_all(halves: Halves, queries: np.ndarray, k: int, skip: np.ndarray | None) -> np.ndarray:
    """Return numbers of the nearest of all vectors that are not skipped."""
    living = np.arange(len(halves)) if skip is None else np.flatnonzero(~skip)
    numbers = np.empty((len(queries), 0), np.int64)
    for start in range(0, len(living), _COMPARED_AT_A_TIME):
        some = living[start : start + _COMPARED_AT_A_TIME]
        rows, distances = ExactIndex(halves.unit(some)).search(queries, min(k, len(some)))
        here = ranked(some[rows], 1 - distances, np.ones(rows.shape, bool))
        numbers = nearest(np.concatenate([numbers, here], axis=1), k)
    return numbers
