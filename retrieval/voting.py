"""From neighbours to a decision: the four voting methods of the paper (section 2.2), for every k at once.

The core is one walk outwards from the query, done for all queries together: after each neighbour, how much weight
has its label gathered so far? The heaviest value seen up to neighbour j belongs to the winner at k = j + 1, and the
first to reach it wins a tie.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
from jaxtyping import Float, Int, Shaped

from retrieval.errors import InvalidArgument
from retrieval.types import Votes

RANK_OFFSET: Final = 2.0  # alpha, paper section 2.2
SOFTMAX_TEMPERATURE: Final = 0.07  # tau, paper section 2.2
DEFAULT_METHOD: Final = "rank"

_WEIGHTS: Final[dict[str, Callable[[np.ndarray], np.ndarray]]] = {
    "rank": lambda distances: np.broadcast_to(1.0 / (RANK_OFFSET + np.arange(distances.shape[1])), distances.shape),
    "plurality": np.ones_like,
    "distance": lambda distances: np.exp(-distances),
    "softmax": lambda distances: np.exp((1.0 - distances) / SOFTMAX_TEMPERATURE),
}
METHODS: Final = tuple(_WEIGHTS)


def neighbor_weights(
    distances: Float[np.ndarray, "queries k"], method: str = DEFAULT_METHOD
) -> Float[np.ndarray, "queries k"]:
    """Return each neighbour's weight, float64, by a method of the paper's section 2.2.

    ``rank``: 1 / (2 + rank), rank 0 for the nearest. ``plurality``: 1. ``distance``: exp(-d). ``softmax``:
    exp((1 - d) / 0.07), whose normalisation cancels out of every comparison.

    Raises:
        InvalidArgument: no such method.
    """
    return _WEIGHTS[check_method(method)](np.asarray(distances, np.float64))


def check_method(method: str) -> str:
    """Return the name of a voting method as it came.

    Raises:
        InvalidArgument: no such method.
    """
    if method not in _WEIGHTS:
        raise InvalidArgument(f"no voting method {method!r}: choose one of {', '.join(METHODS)}")
    return method


def predict_every_k(
    labels: Shaped[np.ndarray, "queries k"],
    distances: Float[np.ndarray, "queries k"],
    *,
    method: str = DEFAULT_METHOD,
) -> Shaped[np.ndarray, "queries k"]:
    """Return the winning label when the nearest 1, 2, …, k neighbours vote: column ``j`` is the answer at k = j + 1.

    Ties go to the label that reached the winning weight first, walking outwards. Time and space grow with
    queries × k.

    Raises:
        InvalidArgument: no such method.
    """
    gathered = _gathered_weights(_label_codes(labels), neighbor_weights(distances, method))
    heaviest = np.maximum.accumulate(gathered, axis=1)
    leads = np.ones(gathered.shape, bool)
    leads[:, 1:] = gathered[:, 1:] > heaviest[:, :-1]
    winner = np.maximum.accumulate(np.where(leads, np.arange(gathered.shape[1]), 0), axis=1)
    return np.take_along_axis(labels, winner, axis=1)


def count_votes(
    labels: Shaped[np.ndarray, "queries k"],
    distances: Float[np.ndarray, "queries k"],
    *,
    method: str = DEFAULT_METHOD,
) -> list[Votes]:
    """Return every query's labels with their summed weights over all k neighbours, heaviest first.

    Raises:
        InvalidArgument: no such method.
    """
    gathered = _gathered_weights(_label_codes(labels), neighbor_weights(distances, method))
    return [_votes(*row) for row in zip(labels.tolist(), gathered.tolist(), strict=True)]


def _votes(labels: list[object], gathered: list[float]) -> Votes:
    # A label's total is what it had gathered at its outermost neighbour, which is also where it reached that total.
    reached = {label: rank for rank, label in enumerate(labels)}
    order = sorted(reached, key=lambda label: (-gathered[reached[label]], reached[label]))
    return Votes(tuple(order), tuple(gathered[reached[label]] for label in order))


def _gathered_weights(
    codes: Int[np.ndarray, "queries k"], weights: Float[np.ndarray, "queries k"]
) -> Float[np.ndarray, "queries k"]:
    """Return, for each neighbour, the weight that its label has gathered up to and including it.

    Sums run from the nearest outwards, one addition a neighbour, so that rounding and therefore ties are those of a
    plain sequential count.
    """
    queries, k = codes.shape
    slots = _first_occurrences(codes)
    totals = np.zeros((queries, k))
    gathered = np.empty((queries, k))
    every = np.arange(queries)
    for rank in range(k):
        totals[every, slots[:, rank]] += weights[:, rank]
        gathered[:, rank] = totals[every, slots[:, rank]]
    return gathered


def _first_occurrences(codes: Int[np.ndarray, "queries k"]) -> Int[np.ndarray, "queries k"]:
    """Return, for each neighbour, the rank at which its label stands first in the same row."""
    order = np.argsort(codes, axis=1, kind="stable")
    ordered = np.take_along_axis(codes, order, axis=1)
    starts = np.ones(codes.shape, bool)
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    start = np.maximum.accumulate(np.where(starts, np.arange(codes.shape[1]), 0), axis=1)
    slots = np.empty_like(order)
    np.put_along_axis(slots, order, np.take_along_axis(order, start, axis=1), axis=1)
    return slots


def _label_codes(labels: Shaped[np.ndarray, "queries k"]) -> Int[np.ndarray, "queries k"]:
    """Number the labels: equal labels, and only those, share a number."""
    if labels.dtype.kind in "iu":
        return labels
    import pyarrow as pa

    values = labels.ravel()
    try:
        codes = pa.array(values).dictionary_encode(null_encoding="encode").indices.to_numpy()
    except pa.ArrowException:  # labels of mixed types: Arrow columns hold one type, a dictionary any
        numbers: dict[object, int] = {}
        codes = np.array([numbers.setdefault(label, len(numbers)) for label in values.tolist()], np.intp)
    return np.asarray(codes).reshape(labels.shape)
