"""From a run's neighbours to figures: pure functions over arrays."""

import math
from collections import Counter
from collections.abc import Iterable
from typing import Final

import numpy as np
from jaxtyping import Bool, Int

from eval.types import Metrics, Outcome, Percent, QueryResults, RerankMetrics
from retrieval.voting import DEFAULT_METHOD, METHODS, encode_labels, predict_every_k

_Z95: Final = 1.959963984540054  # two-sided 95 % quantile of the normal distribution


def compute_metrics(results: QueryResults, *, known_labels: Iterable[str]) -> Metrics:
    """Return the figures of one data set, at the k of its neighbours and at every smaller one.

    Args:
        results: at least one answered query.
        known_labels: the labels of the memory.
    """
    labels, vocabulary = encode_labels(results.neighbor_labels)
    truths = _truth_codes(results.truths, vocabulary)
    right = {
        method: is_right(predict_every_k(labels, results.neighbor_distances, method=method), truths)
        for method in METHODS
    }
    by_k = {method: (100.0 * every_k.mean(axis=0)).tolist() for method, every_k in right.items()}
    final = {method: every_k[:, -1] for method, every_k in right.items()}
    return Metrics(
        count=len(results),
        unreadable=len(results.unreadable),
        top1={method: curve[-1] for method, curve in by_k.items()},
        interval={method: wilson_interval(int(at_k.sum()), len(results)) for method, at_k in final.items()},
        hit_rate=100.0 * float(is_right(labels, truths).any(axis=1).mean()),
        top1_by_k=by_k,
        per_class=_per_class(results.truths, final),
        labels_not_in_memory=sorted(frozenset().union(*results.truths) - set(known_labels)),
        rerank=_rerank(results.outcomes, results.truths, final[DEFAULT_METHOD])
        if results.outcomes is not None
        else None,
    )


def is_right(
    predictions: Int[np.ndarray, "queries k"], truths: Int[np.ndarray, "queries allowed"]
) -> Bool[np.ndarray, "queries k"]:
    """Tell which predictions are among the right labels of their query; a truth of -1 is none."""
    right = np.zeros(predictions.shape, bool)
    for column in truths.T:
        right |= predictions == column[:, None]
    return right


def wilson_interval(successes: int, trials: int) -> tuple[Percent, Percent]:
    """Return the 95 % Wilson score interval of a proportion, in percent (Wilson, 1927)."""
    share = successes / trials
    spread = _Z95**2 / trials
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread**2 / 4) / (1 + spread)
    return 100.0 * max(0.0, centre - half), 100.0 * min(1.0, centre + half)


def _rerank(outcomes: list[Outcome], truths: list[frozenset[str]], vote_right: np.ndarray) -> RerankMetrics:
    right = np.array([outcome.label in truth for outcome, truth in zip(outcomes, truths, strict=True)])
    prompt, cached, reply = (
        sum(getattr(outcome, name) for outcome in outcomes)
        for name in ("prompt_tokens", "cached_tokens", "reply_tokens")
    )
    costs = [outcome.cost for outcome in outcomes]
    return RerankMetrics(
        top1=100.0 * float(right.mean()),
        interval=wilson_interval(int(right.sum()), len(outcomes)),
        vote_top1=100.0 * float(vote_right.mean()),
        fixed=int((right & ~vote_right).sum()),
        broken=int((~right & vote_right).sum()),
        reasons=dict(Counter(outcome.code for outcome in outcomes).most_common()),
        calls=sum(outcome.calls for outcome in outcomes),
        calls_saved=sum(outcome.calls_saved for outcome in outcomes),
        prompt_tokens=prompt,
        cached_tokens=cached,
        reply_tokens=reply,
        cost=None if None in costs else sum(cost for cost in costs if cost is not None),
    )


def _truth_codes(truths: list[frozenset[str]], vocabulary: list[str]) -> Int[np.ndarray, "queries allowed"]:
    """Number the right labels as the neighbours' are; -1 where a query has fewer, or where no neighbour has one."""
    codes = {label: code for code, label in enumerate(vocabulary)}
    table = np.full((len(truths), max(map(len, truths))), -1)
    for query, truth in enumerate(truths):
        table[query, : len(truth)] = [codes.get(label, -1) for label in sorted(truth)]
    return table


def _per_class(truths: list[frozenset[str]], final: dict[str, np.ndarray]) -> dict[str, dict[str, float | int]]:
    members: dict[str, list[int]] = {}
    for query, truth in enumerate(truths):
        for label in truth:
            members.setdefault(label, []).append(query)
    return {
        label: {"count": len(queries)} | {m: 100.0 * float(right[queries].mean()) for m, right in final.items()}
        for label, queries in sorted(members.items())
    }
