"""Vote and model combined: a product of two experts, the model's raised to a fitted weight.

    p(label) ∝ share of the vote(label) × model(label) ** weight

The model's probability is what it claims for its first label; what remains is spread evenly over the others. A weight
of 0 leaves the vote, a large one the model.
"""

import math
from collections.abc import Sequence, Set
from typing import Final

from retrieval.errors import InvalidArgument
from retrieval.types import Label, Votes

_UNCLAIMED: Final = 0.9  # for a model that states no confidence
_LEAST: Final = 0.01  # a claim of certainty must not outweigh any vote
_HEAVIEST: Final = 10.0


def fuse(votes: Votes, label: Label, confidence: float | None, *, weight: float) -> list[tuple[Label, float]]:
    """Return the voted labels with their fused probabilities, the likeliest first.

    Args:
        votes: of the first stage.
        label: the model's answer, one of the voted labels.
        confidence: what it claims for it.
        weight: how much the model counts beside the vote.
    """
    claimed = min(max(_UNCLAIMED if confidence is None else confidence, _LEAST), 1 - _LEAST)
    others = (1 - claimed) / max(1, len(votes.labels) - 1)
    scores = [
        math.log(share) + weight * math.log(claimed if voted == label else others)
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

    def surprise(weight: float) -> float:
        fused = ((dict(fuse(voted, label, claim, weight=weight)), truth) for voted, label, claim, truth in rows)
        return -sum(math.log(max(sum(p.get(label, 0.0) for label in truth), 1e-300)) for p, truth in fused)

    return float(minimize_scalar(surprise, bounds=(0.0, _HEAVIEST), method="bounded").x)
