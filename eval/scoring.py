"""Which answers are right: labels against sets of right labels, for one query or for all at once."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from eval.intervals import wilson_interval
from eval.types import Interval, Percent, QueryResults
from retrieval.voting import DEFAULT_METHOD, Factors, predict_every_k


def vote_labels(results: QueryResults) -> list[str]:
    """Return the label that rank voting gives each query, at the run's k."""
    names = results.neighbor_labels.names
    return [names[code] for code in winners(results, DEFAULT_METHOD)[:, -1].tolist()]


def final_labels(results: QueryResults) -> list[str]:
    """Return each query's answer: that of the second stage where there was one, else the vote's."""
    return vote_labels(results) if results.outcomes is None else [outcome.label for outcome in results.outcomes]


def are_right(labels: Sequence[str], truths: Sequence[AbstractSet[str]]) -> Bool[np.ndarray, " queries"]:
    """Tell which labels are among the right ones of their query."""
    return np.fromiter((label in truth for label, truth in zip(labels, truths, strict=True)), bool, len(labels))


def is_right(
    predictions: Int[np.ndarray, "queries n"], truths: Int[np.ndarray, "queries allowed"]
) -> Bool[np.ndarray, "queries n"]:
    """Tell which predictions are among the right labels of their query; a truth below 0 is none."""
    right = np.zeros(predictions.shape, bool)
    for column in truths.T:
        right |= (predictions == column[:, None]) & (column >= 0)[:, None]
    return right


def truth_codes(results: QueryResults) -> Int[np.ndarray, "queries allowed"]:
    """Number the right labels as the neighbours' are; -1 where a query has fewer, or where no neighbour has one."""
    codes = {label: code for code, label in enumerate(results.neighbor_labels.names)}
    table = np.full((len(results), max(map(len, results.truths), default=0)), -1)
    for query, truth in enumerate(results.truths):
        table[query, : len(truth)] = [codes.get(label, -1) for label in sorted(truth)]
    return table


def per_class(
    truths: Sequence[AbstractSet[str]], right: Mapping[str, Bool[np.ndarray, " queries"]]
) -> dict[str, dict[str, Any]]:
    """Return of each true label how many queries have it, and the accuracies on them; a query may have several."""
    members: dict[str, list[int]] = {}
    for query, truth in enumerate(truths):
        for label in truth:
            members.setdefault(label, []).append(query)
    return {
        label: {"count": len(queries)} | {name: percent(some[queries]) for name, some in right.items()}
        for label, queries in sorted(members.items())
    }


def winners(results: QueryResults, method: str, *, factors: Factors | None = None) -> Int[np.ndarray, "queries k"]:
    """Return the number of the label that wins for each k; see `retrieval.voting.predict_every_k`.

    ``factors`` come on top of the neighbours' own reliabilities.
    """
    own = results.reliabilities
    if own is not None and factors is not None:
        own = own * factors
    codes: np.ndarray = predict_every_k(
        results.neighbor_labels.codes,
        results.neighbor_distances,
        method=method,
        factors=factors if own is None else own,
    )
    return codes


def percent(right: Bool[np.ndarray, " queries"]) -> Percent:
    """Return an accuracy."""
    return 100.0 * float(right.mean())


def interval(right: Bool[np.ndarray, " queries"]) -> Interval:
    """Return the 95 % Wilson interval of an accuracy."""
    return wilson_interval(int(right.sum()), len(right))
