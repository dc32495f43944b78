"""The weight of vote and model: against a plainer computation, on lopsided runs, and in time on large ones."""

import math
import random
import time
from dataclasses import replace

import pytest
from scipy.optimize import minimize_scalar

from agent.rerank import fit_fusion_weight, fuse
from eval.metrics.rerank import fit_fusion
from eval.types import QueryResults, RunError
from retrieval.types import Votes
from tests.eval.made_runs import made_run


def drawn_rows(seed: int) -> list[tuple[Votes, str, float | None, set[str]]]:
    draw = random.Random(seed)
    rows = []
    for _ in range(draw.randint(2, 60)):
        labels = draw.sample("abcdefghijklmnopqrstuvwxyz", draw.randint(1, 20))
        weights = sorted((draw.random() + 0.001 for _ in labels), reverse=True)
        truth = set(draw.sample(labels, min(len(labels), draw.randint(1, 2)))) if draw.random() < 0.9 else {"none"}
        answer = draw.choice(sorted(truth & set(labels)) if truth & set(labels) and draw.random() < 0.6 else labels)
        rows.append((Votes(tuple(labels), tuple(weights)), answer, draw.choice([None, draw.random()]), truth))
    return rows


@pytest.mark.parametrize("seed", range(20))
def test_the_weight_is_the_one_under_which_fused_probabilities_fit_best(seed: int) -> None:
    rows = drawn_rows(seed)

    def surprise(weight: float) -> float:
        fused = [(dict(fuse(*row[:3], weight=weight)), row[3]) for row in rows if row[3] & set(row[0].labels)]
        return -sum(math.log(sum(p.get(label, 0.0) for label in truth)) for p, truth in fused)

    plain = minimize_scalar(surprise, bounds=(0.0, 10.0), method="bounded").x
    assert fit_fusion_weight(*map(list, zip(*rows, strict=True))) == pytest.approx(plain, abs=1e-6)


def asked(*, count: int, hits: set[int], k: int = 10) -> dict[str, QueryResults]:
    """Return queries that a model answered, of which some have their right label among the voted ones."""
    results = made_run({"q": count}, rerank=True, k=k).results["q"]
    outcomes = [
        replace(outcome, answer=results.neighbor_labels.of(row)[0], confidence=0.7)
        for row, outcome in enumerate(results.outcomes or ())
    ]
    truths = [
        frozenset([results.neighbor_labels.of(row)[0] if row in hits else "elsewhere"]) for row in range(len(results))
    ]
    return {"q": replace(results, truths=truths, outcomes=outcomes)}


def test_hits_that_all_stand_in_one_half_are_shared_out() -> None:
    fitted = fit_fusion(asked(count=20, hits={0, 2, 4, 6}))
    assert fitted.queries == 20 and fitted.fused_top1 <= 20 and fitted.model_top1 == 20


@pytest.mark.parametrize("hits", [set(), {3}])
def test_too_few_hits_are_counted_in_the_error(hits: set[int]) -> None:
    with pytest.raises(RunError, match=f"of 20 queries that the model answered, {len(hits)} had the right label among"):
        fit_fusion(asked(count=20, hits=hits))


def test_twenty_thousand_queries_of_fifty_neighbours_take_seconds() -> None:
    results = asked(count=20_000, hits=set(range(0, 20_000, 2)), k=50)
    began = time.monotonic()
    fit_fusion(results)
    assert time.monotonic() - began < 15
