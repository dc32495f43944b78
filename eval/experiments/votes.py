"""Accuracy of many votes over the same neighbours, for every k at once."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Int

from eval.experiments.base import Neighborhoods
from eval.scoring import is_right, truth_codes
from eval.types import Percent
from retrieval.voting import METHODS, Factors, neighbor_weights, previous_places, query_slices

Weighing = Callable[[np.ndarray], np.ndarray]  # distances (queries × k) → weights of the same shape, above 0
BY_METHOD: Final[dict[str, Weighing]] = {name: partial(neighbor_weights, method=name) for name in METHODS}


def right_neighbors(found: Neighborhoods) -> Bool[np.ndarray, "queries k"]:
    """Tell which neighbours carry a right label of their query."""
    return is_right(found.results.neighbor_labels.codes, truth_codes(found.results))


def accuracy_every_k(
    labels: Int[np.ndarray, "queries k"],
    distances: Float[np.ndarray, "queries k"],
    right: Bool[np.ndarray, "queries k"],
    weighings: Sequence[Weighing],
    *,
    factors: Factors | None = None,
) -> Float[np.ndarray, "weighings k"]:
    """Return top-1 in percent when the nearest 1, 2, …, k neighbours vote, for each way of weighing them.

    As accurate as `retrieval.voting.predict_every_k`, ties included. Labels are sorted once for all weighings, and
    instead of winners only their being right is kept, so that a further weighing costs a fraction of the first.

    Args:
        labels: of the neighbours as numbers from 0, nearest first.
        distances: of the neighbours.
        right: which neighbours carry a right label of their query.
        weighings: each gives every neighbour a weight above 0.
        factors: above 0, by which weights are multiplied; None: 1.
    """
    counts = np.zeros((len(weighings), labels.shape[1]), np.int64)
    for some in query_slices(len(labels)):
        places, hits = previous_places(labels[some]), np.ascontiguousarray(right[some].T)
        for number, weigh in enumerate(weighings):
            weights = weigh(distances[some])
            counts[number] += _count_right(places, (weights if factors is None else weights * factors[some]).T, hits)
    return 100.0 * counts / max(1, len(labels))


def _count_right(
    places: Int[np.ndarray, "k queries"], weights: Float[np.ndarray, "k queries"], right: Bool[np.ndarray, "k queries"]
) -> list[int]:
    """Return how many queries are right after each neighbour, walking outwards."""
    k, queries = places.shape
    gathered = np.zeros((k + 1, queries))
    np.copyto(gathered[1:], weights)
    flat, heaviest = gathered.reshape(-1), np.zeros(queries)
    before, leads, now = np.empty(queries), np.empty(queries, bool), np.empty(queries, bool)
    counts = []
    for place, row, hits in zip(places, gathered[1:], right, strict=True):
        row += np.take(flat, place, out=before, mode="clip")  # no place is outside; clipping spares a copy
        np.greater(row, heaviest, out=leads)  # the first to reach a weight keeps the lead
        np.maximum(row, heaviest, out=heaviest)
        np.copyto(now, hits, where=leads)
        counts.append(int(np.count_nonzero(now)))
    return counts


def best(curve: Sequence[Percent] | Float[np.ndarray, " k"]) -> tuple[Percent, int]:
    """Return the highest accuracy of a curve over k = 1, 2, … and the smallest k that has it."""
    place = int(np.argmax(curve))
    return float(curve[place]), place + 1
