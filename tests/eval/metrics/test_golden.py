"""Figures against those of real models' stored predictions, to the last digit."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.metrics.votes import compute_metrics
from eval.types import Metrics, Names, QueryResults
from tests.conftest import beside_checkout

FILES = {
    "val": "val_top5",
    "v2_matched": "v2_matched_top5",
    "v2_threshold": "v2_threshold_top5",
    "v2_top": "v2_top_top5",
}
MODELS = ("resnet50", "alexnet")


@pytest.fixture(scope="module")
def shared() -> Path:
    return beside_checkout("golden/expected.json", "the stored predictions").parents[1]


def as_votes(ranked: np.ndarray, truths: list[frozenset[str]]) -> Metrics:
    """Score five ranked predictions as five neighbours, the first the nearest: rank voting keeps their order."""
    names = [str(index) for index in range(1000)]
    distances = np.tile(np.arange(5, dtype=np.float32) / 10, (len(ranked), 1))
    ids = Names(np.zeros(ranked.shape, np.int64), [""])
    results = QueryResults(
        [str(n) for n in range(len(ranked))], truths, ids, Names(ranked.astype(np.int64), names), distances, {}
    )
    return compute_metrics(results)


def expected(shared: Path, name: str, model: str) -> dict[str, Any]:
    rows = json.loads((shared / "golden" / "expected.json").read_text())
    return next(row for row in rows if row["set"] == name and row["model"] == model)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", FILES)
def test_top_1_and_top_5_are_the_published_ones(shared: Path, name: str, model: str) -> None:
    with np.load(shared / "golden" / f"{FILES[name]}.npz") as stored:
        figures = as_votes(stored[model], [frozenset([str(label)]) for label in stored["labels"].tolist()])
    wanted = expected(shared, name, model)
    assert (round(figures.top1["rank"], 3), round(figures.top5["rank"], 3)) == (wanted["top1"], wanted["top5"])


@pytest.mark.parametrize("model", MODELS)
def test_real_counts_any_right_label_and_leaves_out_pictures_without_one(shared: Path, model: str) -> None:
    lists = json.loads((shared / "imagenet" / "real.json").read_text())
    asked = [row for row, labels in enumerate(lists) if labels]
    with np.load(shared / "golden" / "val_top5.npz") as stored:
        figures = as_votes(stored[model][asked], [frozenset(map(str, lists[row])) for row in asked])
    wanted = expected(shared, "val", model)
    assert figures.count == 46_837
    assert (round(figures.top1["rank"], 3), round(figures.top5["rank"], 3)) == (
        wanted["real_top1"],
        wanted["real_top5"],
    )
