"""Runs: what they write, and that being killed costs nothing but time."""

import json
import shutil
from pathlib import Path

import pytest

from eval.datasets.folder import read_folder
from eval.errors import OtherSettings, RunError
from eval.runlog import RunLog
from eval.runner import run_evaluation
from eval.types import Sample
from retrieval import VisualMemory
from retrieval.building import build_memory
from retrieval.voting import METHODS
from tests.conftest import draw, save_dinov2


@pytest.fixture(scope="module")
def memory(built: Path) -> VisualMemory:
    return VisualMemory.open(built)


@pytest.fixture
def queries() -> list[Sample]:
    colours = {"red": (190, 40, 40), "blue": (50, 60, 190)}
    return [
        Sample(f"{label}/{number}", draw(colour, number), frozenset([label]))
        for label, colour in colours.items()
        for number in range(12)
    ]


def test_a_run_folder_holds_figures_in_percent_for_every_method(
    memory: VisualMemory, queries: list[Sample], tmp_path: Path
) -> None:
    metrics, results = run_evaluation(memory, {"colours": queries}, tmp_path / "run", k=5)
    written = json.loads((tmp_path / "run" / "metrics.json").read_text())["datasets"]["colours"]
    assert written["count"] == 24 and set(written["top1"]) == set(METHODS)
    assert written["top1"] == metrics["colours"].top1
    assert all(len(curve) == 5 for curve in written["top1_by_k"].values())
    low, high = written["interval"]["rank"]
    assert low <= written["top1"]["rank"] <= high
    assert results["colours"].neighbor_labels.shape == (24, 5)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.7])
def test_a_run_that_was_cut_off_ends_with_the_same_figures(
    memory: VisualMemory, queries: list[Sample], tmp_path: Path, kept: float
) -> None:
    datasets = {"first": queries[:13], "second": queries[13:]}
    run_evaluation(memory, datasets, tmp_path / "whole", k=5)
    shutil.copytree(tmp_path / "whole", tmp_path / "torn")
    log = tmp_path / "torn" / "log.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole[: int(len(whole) * kept)])  # mid-line, as a kill leaves it
    (tmp_path / "torn" / "metrics.json").unlink()
    run_evaluation(memory, datasets, tmp_path / "torn", k=5)
    figures = [(tmp_path / run / "metrics.json").read_bytes() for run in ("torn", "whole")]
    queries_logged = [[json.loads(line).get("id") for line in text.splitlines()] for text in (log.read_bytes(), whole)]
    assert figures[0] == figures[1] and queries_logged[0] == queries_logged[1]


def test_a_finished_run_is_not_embedded_again(queries: list[Sample], pictures: Path, tmp_path: Path) -> None:
    model = save_dinov2(tmp_path / "model", seed=3)
    memory, _ = build_memory(tmp_path / "memory", pictures, embedder=str(model))
    first, _ = run_evaluation(memory, {"q": queries}, tmp_path / "run", k=5)
    shutil.rmtree(model)  # nothing can be embedded any more
    again, _ = run_evaluation(VisualMemory.open(memory.path), {"q": queries}, tmp_path / "run", k=5)
    assert again == first


def test_other_pictures_of_the_same_names_are_another_data_set(
    memory: VisualMemory, queries: list[Sample], tmp_path: Path
) -> None:
    run_evaluation(memory, {"q": queries}, tmp_path / "run", k=5)
    others = [Sample(sample.id, draw((0, 0, 0), 1), sample.labels) for sample in queries]
    with pytest.raises(OtherSettings, match="dataset q: 24 queries, .*, now 24 queries"):
        run_evaluation(memory, {"q": others}, tmp_path / "run", k=5)


def test_other_settings_are_refused_by_name(memory: VisualMemory, queries: list[Sample], tmp_path: Path) -> None:
    run_evaluation(memory, {"q": queries}, tmp_path / "run", k=5)
    with pytest.raises(OtherSettings, match=r"begun with other settings \(k: 5, now 4\): choose another --out"):
        run_evaluation(memory, {"q": queries}, tmp_path / "run", k=4)
    with pytest.raises(OtherSettings, match="dataset q: 24 queries, .*, now 23 queries"):
        run_evaluation(memory, {"q": queries[1:]}, tmp_path / "run", k=5)


def test_unreadable_queries_are_counted_apart(memory: VisualMemory, queries: list[Sample], tmp_path: Path) -> None:
    bad = [Sample("bad", b"words", frozenset(["red"])), *queries]
    metrics, results = run_evaluation(memory, {"q": bad}, tmp_path / "run", k=5)
    assert (metrics["q"].count, metrics["q"].unreadable) == (24, 1)
    assert "is not a picture" in results["q"].unreadable["bad"]


def test_a_data_set_without_a_usable_picture_is_an_error(memory: VisualMemory, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="q holds no usable picture among 1 files; the first: .*not a picture"):
        run_evaluation(memory, {"q": [Sample("bad", b"words", frozenset(["x"]))]}, tmp_path / "run", k=5)


def test_a_data_set_without_queries_is_an_error(memory: VisualMemory, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="the data set q has no queries"):
        run_evaluation(memory, {"q": []}, tmp_path / "run")


@pytest.mark.parametrize("content", ["words\n", "[1]\n", "\x00\n", '{"mine": 1}', '{"mine": 1}\nand no end', "\n"])
def test_a_folder_with_another_log_is_left_alone(tmp_path: Path, content: str) -> None:
    (tmp_path / "log.jsonl").write_text(content)
    with pytest.raises(RunError, match="is no log of a run"):
        RunLog(tmp_path, {"k": 1})
    assert (tmp_path / "log.jsonl").read_text() == content


@pytest.mark.parametrize("line", ["{}", '{"dataset": "q", "id": "1"}'])
def test_a_log_with_a_damaged_line_is_reported(
    memory: VisualMemory, queries: list[Sample], tmp_path: Path, line: str
) -> None:
    run_evaluation(memory, {"q": queries}, tmp_path / "run", k=5)
    with (tmp_path / "run" / "log.jsonl").open("a") as log:
        log.write(line + "\n")
    with pytest.raises(RunError, match="has a damaged line"):
        run_evaluation(memory, {"q": queries}, tmp_path / "run", k=5)


def test_a_folder_of_other_files_becomes_no_run(memory: VisualMemory, queries: list[Sample], tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("mine")
    with pytest.raises(RunError, match="holds other files and no run"):
        run_evaluation(memory, {"q": queries}, tmp_path, k=5)
    assert (tmp_path / "metrics.json").read_text() == "mine"


def test_a_folder_reads_as_samples_with_one_label_each(pictures: Path) -> None:
    samples = read_folder(pictures)
    assert len(samples) == 18 and samples[0].id == "blue/0.png" and samples[0].labels == frozenset(["blue"])
