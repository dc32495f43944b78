"""What is made of a model's answers: those in several orders are agreed upon, and one is combined with the vote."""

import math
import random
from collections import defaultdict
from collections.abc import Sequence, Set
from typing import Final

import numpy as np
from jaxtyping import Bool, Float

from agent.types import Order
from prompts.answer import Answer
from retrieval.errors import InvalidArgument
from retrieval.types import Label, Neighbor, Votes

_UNCLAIMED: Final = 0.9  # for a model that states no confidence
_LEAST: Final = 0.01  # a claim of certainty must not outweigh any vote
_HEAVIEST: Final = 10.0
_IMPOSSIBLE: Final = 1e-300  # a likelihood that rounds to 0


def fuse(votes: Votes, label: Label, confidence: float | None, *, weight: float) -> list[tuple[Label, float]]:
    """Return the voted labels with their fused probabilities, the likeliest first.

    Args:
        votes: of the first stage.
        label: the model's answer; one that nobody voted for has no share, so that the vote stands.
        confidence: what it claims for it.
        weight: how much the model counts beside the vote.
    """
    answer, others = _log_experts(confidence, len(votes.labels))
    scores = [
        math.log(share) + weight * (answer if voted == label else others)
        for voted, share in zip(votes.labels, votes.shares, strict=True)
    ]
    highest = max(scores)
    powers = [math.exp(score - highest) for score in scores]
    fused = [(voted, power / sum(powers)) for voted, power in zip(votes.labels, powers, strict=True)]
    return sorted(fused, key=lambda pair: -pair[1])


def fit_fusion_weight(
    votes: Sequence[Votes], labels: Sequence[Label], confidences: Sequence[float | None], truths: Sequence[Set[Label]]
) -> float:
    """Return the weight, 0 to 10, under which the right labels are likeliest. Fit it on queries that you do not score.

    Queries whose right label has no vote say nothing about the weight and are left out.

    Raises:
        InvalidArgument: no query is left.
    """
    from scipy.optimize import minimize_scalar

    rows = [row for row in zip(votes, labels, confidences, truths, strict=True) if row[3] & set(row[0].labels)]
    if not rows:
        raise InvalidArgument("no query has its right label among the voted ones: a fusion weight cannot be fitted")
    shares, model, right = _as_arrays(rows)

    def surprise(weight: float) -> float:
        scores = shares + weight * model
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        likelihood = np.where(right, powers, 0.0).sum(axis=1) / powers.sum(axis=1)
        return -float(np.log(np.maximum(likelihood, _IMPOSSIBLE)).sum())

    return float(minimize_scalar(surprise, bounds=(0.0, _HEAVIEST), method="bounded").x)


_Row = tuple[Votes, Label, float | None, Set[Label]]


def _as_arrays(
    rows: Sequence[_Row],
) -> tuple[Float[np.ndarray, "queries most"], Float[np.ndarray, "queries most"], Bool[np.ndarray, "queries most"]]:
    """Return, of every query's voted labels, log share, the model's log probability, and whether they are right.

    Rows are filled up to the most labels that a query has; a share of nothing keeps what is filled in out of sums.
    """
    most = max(len(votes.labels) for votes, *_ in rows)
    shares, model = np.full((len(rows), most), -np.inf), np.zeros((len(rows), most))
    right = np.zeros((len(rows), most), bool)
    for row, (votes, label, confidence, truth) in enumerate(rows):
        width = len(votes.labels)
        answer, others = _log_experts(confidence, width)
        shares[row, :width] = np.log(votes.shares)
        model[row, :width] = [answer if voted == label else others for voted in votes.labels]
        right[row, :width] = [voted in truth for voted in votes.labels]
    return shares, model, right


def _log_experts(confidence: float | None, labels: int) -> tuple[float, float]:
    """Return the model's log probability of its answer, and of each other of so many voted labels."""
    claimed = min(max(_UNCLAIMED if confidence is None else confidence, _LEAST), 1 - _LEAST)
    return math.log(claimed), math.log((1 - claimed) / max(1, labels - 1))


_SURE: Final = 0.9  # a claimed confidence from which an answer that agrees with the vote needs no second order


def is_unsure(answer: Answer, votes: Votes) -> bool:
    """Tell whether an answer is worth asking for again in other orders."""
    return not answer.ranking or answer.ranking[0] != votes.winner or (answer.confidence or 0.0) < _SURE


def order_seeds(seed: int, neighbors: Sequence[Neighbor], count: int) -> list[int]:
    """Return seeds of shuffles that are one query's own, and the same whenever it is asked."""
    draw = random.Random(f"{seed} {[neighbor.id for neighbor in neighbors]}")
    return [draw.getrandbits(32) for _ in range(count)]


def agreed(orders: Sequence[Order], first: Answer) -> Answer:
    """Return what most orders answered, weighed by confidence (permutation self-consistency: Tang et al., 2024)."""
    weights: dict[Label | None, float] = defaultdict(float)
    for order in orders:
        weights[order.label] += 1.0 if order.confidence is None else order.confidence
    label = max(weights, key=lambda answered: weights[answered])
    further = () if label is None else (label, *(other for other in first.ranking if other != label))
    return Answer(further, weights[label] / len(orders), first.evidence)
