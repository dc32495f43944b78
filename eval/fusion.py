"""The weight by which a run's vote and model are best combined, and what it would have given."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from agent.fusion import fit_fusion_weight, fuse
from eval.errors import RunError
from eval.types import Percent, QueryResults
from eval.wording import counted
from retrieval.types import Votes
from retrieval.voting import count_votes


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
