"""Runs: what they write, and that being killed costs nothing but time."""

import json
import shutil
from pathlib import Path

import pytest

from eval.datasets.trees import read_folder
from eval.metrics.votes import measure
from eval.runs.log import read_run
from eval.types import OtherSettings, RunError, Sample
from retrieval import VisualMemory
from retrieval.building import build_memory
from retrieval.errors import InvalidArgument
from retrieval.voting import METHODS
from tests.conftest import draw, save_dinov2
from tests.runs import evaluate


def test_a_run_folder_holds_figures_in_percent_for_every_method(
    memory: VisualMemory, queries: list[Sample], tmp_path: Path
) -> None:
    summary, run = evaluate(memory, {"colours": queries}, tmp_path / "run", k=5)
    written = json.loads((tmp_path / "run" / "metrics.json").read_text())["datasets"]["colours"]
    assert written["count"] == 24 and set(written["top1"]) == set(METHODS)
    assert written["top1"] == summary.metrics["colours"].top1
    assert all(len(curve) == 5 for curve in written["top1_by_k"].values())
    low, high = written["interval"]["rank"]
    assert low <= written["top1"]["rank"] <= high
    assert run.results["colours"].neighbor_labels.codes.shape == (24, 5)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.7])
def test_a_run_that_was_cut_off_ends_with_the_same_figures(
    memory: VisualMemory, queries: list[Sample], tmp_path: Path, kept: float
) -> None:
    datasets = {"first": queries[:13], "second": queries[13:]}
    evaluate(memory, datasets, tmp_path / "whole", k=5)
    shutil.copytree(tmp_path / "whole", tmp_path / "torn")
    log = tmp_path / "torn" / "log.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole[: int(len(whole) * kept)])  # mid-line, as a kill leaves it
    (tmp_path / "torn" / "metrics.json").unlink()
    evaluate(memory, datasets, tmp_path / "torn", k=5)
    figures = [(tmp_path / run / "metrics.json").read_bytes() for run in ("torn", "whole")]
    queries_logged = [[json.loads(line).get("id") for line in text.splitlines()] for text in (log.read_bytes(), whole)]
    assert figures[0] == figures[1] and queries_logged[0] == queries_logged[1]


def test_a_finished_run_is_not_embedded_again(queries: list[Sample], pictures: Path, tmp_path: Path) -> None:
    model = save_dinov2(tmp_path / "model", seed=3)
    memory, _ = build_memory(tmp_path / "memory", pictures, embedder=str(model))
    first, _ = evaluate(memory, {"q": queries}, tmp_path / "run", k=5)
    shutil.rmtree(model)  # nothing can be embedded any more
    again, _ = evaluate(VisualMemory.open(memory.path), {"q": queries}, tmp_path / "run", k=5)
    assert again == first


def test_pictures_that_changed_since_are_answered_again(
    memory: VisualMemory, queries: list[Sample], tmp_path: Path
) -> None:
    evaluate(memory, {"q": queries}, tmp_path / "run", k=5)
    changed = [Sample(queries[0].id, draw((40, 60, 200), 9), queries[0].labels), *queries[1:]]
    _, run = evaluate(memory, {"q": changed}, tmp_path / "run", k=5)
    assert run.results["q"].neighbor_labels.of(0)[0] == "blue"
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert len(lines) == 1 + len(queries) + 1  # that one alone


def test_other_settings_are_refused_by_name(memory: VisualMemory, queries: list[Sample], tmp_path: Path) -> None:
    evaluate(memory, {"q": queries}, tmp_path / "run", k=5)
    with pytest.raises(OtherSettings, match=r"begun with other settings \(k: 5, now 4\): choose another --out"):
        evaluate(memory, {"q": queries}, tmp_path / "run", k=4)
    with pytest.raises(OtherSettings, match="dataset q: 24 queries, .*, now 23 queries"):
        evaluate(memory, {"q": queries[1:]}, tmp_path / "run", k=5)


def test_unreadable_queries_are_counted_apart(memory: VisualMemory, queries: list[Sample], tmp_path: Path) -> None:
    bad = [Sample("bad", b"words", frozenset(["red"])), *queries]
    summary, run = evaluate(memory, {"q": bad}, tmp_path / "run", k=5)
    assert (summary.metrics["q"].count, summary.metrics["q"].unreadable) == (24, 1)
    assert "is not a picture" in run.results["q"].unreadable["bad"]


