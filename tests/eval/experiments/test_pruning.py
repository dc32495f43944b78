"""Table 3, against the paper's text followed one query at a time."""

import math
from collections import defaultdict

import numpy as np
import pytest

from eval.experiments.embedded import Embedded
from eval.experiments.pruning import pruning
from eval.report.plots import as_png
from retrieval.errors import InvalidArgument
from tests.eval.experiments.made_embedded import made_embedded

SELF, LIMIT = 25, 10


def wrong_votes(embedded: Embedded) -> list[int]:
    hurt = [0] * len(embedded.item_ids)
    for query, vector in enumerate(embedded.vectors):
        order = sorted(range(len(hurt)), key=lambda item: -float(embedded.vectors[item] @ vector))
        for item in [item for item in order if item != query][:SELF]:
            hurt[item] += int(embedded.labels[item] != embedded.labels[query])
    return hurt


def weight(method: str, rank: int, distance: float) -> float:
    plain = {"rank": 1 / (2 + rank), "plurality": 1.0, "distance": math.exp(-distance)}
    return plain.get(method, math.exp((1 - distance) / 0.07))


def best_accuracy(embedded: Embedded, method: str, items: list[int], gamma: list[float], most: int) -> float:
    """Return the highest accuracy over k, the winner being the first label to reach the heaviest sum."""
    right = np.zeros(most)
    for vector, truth in zip(embedded.queries, embedded.truths, strict=True):
        distances = {item: 1 - float(embedded.vectors[item] @ vector) for item in items}
        sums: dict[int, float] = defaultdict(float)
        winner, heaviest = -1, 0.0
        for rank, item in enumerate(sorted(items, key=lambda item: distances[item])[:most]):
            label = int(embedded.labels[item])
            sums[label] += weight(method, rank, distances[item]) * gamma[item]
            if sums[label] > heaviest:
                winner, heaviest = label, sums[label]
            right[rank] += embedded.label_names[winner] in truth
    return 100 * float(right.max()) / len(embedded.queries)


@pytest.fixture(scope="module")
def embedded() -> Embedded:
    return made_embedded(noise=1.3, each=25)


@pytest.mark.parametrize("kind", ["none", "hard", "soft"])
@pytest.mark.parametrize("method", ["rank", "plurality", "distance", "softmax"])
def test_accuracies_are_those_of_a_sequential_count(embedded: Embedded, kind: str, method: str) -> None:
    hurt = wrong_votes(embedded)
    items = [item for item, wrong in enumerate(hurt) if kind != "hard" or wrong < LIMIT]
    gamma = [1.75 / (1 + wrong) if kind == "soft" and wrong else 1.0 for wrong in hurt]
    assert 0 < len(items) < len(hurt) or kind != "hard"
    analysis = pruning(embedded, k=30, self_neighbors={"soft": SELF, "hard": SELF}, limit=LIMIT)
    found = {row[:2]: row[2] for row in analysis.rows}
    assert found[kind, method] == pytest.approx(best_accuracy(embedded, method, items, gamma, 30))


def test_the_change_and_the_papers_stand_beside_each_figure(embedded: Embedded) -> None:
    analysis = pruning(embedded)
    rows = {row[:2]: dict(zip(analysis.columns, row, strict=True)) for row in analysis.rows}
    soft, none = rows["soft", "rank"], rows["none", "rank"]
    accuracies = np.array([soft["top-1 (%)"], none["top-1 (%)"]], float)
    assert soft["change (points)"] == accuracies[0] - accuracies[1]
    assert soft["paper (%)"] == 84.1
    assert soft["paper: change"] == pytest.approx(0.5)
    assert none["p of the change"] is None
    assert len(rows) == 12


def test_a_limit_that_leaves_nothing_is_refused(embedded: Embedded) -> None:
    with pytest.raises(InvalidArgument, match="a limit of 0"):
        pruning(embedded, limit=0)


def test_the_plot_is_a_picture(embedded: Embedded) -> None:
    assert as_png(pruning(embedded).draw()).startswith(b"\x89PNG")
