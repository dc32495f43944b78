"""What is printed of a run: marks beside its figures, and what they leave out."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from eval.report.printing import print_summary
from eval.runs.finished import summarise
from eval.types import Run
from retrieval.support.terminal import counted, points
from tests.eval.made_runs import made_run


def printed(run: Run, folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    print_summary(run, summarise(run, folder, choose_k_on="val"))
    return [line.strip() for line in capsys.readouterr().out.splitlines()]


def masked(run: Run, **about: object) -> Run:
    subsets = {"subsets": {"val": [f"class {number:03}" for number in range(20)]}}
    return replace(run, info=replace(run.info, about=run.info.about | subsets | about))


def test_every_figure_of_a_centred_run_is_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    centred = masked(made_run({"val": 60}, rerank=True, centre="queries"))
    rows = [line for line in printed(centred, tmp_path, capsys) if line.startswith("val ")]
    # accuracy, masked, at the chosen k, second look, what it took, by reason
    assert len(rows) == 6 and all(row.startswith(("val † ", "val †,")) for row in rows)
    plain = printed(masked(made_run({"val": 60}, rerank=True)), tmp_path, capsys)
    assert not any("†" in line for line in plain)


def test_masked_figures_say_how_they_came_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = printed(masked(made_run({"val": 60}, rerank=False), absent={"val": ["class 003"]}), tmp_path, capsys)
    assert "neighbours of others have no vote, and ranks stay" in " ".join(said)
    title = next(place for place, line in enumerate(said) if line.startswith("Masked"))
    row = next(line for line in said[title:] if line.startswith("val "))
    assert row.split()[1:3] == ["20", "1"]
    assert any(re.fullmatch(r"val: 1 of \d+ classes is not in the memory \(class 003\)", line) for line in said)


def test_what_is_left_out_is_counted_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made_run({"val": 300}, rerank=False)
    excluded = replace(run, info=replace(run.info, about=run.info.about | {"excluded": {"val": 3163}}))
    said = printed(excluded, tmp_path, capsys)
    assert "val: without 1 file that could not be used" in said
    assert "val: without 3,163 pictures for which no label is right" in said


@pytest.mark.parametrize(
    ("number", "thing", "words"),
    [
        (1, "query", "1 query"),
        (2506, "query", "2,506 queries"),
        (0, "class", "0 classes"),
        (2, "data set", "2 data sets"),
    ],
)
def test_one_thing_is_told_from_several(number: int, thing: str, words: str) -> None:
    assert counted(number, thing) == words


def test_one_point_is_told_from_several() -> None:
    assert [points(1), points(0.5), points(1.0, ".1f")] == ["1 point", "0.5 points", "1.0 points"]
