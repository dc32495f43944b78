"""From neighbours to a decision: the four voting methods of the paper (section 2.2), for every k at once.

The core is one walk outwards from the query, done for all queries together: after each neighbour, how much weight
has its label gathered so far? The heaviest value seen up to neighbour j belongs to the winner at k = j + 1, and the
first to reach it wins a tie.
"""

from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from retrieval.errors import InvalidArgument
from retrieval.types import Label, Votes

RANK_OFFSET: Final = 2.0  # alpha, paper section 2.2
SOFTMAX_TEMPERATURE: Final = 0.07  # tau, paper section 2.2
DEFAULT_METHOD: Final = "rank"
_LARGEST_CODE: Final = 2**40
_QUERIES_AT_A_TIME: Final = 1024  # the arrays of so many stay in the processor's cache

_WEIGHTS: Final[dict[str, Callable[[np.ndarray], np.ndarray]]] = {
    "rank": lambda distances: np.broadcast_to(1.0 / (RANK_OFFSET + np.arange(distances.shape[1])), distances.shape),
    "plurality": np.ones_like,
    "distance": lambda distances: np.exp(-distances),
    "softmax": lambda distances: np.exp((1.0 - distances) / SOFTMAX_TEMPERATURE),
}
METHODS: Final = tuple(_WEIGHTS)
Factors: TypeAlias = Float[np.ndarray, "queries k"] | Bool[np.ndarray, "queries k"]


def neighbor_weights(
    distances: Float[np.ndarray, "queries k"], method: str = DEFAULT_METHOD, *, factors: Factors | None = None
) -> Float[np.ndarray, "queries k"]:
    """Return each neighbour's weight, float64, by a method of the paper's section 2.2.

    ``rank``: 1 / (2 + rank), rank 0 for the nearest. ``plurality``: 1. ``distance``: exp(-d). ``softmax``:
    exp((1 - d) / 0.07), whose normalisation cancels out of every comparison. Weights are multiplied by ``factors``,
    each neighbour keeping its rank.

    Raises:
        InvalidArgument: no such method.
    """
    weights = _WEIGHTS[check_method(method)](np.asarray(distances, np.float64))
    return weights if factors is None else weights * factors


def shares_of(
    weights: Float[np.ndarray, "queries k"], some: Float[np.ndarray, "queries n"]
) -> Float[np.ndarray, "queries n"]:
    """Return weights as parts of all the neighbours' weight; 0 where that is none."""
    total = weights.sum(axis=1, keepdims=True)
    shares: np.ndarray = some / np.where(total > 0, total, 1.0)
    return shares


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
    factors: Factors | None = None,
) -> Shaped[np.ndarray, "queries k"]:
    """Return the winning label when the nearest 1, 2, …, k neighbours vote: column ``j`` is the answer at k = j + 1.

    Ties go to the label that reached the winning weight first, walking outwards. Time and space grow with
    queries × k.

    Args:
        labels: of the neighbours, nearest first.
        distances: of the neighbours.
        method: one of ``METHODS``.
        factors: by which the neighbours' weights are multiplied, each keeping its rank: 0 or False for one without a
            vote, less than 1 for an unreliable one (section 3.6). Where nobody has a vote, the nearest one's label is
            returned. None: 1.

    Raises:
        InvalidArgument: no such method.
    """
    codes = _as_codes(labels)
    winners = np.empty_like(labels)
    for some in query_slices(len(labels)):
        weights = neighbor_weights(distances[some], method, factors=None if factors is None else factors[some])
        leaders = _leaders(codes[some], weights)
        winners[some] = np.take_along_axis(labels[some], leaders, axis=1)
    return winners


def heaviest_labels(
    labels: Int[np.ndarray, "queries k"],
    distances: Float[np.ndarray, "queries k"],
    *,
    count: int,
    method: str = DEFAULT_METHOD,
    factors: Factors | None = None,
) -> tuple[Int[np.ndarray, "queries count"], Float[np.ndarray, "queries count"]]:
    """Return every query's heaviest labels and their shares of the vote of all k neighbours, heaviest first.

    Equal weights stand in the order in which the labels reached them. A query with fewer labels has -1 and a share of
    0 in the places that are left; so has a label without a vote.

    Args:
        labels: of the neighbours as numbers from 0 (`encode_labels`).
        distances: of the neighbours.
        count: how many labels.
        method: one of ``METHODS``.
        factors: as for `predict_every_k`.

    Raises:
        InvalidArgument: no such method.
    """
    queries, k = labels.shape
    heaviest, shares = np.full((queries, count), -1), np.zeros((queries, count))
    for some in query_slices(queries):
        weights = neighbor_weights(distances[some], method, factors=None if factors is None else factors[some])
        gathered = _gathered_weights(labels[some], weights).T
        # A label's total is what it has gathered at its outermost neighbour, the only one that no other looks back to.
        gathered[_has_later(labels[some])] = -1.0
        order = np.argsort(-gathered, axis=1, kind="stable")[:, :count]
        totals = np.take_along_axis(gathered, order, axis=1)
        there = np.arange(order.shape[1])
        heaviest[some, there] = np.where(totals > 0, np.take_along_axis(labels[some], order, axis=1), -1)
        shares[some, there] = shares_of(weights, np.maximum(totals, 0.0))
    return heaviest, shares


