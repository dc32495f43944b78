"""From what a model answered to the second stage's figures: gains, failures, calibration, accuracy against cost."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float

from agent.rerank import fit_fusion_weight, fuse
from eval.metrics.intervals import bootstrap_interval, calibrate, wilson_interval
from eval.types import Calibration, GateCurve, Outcome, Percent, QueryResults, RerankMetrics, RunError, Spending
from retrieval.support.terminal import counted
from retrieval.types import Votes
from retrieval.voting import count_votes

OUT_OF_CANDIDATES: Final = "unusable_reply"
NO_ERRORS: Final = frozenset({"reranked", "none_of_these", "decisive", "no_model", OUT_OF_CANDIDATES})
_POINTS: Final = 100  # of a gate's curve at most, beside its beginning
_ABOVE_ALL: Final = 1.01  # margins go up to 1
_PERCENTILES: Final = (50, 90, 95, 99)


def compute_rerank_metrics(
    outcomes: Sequence[Outcome],
    right: Bool[np.ndarray, " queries"],
    *,
    vote_right: Bool[np.ndarray, " queries"],
    margin: Float[np.ndarray, " queries"],
    hit_rate: Percent,
    macro: Percent,
) -> RerankMetrics:
    """Return what the second stage did to the queries of one data set.

    Args:
        outcomes: at least one.
        right: which final answers are right.
        vote_right: which answers of the vote are.
        margin: the winner's share of the vote less the second's.
        hit_rate: the ceiling of reranking.
        macro: accuracy of the final answers averaged over the classes.
    """
    top1, vote_top1 = 100.0 * float(right.mean()), 100.0 * float(vote_right.mean())
    reasons = Counter(outcome.code for outcome in outcomes)
    successes = int(right.sum())
    return RerankMetrics(
        top1=top1,
        interval=wilson_interval(successes, len(right)),
        bootstrap=bootstrap_interval(successes, len(right)),
        macro=macro,
        vote_top1=vote_top1,
        efficiency=(top1 - vote_top1) / (hit_rate - vote_top1) if hit_rate > vote_top1 else None,
        fixed=int((right & ~vote_right).sum()),
        broken=int((~right & vote_right).sum()),
        unchanged_right=int((right & vote_right).sum()),
        unchanged_wrong=int((~right & ~vote_right).sum()),
        reasons=dict(sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0]))),
        out_of_candidates=reasons[OUT_OF_CANDIDATES],
        errors=sum(count for code, count in reasons.items() if code not in NO_ERRORS),
        calibration=_stated_confidence(outcomes, right),
        gate=_gate_curve(outcomes, right, vote_right, margin),
    )


def sum_spending(outcomes: Sequence[Outcome]) -> Spending:
    """Return what the second stage took for one data set."""
    seconds = [taken for outcome in outcomes for taken in outcome.seconds]
    costs = [outcome.cost for outcome in outcomes]
    return Spending(
        calls=sum(outcome.calls for outcome in outcomes),
        calls_saved=sum(outcome.calls_saved for outcome in outcomes),
        prompt_tokens=sum(outcome.prompt_tokens for outcome in outcomes),
        cached_tokens=sum(outcome.cached_tokens for outcome in outcomes),
        reply_tokens=sum(outcome.reply_tokens for outcome in outcomes),
        cost=_sum(costs),
        seconds={
            **{f"p{percentile}": float(np.percentile(seconds, percentile)) for percentile in _PERCENTILES},
            "max": max(seconds),
        }
        if seconds
        else {},
    )


def _stated_confidence(outcomes: Sequence[Outcome], right: Bool[np.ndarray, " queries"]) -> Calibration | None:
    stated = np.array([outcome.code == "reranked" and outcome.confidence is not None for outcome in outcomes], bool)
    if not stated.any():
        return None
    claims = np.array([outcome.confidence or 0.0 for outcome in outcomes])
    return calibrate(claims[stated], right[stated])


def _gate_curve(
    outcomes: Sequence[Outcome],
    right: Bool[np.ndarray, " queries"],
    vote_right: Bool[np.ndarray, " queries"],
    margin: Float[np.ndarray, " queries"],
) -> GateCurve:
    """Ask the queries one after the other, those with the most open vote first, and see what accuracy and cost become.

    Queries of equal margin pass a gate together, so points lie between different margins only.
    """
    asked = np.flatnonzero([outcome.code not in ("decisive", "no_model") for outcome in outcomes])
    full = [outcome.full_cost for outcome in outcomes]
    costs = None if None in full else np.array(full, float)
    # Of equal margins the cheaper first: sums then round the same in whatever order the queries come.
    order = asked[np.lexsort((np.zeros(len(asked)) if costs is None else costs[asked], margin[asked]))]
    gained = np.cumsum(right[order].astype(int) - vote_right[order].astype(int))
    ends = np.flatnonzero(np.diff(margin[order], append=np.inf)) + 1  # how many are asked below each threshold
    ends = ends[np.unique(np.linspace(0, len(ends) - 1, min(_POINTS, len(ends))).astype(int))] if len(ends) else ends
    spent = None if costs is None else np.concatenate([[0.0], np.cumsum(costs[order])])
    asks = [0, *ends.tolist()]
    return GateCurve(
        margin=[0.0, *(float(margin[order[end]]) if end < len(order) else _ABOVE_ALL for end in ends.tolist())],
        asked=[100.0 * count / len(outcomes) for count in asks],
        top1=[100.0 * float(vote_right.sum() + (gained[count - 1] if count else 0)) / len(outcomes) for count in asks],
        cost=[None if spent is None else float(spent[count]) for count in asks],
    )


def _sum(costs: Sequence[float | None]) -> float | None:
    return None if None in costs else math.fsum(cost for cost in costs if cost is not None)


@dataclass(frozen=True, slots=True)
class FittedFusion:
    """A weight, and top-1 on the queries that the model answered."""

    weight: float  # fitted on all of them
    queries: int
    vote_top1: Percent
    model_top1: Percent
    fused_top1: Percent  # each half of the queries with the weight of the other half


def fit_fusion(results: Mapping[str, QueryResults]) -> FittedFusion:
    """Return the weight under which the right labels of a run's queries are likeliest.

    Queries whose right label has no vote are wrong under any weight; the others are what the halves are made of.

    Raises:
        RunError: the run asked no model, or too few queries were answered or have their right label among the voted.
    """
    rows = [row for found in results.values() for row in _answered(found)]
    if len(rows) < 2:
        raise RunError(f"the run has {counted(len(rows), 'query')} that a model answered: 2 or more expected")
    hits = [row for row in rows if row[3] & set(row[0].labels)]
    if len(hits) < 2:
        raise RunError(
            f"of {len(rows):,} queries that the model answered, {len(hits)} had the right label among the voted: 2 or "
            "more expected to fit a weight"
        )
    halves = hits[::2], hits[1::2]
    right = sum(
        fuse(votes, label, claim, weight=weight)[0][0] in truth
        for weight, half in ((_fit(halves[1]), halves[0]), (_fit(halves[0]), halves[1]))
        for votes, label, claim, truth in half
    )
    return FittedFusion(
        weight=_fit(rows),
        queries=len(rows),
        vote_top1=100.0 * sum(votes.winner in truth for votes, _, _, truth in rows) / len(rows),
        model_top1=100.0 * sum(label in truth for _, label, _, truth in rows) / len(rows),
        fused_top1=100.0 * right / len(rows),
    )


_Row = tuple[Votes, str, float | None, frozenset[str]]


def _answered(results: QueryResults) -> list[_Row]:
    names = np.array(results.neighbor_labels.names, object)
    labels = names[results.neighbor_labels.codes]
    votes = count_votes(labels, results.neighbor_distances, factors=results.reliabilities)
    return [
        (voted, outcome.answer, outcome.confidence, truth)
        for voted, outcome, truth in zip(votes, results.outcomes or (), results.truths, strict=False)
        if outcome.answer is not None
    ]


def _fit(rows: list[_Row]) -> float:
    votes, labels, claims, truths = zip(*rows, strict=True)
    return fit_fusion_weight(votes, labels, claims, truths)
