"""What a pruning makes of votes comes through everywhere: to decisions, logs, figures and files of neighbours."""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agent import classify_with_rerank
from agent.types import prediction_record
from eval.experiments.aggregation import aggregation
from eval.experiments.base import BY_METHOD, accuracy_every_k
from eval.experiments.blame import flips
from eval.metrics.votes import vote_labels, winners
from eval.neighbors import read_neighbors, write_neighbors
from eval.runs.log import read_run
from eval.types import Neighborhoods, QueryResults, RunError, Sample
from retrieval import VisualMemory
from retrieval.building import build_memory
from retrieval.support.parsing import sealed, unsealed
from retrieval.voting import METHODS, predict_every_k
from tests.runs import evaluate


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory, pictures: Path, checkpoint: Path) -> VisualMemory:
    """Return a memory in which red pictures count for next to nothing."""
    memory, _ = build_memory(tmp_path_factory.mktemp("pruned") / "m", pictures, embedder=str(checkpoint))
    labels = memory.snapshot().labels
    memory.set_reliability(np.where(labels == "red", 0.001, 1.0).astype(np.float32))
    return memory


@pytest.fixture
def results(pruned: VisualMemory, queries: list[Sample], tmp_path: Path) -> QueryResults:
    """Return what a run on it found, as its log holds it."""
    evaluate(pruned, {"q": queries}, tmp_path / "run", k=12)
    return read_run(tmp_path / "run").results["q"]


def by_hand(results: QueryResults, query: int) -> str:
    weights: dict[str, float] = defaultdict(float)
    for rank, label in enumerate(results.neighbor_labels.of(query)):
        weights[label] += (0.001 if label == "red" else 1.0) / (2 + rank)
    return max(weights, key=lambda label: weights[label])


def test_decisions_logs_and_figures_vote_alike(
    pruned: VisualMemory, queries: list[Sample], results: QueryResults
) -> None:
    expected = [by_hand(results, query) for query in range(len(queries))]
    assert "red" not in expected
    assert vote_labels(results) == expected
    decided = [classify_with_rerank(sample.picture(), pruned, k=12) for sample in queries]
    assert [prediction.label for prediction in decided] == expected


def test_the_figures_while_a_run_goes_on_and_after_it_are_the_same(
    pruned: VisualMemory, queries: list[Sample], tmp_path: Path
) -> None:
    summary, run = evaluate(pruned, {"q": queries}, tmp_path / "run", k=12)
    right = [
        label in truth for label, truth in zip(vote_labels(run.results["q"]), run.results["q"].truths, strict=True)
    ]
    assert summary.metrics["q"].top1["rank"] == pytest.approx(100 * np.mean(right))
    assert summary.metrics["q"].top1_by_k["rank"][-1] == summary.metrics["q"].top1["rank"]


def test_a_log_holds_reliabilities_only_where_there_are_any(
    memory: VisualMemory, queries: list[Sample], results: QueryResults, tmp_path: Path
) -> None:
    _, run = evaluate(memory, {"q": queries}, tmp_path / "plain", k=5)
    assert run.results["q"].reliabilities is None
    assert "reliabilities" not in (tmp_path / "plain" / "log.jsonl").read_text()
    expected = np.where(np.array(results.neighbor_labels.names)[results.neighbor_labels.codes] == "red", 0.001, 1)
    assert results.reliabilities is not None
    assert (results.reliabilities == expected.astype(np.float32)).all()


def test_lines_of_other_lengths_are_told(
    pruned: VisualMemory, queries: list[Sample], results: QueryResults, tmp_path: Path
) -> None:
    log = tmp_path / "run" / "log.jsonl"
    first, second, *lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([first, sealed((unsealed(second) or {}) | {"reliabilities": [0.5]}), *lines]))
    with pytest.raises(RunError, match="lines of different lengths"):
        read_run(tmp_path / "run")


def test_masks_come_on_top(results: QueryResults) -> None:
    not_blue = np.array([name != "blue" for name in results.neighbor_labels.names])[results.neighbor_labels.codes]
    names = [results.neighbor_labels.names[code] for code in winners(results, "rank", factors=not_blue)[:, -1]]
    assert set(names) <= {"green", "red"} and "green" in names


@pytest.mark.parametrize("method", METHODS)
def test_analyses_count_with_them(results: QueryResults, method: str) -> None:
    found = Neighborhoods("q", "small", results)
    codes, distances = results.neighbor_labels.codes, results.neighbor_distances
    answers = predict_every_k(codes, distances, method=method, factors=results.reliabilities)
    curve = accuracy_every_k(found, [BY_METHOD[method]])[0]
    truths = [next(iter(truth)) for truth in results.truths]
    named = np.array(results.neighbor_labels.names, object)[answers]
    assert curve.tolist() == pytest.approx((100 * (named == np.array(truths, object)[:, None]).mean(axis=0)).tolist())
    queries, ranks, others = flips(codes, distances, method=method, factors=results.reliabilities)
    for query, rank, other in zip(queries.tolist(), ranks.tolist(), others.tolist(), strict=True):
        assert results.reliabilities is not None
        there = (np.arange(results.k) != rank) * results.reliabilities[query]
        one = slice(query, query + 1)
        again = predict_every_k(codes[one], distances[one], method=method, factors=there[None])
        assert again[0, -1] == other != answers[query, -1]


def test_an_analysis_of_fewer_neighbours_takes_fewer_reliabilities(results: QueryResults) -> None:
    found = Neighborhoods("q", "small", results).nearest(4)
    assert found.results.reliabilities is not None and found.results.reliabilities.shape[1] == 4
    assert len(aggregation(found).rows) > 0


@pytest.mark.parametrize("ending", ["json", "parquet"])
def test_files_of_neighbours_keep_them(results: QueryResults, tmp_path: Path, ending: str) -> None:
    write_neighbors(Neighborhoods("q", "small", results), tmp_path / f"n.{ending}")
    again = read_neighbors(tmp_path / f"n.{ending}").results
    assert again.reliabilities is not None and results.reliabilities is not None
    assert (again.reliabilities == results.reliabilities).all()
    write_neighbors(Neighborhoods("q", "small", replace(results, reliabilities=None)), tmp_path / f"p.{ending}")
    assert read_neighbors(tmp_path / f"p.{ending}").results.reliabilities is None


def test_a_prediction_in_json_names_the_unreliable(pruned: VisualMemory, queries: list[Sample]) -> None:
    record = prediction_record(classify_with_rerank(queries[0].picture(), pruned, k=18))
    told = {neighbor["label"]: neighbor.get("reliability") for neighbor in record["neighbors"]}
    assert told["red"] == pytest.approx(0.001) and told["blue"] is None