def count_votes(
    labels: Shaped[np.ndarray, "queries k"],
    distances: Float[np.ndarray, "queries k"],
    *,
    method: str = DEFAULT_METHOD,
    factors: Factors | None = None,
) -> list[Votes]:
    """Return every query's labels with their summed weights over all k neighbours, heaviest first.

    ``factors`` are those of `predict_every_k`. Raises InvalidArgument where there is no such method.
    """
    gathered = _gathered_weights(_as_codes(labels), neighbor_weights(distances, method, factors=factors))
    return [_votes(*row) for row in zip(labels.tolist(), gathered.T.tolist(), strict=True)]


def _votes(labels: list[object], gathered: list[float]) -> Votes:
    # A label's total is what it had gathered at its outermost neighbour, which is also where it reached that total.
    reached = {label: rank for rank, label in enumerate(labels)}
    order = sorted(reached, key=lambda label: (-gathered[reached[label]], reached[label]))
    return Votes(tuple(order), tuple(gathered[reached[label]] for label in order))


def _leaders(
    codes: Int[np.ndarray, "queries k"], weights: Float[np.ndarray, "queries k"]
) -> Int[np.ndarray, "queries k"]:
    """Return, for each prefix of the neighbours, the rank at which its winner took the lead."""
    gathered = _gathered_weights(codes, weights)
    heaviest = np.maximum.accumulate(gathered, axis=0)
    leads = np.ones(gathered.shape, bool)
    np.greater(gathered[1:], heaviest[:-1], out=leads[1:])
    return np.maximum.accumulate(np.where(leads, np.arange(len(gathered))[:, None], 0), axis=0).T


def _gathered_weights(
    codes: Int[np.ndarray, "queries k"], weights: Float[np.ndarray, "queries k"]
) -> Float[np.ndarray, "k queries"]:
    """Return, for each neighbour, the weight that its label has gathered up to and including it, by rank.

    Sums run from the nearest outwards, one addition a neighbour, so that rounding and therefore ties are those of a
    plain sequential count.
    """
    queries, k = codes.shape
    # One row a rank, one more of zeros for labels that come for the first time: each step reads and writes whole rows.
    gathered = np.zeros((k + 1, queries))
    np.copyto(gathered[1:], weights.T)
    flat = gathered.reshape(-1)
    for rank, place in enumerate(previous_places(codes), start=1):
        gathered[rank] += flat[place]
    return gathered[1:]


def _has_later(codes: Int[np.ndarray, "queries k"]) -> Bool[np.ndarray, "queries k"]:
    """Tell which neighbours are followed by one of the same label further out."""
    queries, k = codes.shape
    later = np.zeros((k + 1) * queries, bool)
    later[previous_places(codes).reshape(-1)] = True
    return later.reshape(k + 1, queries)[1:].T


def query_slices(queries: int) -> Iterator[slice]:
    """Yield slices of so many queries that their arrays stay in the processor's cache."""
    return (slice(start, start + _QUERIES_AT_A_TIME) for start in range(0, queries, _QUERIES_AT_A_TIME))


def previous_places(codes: Int[np.ndarray, "queries k"]) -> Int[np.ndarray, "k queries"]:
    """Return where, in a flat array of k + 1 rows, each neighbour finds its label's last neighbour further inwards.

    Row 0 stands for none; rank r has row r + 1. One table serves every weighting of the same labels.
    """
    queries, k = codes.shape
    # Sorting code and rank as one number brings equal labels together in order of rank; narrow numbers sort faster.
    narrow = (int(codes.max(initial=0)) + 1) * k < 2**31
    ordered = codes.astype(np.int32 if narrow else np.int64) * k
    ordered += np.arange(k, dtype=ordered.dtype)
    ordered.sort(axis=1)
    ordered_codes, ranks = np.divmod(ordered, k)
    rows = np.zeros((queries, k), np.int64)
    same = ordered_codes[:, 1:] == ordered_codes[:, :-1]
    np.copyto(rows[:, 1:], ranks[:, :-1] + 1, where=same)
    places = np.empty((k, queries), np.int64)
    each = np.arange(queries)[:, None]
    places[ranks, each] = rows * queries + each
    return places


def _as_codes(labels: Shaped[np.ndarray, "queries k"]) -> Int[np.ndarray, "queries k"]:
    # Small numbers serve as they are; large ones would overflow where code and rank become one number.
    if labels.dtype.kind in "iu" and labels.size and 0 <= labels.min() and labels.max() < _LARGEST_CODE:
        return labels
    return encode_labels(labels)[0]


def encode_labels(labels: Shaped[np.ndarray, "queries k"]) -> tuple[Int[np.ndarray, "queries k"], list[Label]]:
    """Return labels of any hashable type as numbers, with the list in which each number finds its label.

    Voting on the numbers gives the numbers of the winners: worth it where the same neighbours vote by many methods.
    """
    import pyarrow as pa

    values = labels.ravel().tolist()
    if set(map(type, values)) == {str}:
        try:
            encoded = pa.array(values).dictionary_encode()
        except UnicodeEncodeError:  # stray bytes of a file name: no text for Arrow, but a label
            pass
        else:
            codes = encoded.indices.to_numpy().astype(np.int64)
            return codes.reshape(labels.shape), encoded.dictionary.to_pylist()
    numbers: dict[Label, int] = {}
    codes = np.array([numbers.setdefault(label, len(numbers)) for label in values], np.int64)
    return codes.reshape(labels.shape), list(numbers)
