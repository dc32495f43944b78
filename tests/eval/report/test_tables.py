"""The paper's tables: the published numbers, and ours beside them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from eval.cli.vmem import app
from eval.report.tables import Table, format_table, make_table
from eval.runs.finished import summarise
from eval.runs.log import read_run
from eval.types import RunError
from retrieval.errors import InvalidArgument
from tests.conftest import beside_checkout
from tests.eval.finished import OURS, figures, finished_run


def cells(table: Table) -> dict[str, dict[str, float]]:
    return {row.name: {column: cell.top1 for column, cell in row.cells.items()} for row in table.ours}


def test_each_data_set_of_the_paper_has_its_column_and_others_follow(tmp_path: Path) -> None:
    run = finished_run(
        tmp_path / "run",
        {
            "imagenet-a": figures(40),
            "imagenet-v2-matched-frequency": figures(70),
            "imagenet-v2-top-images": figures(80),
        },
    )
    table = make_table(2, [run])
    assert table.columns == ["IN-val", "IN-A", "IN-R", "IN-Sketch", "IN-V2", "IN-ReaL", "imagenet-v2-top-images"]
    assert cells(table) == {OURS: {"IN-A": 40, "IN-V2": 70, "imagenet-v2-top-images": 80}}


def test_runs_of_one_memory_share_their_rows(tmp_path: Path) -> None:
    runs = [
        finished_run(tmp_path / "a", {"imagenet-a": figures(40, masked=50)}),
        finished_run(tmp_path / "r", {"imagenet-r": figures(60, masked=70), "imagenet-val": figures(80)}),
        finished_run(tmp_path / "g", {"imagenet-a": figures(40, masked=50, reranked=45)}, model="gemini"),
    ]
    assert cells(make_table(2, runs)) == {
        OURS: {"IN-A": 40, "IN-R": 60, "IN-val": 80},
        f"{OURS} + gemini reranking": {"IN-A": 45},
        f"{OURS}, masked to 200 classes": {"IN-A": 50, "IN-R": 70},
    }


@pytest.mark.parametrize("other", [{"k": 10}, {"precision": "int8"}, {"memory": {"id": "n", "version": 2, "items": 7}}])
def test_runs_with_other_settings_keep_their_own_rows(tmp_path: Path, other: dict[str, Any]) -> None:
    runs = [
        finished_run(tmp_path / "one", {"imagenet-a": figures(40)}),
        finished_run(tmp_path / "two", {"imagenet-r": figures(60)}, **other),
    ]
    table = make_table(2, runs)
    assert len({row.name for row in table.ours}) == 2
    assert [[*row.cells] for row in table.ours] == [["IN-A"], ["IN-R"]]


def test_one_data_set_with_other_figures_is_never_overwritten(tmp_path: Path) -> None:
    runs = [finished_run(tmp_path / name, {"imagenet-a": figures(top1)}) for name, top1 in [("one", 40), ("two", 41)]]
    first, second = make_table(2, runs).ours
    assert (first.cells["IN-A"].top1, second.cells["IN-A"].top1) == (40, 41)
    assert "one" in first.name and "two" in second.name


def test_an_unfinished_run_has_no_place_in_a_table(tmp_path: Path) -> None:
    left = [{"name": "imagenet-a", "done": 100, "queries": 2506}]
    run = finished_run(tmp_path / "run", {"imagenet-a": figures(40)}, unfinished=left)
    with pytest.raises(
        RunError, match="run is unfinished: 100 of 2,506 queries of imagenet-a; the same `vmem eval run`"
    ):
        make_table(2, [run])


def test_adding_classes_takes_the_runs_before_and_after(tmp_path: Path) -> None:
    before = finished_run(tmp_path / "before", {"imagenet-val": figures(80)})
    after = finished_run(tmp_path / "after", {"imagenet-val": figures(79), "ninco": figures(85)})
    table = make_table(1, [before, after])
    columns = ["IN-train: IN-val", "IN-train-and-NINCO: IN-val", "IN-train-and-NINCO: NINCO"]
    assert table.columns == columns and len(table.ours) == len(table.published) == 5
    by_method = {row.name.rpartition(", ")[2]: [row.cells[column].top1 for column in columns] for row in table.ours}
    assert by_method["no aggregation"] == [75, 74, 80] and by_method["RankVoting"] == [80, 79, 85]
    with pytest.raises(InvalidArgument, match="table 1 of 1 run: two expected"):
        make_table(1, [before])


def test_tables_of_two_memories_say_where_the_runs_are_of_one(tmp_path: Path) -> None:
    one = finished_run(tmp_path / "one", {"imagenet-val": figures(80)})
    two = finished_run(tmp_path / "two", {"imagenet-val": figures(81)}, centre="queries", k=10)
    larger = {"id": "m", "version": 2, "items": 1_300_000}
    grown = finished_run(tmp_path / "grown", {"imagenet-val": figures(81)}, classes=1064, memory=larger)
    for number, note in ((1, "Both runs are of the same memory"), (3, "nothing was pruned between them")):
        notes = make_table(number, [one, two]).notes
        assert any(note in said for said in notes)
        assert "The runs differ in more than the memory: k, centre." in notes
    assert make_table(1, [one, grown]).notes[:3] == [
        "Ours, IN-train: dinov2-vits14, 1,281,167 items of 1,000 classes.",
        "Ours, IN-train-and-NINCO: dinov2-vits14, 1,300,000 items of 1,064 classes.",
        make_table(1, [one, grown]).notes[-1],
    ]
    assert any("is this the order, before and after?" in note for note in make_table(1, [grown, one]).notes)


def test_pruning_takes_runs_in_the_order_none_hard_soft(tmp_path: Path) -> None:
    runs = [finished_run(tmp_path / str(top1), {"imagenet-val": figures(top1)}) for top1 in (80, 81, 82, 83)]
    ours = make_table(3, runs[:3]).ours
    assert [row.name.rpartition(", ")[2] for row in ours] == ["no pruning", "hard pruning", "soft pruning"]
    assert [row.cells["RankVoting"].top1 for row in ours] == [80, 81, 82]
    assert len(make_table(3, runs[:1]).ours) == 1
    with pytest.raises(InvalidArgument, match="table 3 of 4 runs"):
        make_table(3, runs)


def test_other_tables_and_formats_are_refused(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", {"imagenet-a": figures(40)})
    with pytest.raises(InvalidArgument, match="no table 4: 1, 2 or 3"):
        make_table(4, [run])
    with pytest.raises(InvalidArgument, match="no format 'html': choose one of md, csv, latex"):
        format_table(make_table(2, [run]), "html")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"settings": [], "datasets": {}}',
        '{"settings": {}, "datasets": {"q": {}}}',
        pytest.param("[" * 100_000, id="brackets"),
    ],
)
def test_a_damaged_run_is_refused(tmp_path: Path, content: str) -> None:
    run = finished_run(tmp_path / "run", {})
    (run / "metrics.json").write_text(content)
    with pytest.raises(RunError, match="metrics.json is damaged"):
        make_table(2, [run])


def test_tables_read_what_a_run_writes(tmp_path: Path) -> None:
    settings = {"format": 2, "memory": {"id": "m", "version": 1, "items": 2}, "k": 2}
    about = {"embedder": "e", "memory": "", "classes": 2, "datasets": {"ninco": ""}, "queries": {"ninco": 4}}
    about |= {"subsets": {"ninco": ["t"]}, "excluded": {}, "absent": {}}
    found = {"dataset": "ninco", "picture": "", "ids": ["a", "b"], "labels": ["w", "t"], "distances": [0.1, 0.2]}
    lines = [settings | {"about": about}] + [found | {"id": str(n), "truth": [label]} for n, label in enumerate("wtww")]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    summarise(read_run(tmp_path), tmp_path)
    row, masked = make_table(2, [tmp_path]).ours
    assert row.cells["NINCO"].top1 == 75 and masked.name.endswith("masked to 1 class")
    assert masked.cells["NINCO"].top1 == 25 and row.cells["NINCO"].remarks == ("4 of 5,879 pictures",)
    assert len(make_table(1, [tmp_path, tmp_path]).ours) == 5


def test_a_folder_without_figures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no figures"):
        make_table(2, [tmp_path])


def test_the_command_writes_the_table_that_it_prints(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", {"imagenet-a": figures(40)})
    printed = CliRunner().invoke(app, ["eval", "table", str(run), "--format", "csv"])
    written = CliRunner().invoke(app, ["eval", "table", str(run), "--format", "csv", "--out", str(tmp_path / "t.csv")])
    assert printed.exit_code == written.exit_code == 0
    assert (tmp_path / "t.csv").read_text() == printed.output


def paper() -> str:
    return beside_checkout("paper.txt", "the paper's text").read_text("utf-8")


def published_rows(number: int, runs: list[Path]) -> list[list[float]]:
    return [[cell.top1 for cell in row.cells.values()] for row in make_table(number, runs).published]


@pytest.mark.parametrize(("number", "rows"), [(1, 5), (2, 5), (3, 3)])
def test_published_numbers_are_those_of_the_paper(tmp_path: Path, number: int, rows: int) -> None:
    text = paper()
    part = text[text.index(f"\nTable {number}: ") :].split("\n\n")[0]
    printed = [
        [float(value) for value in re.findall(r"(?<![+\w.-])\d\d\.\d\b", line)] for line in part.splitlines()[2:]
    ]
    runs = [finished_run(tmp_path / name, {"imagenet-val": figures(80)}) for name in ("one", "two")]
    shown = published_rows(number, runs)
    if number == 2:  # IN-val is not in the paper's table but in its text
        assert [values.pop(0) for values in shown[:3]] == [86.3, 83.6, 88.5]
        assert "88.5% ImageNet validation accuracy" in text and "linear probing (86.3%)" in text
    assert [values for values in printed if values] == shown and len(shown) == rows