def test_a_run_without_a_usable_picture_is_an_error(memory: VisualMemory, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="q holds no usable picture among 1 files; the first: .*not a picture"):
        evaluate(memory, {"q": [Sample("bad", b"words", frozenset(["x"]))]}, tmp_path / "run", k=5)


def test_a_data_set_without_a_usable_picture_leaves_the_figures_of_the_others(
    memory: VisualMemory, queries: list[Sample], tmp_path: Path
) -> None:
    bad = [Sample("bad", b"words", frozenset(["x"]))]
    summary, run = evaluate(memory, {"bad": bad, "q": queries}, tmp_path / "run", k=5)
    assert list(summary.metrics) == ["q"] and list(run.results["bad"].unreadable) == ["bad"]


def test_a_run_that_was_killed_before_its_first_answer_has_no_figures(
    memory: VisualMemory, queries: list[Sample], tmp_path: Path
) -> None:
    evaluate(memory, {"q": queries}, tmp_path / "run", k=5)
    log = tmp_path / "run" / "log.jsonl"
    log.write_bytes(log.read_bytes().splitlines(keepends=True)[0])
    with pytest.raises(RunError, match="no query of the run is answered yet: run the same"):
        measure(read_run(tmp_path / "run"))


def test_a_data_set_without_queries_is_an_error(memory: VisualMemory, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="the data set q has no queries"):
        evaluate(memory, {"q": []}, tmp_path / "run")


def test_a_folder_reads_as_samples_with_one_label_each(pictures: Path) -> None:
    samples = read_folder(pictures)
    assert len(samples) == 18 and samples[0].id == "blue/0.png" and samples[0].labels == frozenset(["blue"])


def test_a_centred_run_is_another_run_and_resumes_to_the_same_figures(
    memory: VisualMemory, queries: list[Sample], tmp_path: Path
) -> None:
    for out in ("whole", "torn"):
        evaluate(memory, {"q": queries}, tmp_path / out, k=5, centre="queries")
    log = tmp_path / "torn" / "log.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:7]))
    evaluate(memory, {"q": queries}, tmp_path / "torn", k=5, centre="queries")
    figures = [(tmp_path / run / "metrics.json").read_bytes() for run in ("torn", "whole")]
    assert figures[0] == figures[1]
    assert read_run(tmp_path / "whole").info.centred == "queries"
    with pytest.raises(OtherSettings, match="centre: queries, now none"):
        evaluate(memory, {"q": queries}, tmp_path / "whole", k=5)
    with pytest.raises(InvalidArgument, match="--centre 'mean': choose one of queries, running"):
        evaluate(memory, {"q": queries}, tmp_path / "other", k=5, centre="mean")


def test_pictures_that_could_not_be_used_are_tried_again_when_they_are_mended_or_asked_for(
    memory: VisualMemory, queries: list[Sample], tmp_path: Path
) -> None:
    picture = LatePicture(tmp_path / "late.png")
    samples = [Sample("late", picture, frozenset(["red"])), *queries[:3]]
    summary, _ = evaluate(memory, {"q": samples}, tmp_path / "run", k=5)
    assert summary.metrics["q"].unreadable == 1
    log = tmp_path / "run" / "log.jsonl"
    before = log.read_bytes()
    draw((190, 40, 40), 1).save(tmp_path / "late.png")
    evaluate(memory, {"q": samples}, tmp_path / "run", k=5)
    assert log.read_bytes() == before  # its mark is the same
    summary, run = evaluate(memory, {"q": samples}, tmp_path / "run", k=5, retry_errors=True)
    assert (summary.metrics["q"].count, summary.metrics["q"].unreadable) == (4, 0) and "late" in run.results["q"].ids
    unbroken, _ = evaluate(memory, {"q": samples}, tmp_path / "unbroken", k=5)
    assert summary == unbroken
    (tmp_path / "torn.png").write_bytes(b"")
    torn = [Sample("torn", tmp_path / "torn.png", frozenset(["red"])), *queries[:3]]
    evaluate(memory, {"q": torn}, tmp_path / "second", k=5)
    draw((190, 40, 40), 1).save(tmp_path / "torn.png")
    summary, _ = evaluate(memory, {"q": torn}, tmp_path / "second", k=5)
    assert summary.metrics["q"].unreadable == 0


class LatePicture:
    """A picture that a mount shows late, under a mark that does not change."""

    fingerprint = "mount"

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> bytes:
        return self._path.read_bytes() if self._path.exists() else b""
