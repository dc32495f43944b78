"""Table 3, against the paper's text followed one query at a time."""

import math
from collections import defaultdict

import numpy as np
import pytest

from eval.experiments.material import Material
from eval.experiments.pruning import pruning
from eval.report.plots import as_png
from retrieval.errors import InvalidArgument
from tests.eval.experiments.made_material import made_material

SELF, LIMIT = 25, 10


def wrong_votes(material: Material) -> list[int]:
    hurt = [0] * len(material.item_ids)
    for query, vector in enumerate(material.vectors):
        order = sorted(range(len(hurt)), key=lambda item: -float(material.vectors[item] @ vector))
        for item in [item for item in order if item != query][:SELF]:
            hurt[item] += int(material.labels[item] != material.labels[query])
    return hurt


def weight(method: str, rank: int, distance: float) -> float:
    plain = {"rank": 1 / (2 + rank), "plurality": 1.0, "distance": math.exp(-distance)}
    return plain.get(method, math.exp((1 - distance) / 0.07))


def best_accuracy(material: Material, method: str, items: list[int], gamma: list[float], most: int) -> float:
    """Return the highest accuracy over k, the winner being the first label to reach the heaviest sum."""
    right = np.zeros(most)
    for vector, truth in zip(material.queries, material.truths, strict=True):
        distances = {item: 1 - float(material.vectors[item] @ vector) for item in items}
        sums: dict[int, float] = defaultdict(float)
        winner, heaviest = -1, 0.0
        for rank, item in enumerate(sorted(items, key=lambda item: distances[item])[:most]):
            label = int(material.labels[item])
            sums[label] += weight(method, rank, distances[item]) * gamma[item]
            if sums[label] > heaviest:
                winner, heaviest = label, sums[label]
            right[rank] += material.label_names[winner] in truth
    return 100 * right.max() / len(material.queries)


@pytest.fixture(scope="module")
def material() -> Material:
    return made_material(noise=1.3, each=25)


@pytest.mark.parametrize("kind", ["none", "hard", "soft"])
@pytest.mark.parametrize("method", ["rank", "plurality", "distance", "softmax"])
def test_accuracies_are_those_of_a_sequential_count(material: Material, kind: str, method: str) -> None:
    hurt = wrong_votes(material)
    items = [item for item, wrong in enumerate(hurt) if kind != "hard" or wrong < LIMIT]
    gamma = [1.75 / (1 + wrong) if kind == "soft" and wrong else 1.0 for wrong in hurt]
    assert 0 < len(items) < len(hurt) or kind != "hard"
    analysis = pruning(material, k=30, self_neighbors={"soft": SELF, "hard": SELF}, limit=LIMIT)
    found = {row[:2]: row[2] for row in analysis.rows}
    assert found[kind, method] == pytest.approx(best_accuracy(material, method, items, gamma, 30))


def test_the_change_and_the_papers_stand_beside_each_figure(material: Material) -> None:
    analysis = pruning(material)
    rows = {row[:2]: dict(zip(analysis.columns, row, strict=True)) for row in analysis.rows}
    soft, none = rows["soft", "rank"], rows["none", "rank"]
    assert soft["change (points)"] == soft["top-1 (%)"] - none["top-1 (%)"]
    assert soft["paper (%)"] == 84.1
    assert soft["paper: change"] == pytest.approx(0.5)
    assert none["p of the change"] is None
    assert len(rows) == 12


def test_a_limit_that_leaves_nothing_is_refused(material: Material) -> None:
    with pytest.raises(InvalidArgument, match="a limit of 0"):
        pruning(material, limit=0)


def test_the_plot_is_a_picture(material: Material) -> None:
    assert as_png(pruning(material).draw()).startswith(b"\x89PNG")
