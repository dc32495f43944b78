"""What each item's votes did: how much weight right and wrong labels got from it, and which answers hang on it."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Int

from eval.scoring import is_right, truth_codes
from eval.types import QueryResults
from retrieval.errors import InvalidArgument
from retrieval.voting import (
    DEFAULT_METHOD,
    Factors,
    heaviest_labels,
    neighbor_weights,
    predict_every_k,
    shares_of,
)

_ROUNDING: Final = 1e-9  # shares that are closer are voted on once more: sums in another order round otherwise
_QUERIES_AT_A_TIME: Final = 4096


@dataclass(frozen=True, slots=True, eq=False)
class VoteLedger:
    """The votes of all items in all queries."""

    k: int
    method: str
    query_ids: list[str]
    truths: list[frozenset[str]]
    winners: Int[np.ndarray, " queries"]  # numbers of label_names
    right: Bool[np.ndarray, " queries"]
    label_names: list[str]
    item_names: list[str]
    item_labels: Int[np.ndarray, " items"]
    seen: Int[np.ndarray, " items"]  # queries that an item voted in
    helped: Float[np.ndarray, " items"]  # shares of votes given to right labels, summed over the queries
    hurt: Float[np.ndarray, " items"]  # to wrong ones
    caused: Int[np.ndarray, " items"]  # wrong answers that are right without the item
    saved: Int[np.ndarray, " items"]  # right answers that are wrong without the item
    mended: Int[np.ndarray, "two pairs"]  # query and item of each that ``caused`` counts

    def label_of(self, item: int) -> str:
        """Return an item's label."""
        return self.label_names[int(self.item_labels[item])]

    def deciders(self, count: int) -> list[int]:
        """Return the items that decide most errors, those first that hurt more; none that decides no error."""
        worst = np.lexsort((-self.hurt, -self.caused))[:count]
        return [item for item in worst.tolist() if self.caused[item]]

    def decided_queries(self) -> Int[np.ndarray, " pairs"]:
        """Return the queries that are right without some item, one entry for each such item."""
        queries: np.ndarray = self.mended[0]
        return queries

    def queries_decided_by(self, item: int) -> list[int]:
        """Return the queries that are right without an item, in order."""
        queries: list[int] = self.mended[0][self.mended[1] == item].tolist()
        return queries


def keep_ledger(results: QueryResults, *, k: int | None = None, method: str = DEFAULT_METHOD) -> VoteLedger:
    """Return what each item's votes did to the queries.

    Args:
        results: queries with their neighbours, nearest first.
        k: neighbours that vote, 2 or more; None: all.
        method: one of `retrieval.voting.METHODS`.

    Raises:
        InvalidArgument: ``k`` out of range, no such method, or no query.
    """
    k = results.k if k is None else k
    if not 2 <= k <= results.k or not len(results):
        raise InvalidArgument(
            f"k={k} and {len(results)} queries: 2 to {results.k} neighbours and a query or more expected,"
            " since a single vote is always decisive"
        )
    labels, items = results.neighbor_labels.codes[:, :k], results.neighbor_ids.codes[:, :k]
    distances, truths = results.neighbor_distances[:, :k], truth_codes(results)
    factors = results.factors(np.s_[:, :k])
    winners = predict_every_k(labels, distances, method=method, factors=factors)[:, -1]
    right = is_right(winners[:, None], truths)[:, 0]
    size = len(results.neighbor_ids.names)
    shares = _shares(distances, method, factors)
    helped, hurt = _share_out(labels, items, shares, truths, size=size)
    queries, ranks, answers = flips(labels, distances, method=method, factors=factors)
    fine = is_right(answers[:, None], truths[queries])[:, 0]
    voters = items[queries, ranks]
    mended, broken = ~right[queries] & fine, right[queries] & ~fine
    item_labels = np.zeros(size, np.int64)
    item_labels[items] = labels
    return VoteLedger(
        k=k,
        method=method,
        query_ids=results.ids,
        truths=results.truths,
        winners=winners,
        right=right,
        label_names=results.neighbor_labels.names,
        item_names=results.neighbor_ids.names,
        item_labels=item_labels,
        seen=np.bincount(items.ravel(), minlength=size),
        helped=helped,
        hurt=hurt,
        caused=np.bincount(voters[mended], minlength=size),
        saved=np.bincount(voters[broken], minlength=size),
        mended=np.stack([queries[mended], voters[mended]]),
    )


def _share_out(
    labels: Int[np.ndarray, "queries k"],
    items: Int[np.ndarray, "queries k"],
    shares: Float[np.ndarray, "queries k"],
    truths: Int[np.ndarray, "queries allowed"],
    *,
    size: int,
) -> tuple[Float[np.ndarray, " items"], Float[np.ndarray, " items"]]:
    """Return what each item gave to right and to wrong labels; every query hands out one vote."""
    helped, hurt = np.zeros(size), np.zeros(size)
    for start in range(0, len(labels), _QUERIES_AT_A_TIME):
        some = slice(start, start + _QUERIES_AT_A_TIME)
        right = is_right(labels[some], truths[some])
        helped += np.bincount(items[some][right], shares[some][right], size)
        hurt += np.bincount(items[some][~right], shares[some][~right], size)
    return helped, hurt


def _shares(distances: np.ndarray, method: str, factors: Factors | None) -> Float[np.ndarray, "queries k"]:
    weights = neighbor_weights(distances, method, factors=factors)
    return shares_of(weights, weights)


def flips(
    labels: Int[np.ndarray, "queries k"],
    distances: Float[np.ndarray, "queries k"],
    *,
    method: str,
    factors: Factors | None = None,
) -> tuple[Int[np.ndarray, " flips"], Int[np.ndarray, " flips"], Int[np.ndarray, " flips"]]:
    """Return the votes whose absence changes the answer: query, rank from 0, and the answer without it.

    Only a vote for the winner can be one. Without it the winner has its weight less and all others keep theirs, so one
    comparison with the runner-up tells; where both come out equal, the vote is taken again without it.
    """
    heaviest = heaviest_labels(labels, distances, count=2, method=method, factors=factors)
    (winners, seconds), shares = (each.T for each in heaviest)
    given = _shares(distances, method, factors)
    beyond = np.where(labels == winners[:, None], given, -np.inf) - (shares[0] - shares[1])[:, None]
    queries, ranks = np.nonzero((beyond > -_ROUNDING) & (seconds >= 0)[:, None])
    answers = seconds[queries].copy()
    close = np.flatnonzero(beyond[queries, ranks] <= _ROUNDING)
    for start in range(0, len(close), _QUERIES_AT_A_TIME):
        some = close[start : start + _QUERIES_AT_A_TIME]
        there = np.arange(labels.shape[1]) != ranks[some][:, None]
        near = queries[some]
        counted = there if factors is None else there * factors[near]
        answers[some] = predict_every_k(labels[near], distances[near], method=method, factors=counted)[:, -1]
    changed = answers != winners[queries]
    return queries[changed], ranks[changed], answers[changed]
