"""Logs of runs: damaged ones, foreign ones, and who may write them."""

import json
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.metrics.votes import measure
from eval.runs.finished import say_damage
from eval.runs.log import RunLog, lines_at, read_run
from eval.types import OtherSettings, RunError, Sample
from retrieval import VisualMemory
from retrieval.errors import VisualMemoryWarning
from retrieval.support.parsing import is_sealed, sealed, unsealed
from tests.runs import evaluate


def test_figures_do_not_depend_on_the_order_of_the_log(
    memory: VisualMemory, queries: list[Sample], tmp_path: Path
) -> None:
    evaluate(memory, {"q": queries}, tmp_path / "run", k=5)
    log = tmp_path / "run" / "log.jsonl"
    before = measure(read_run(tmp_path / "run"))
    first, *lines = log.read_bytes().splitlines(keepends=True)
    random.Random(0).shuffle(lines)
    log.write_bytes(first + b"".join(lines))
    assert measure(read_run(tmp_path / "run")) == before


DAMAGE: dict[str, dict[str, Any]] = {
    "nothing of the second look": {"rerank": {}},
    "a distance that is a word": {"distances": ["near", 0.2, 0.3, 0.4, 0.5]},
    "no neighbours": {"ids": [], "labels": [], "distances": []},
    "a truth that is a number": {"truth": 3},
    "another data set": {"dataset": "x"},
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_line_that_is_none_of_ours_is_told(
    memory: VisualMemory, queries: list[Sample], tmp_path: Path, case: str
) -> None:
    evaluate(memory, {"q": queries}, tmp_path / "run", k=5)
    log = tmp_path / "run" / "log.jsonl"
    first, second, *lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([first, sealed((unsealed(second) or {}) | DAMAGE[case]), *lines]))
    with pytest.raises(RunError, match="has (a damaged line|lines of different lengths)"):
        read_run(tmp_path / "run")


def test_a_lock_that_a_killed_run_left_is_no_other_file(
    memory: VisualMemory, queries: list[Sample], tmp_path: Path
) -> None:
    (tmp_path / "log.lock").touch()
    summary, _ = evaluate(memory, {"q": queries}, tmp_path, k=5)
    assert summary.metrics["q"].count == len(queries)


@pytest.mark.parametrize(
    "content",
    [
        "words\n",
        "[1]\n",
        "\x00\n",
        '{"mine": 1}',
        '{"mine": 1}\nand no end',
        "\n",
        pytest.param("[" * 10**5, id="deep"),
    ],
)
def test_a_folder_with_another_log_is_left_alone(tmp_path: Path, content: str) -> None:
    (tmp_path / "log.jsonl").write_text(content)
    with pytest.raises(RunError, match="is no log of a run"):
        RunLog(tmp_path, {"k": 1}, {})
    assert (tmp_path / "log.jsonl").read_text() == content


@pytest.mark.parametrize("line", ["{}", '{"dataset": "q", "id": "1"}', "words"])
def test_a_line_without_its_sum_is_set_aside(
    memory: VisualMemory, queries: list[Sample], tmp_path: Path, line: str
) -> None:
    _, before = evaluate(memory, {"q": queries}, tmp_path / "run", k=5)
    with (tmp_path / "run" / "log.jsonl").open("a") as log:
        log.write(line + "\n")
    with pytest.warns(VisualMemoryWarning, match=f"damaged in line {len(queries) + 2}: moved to .*log.damaged"):
        _, after = evaluate(memory, {"q": queries}, tmp_path / "run", k=5)
    assert measure(after) == measure(before)
    assert (tmp_path / "run" / "log.damaged").read_text() == line + "\n"


def test_a_query_whose_line_was_damaged_is_answered_again(
    memory: VisualMemory, queries: list[Sample], tmp_path: Path
) -> None:
    _, before = evaluate(memory, {"q": queries}, tmp_path / "run", k=5)
    log = tmp_path / "run" / "log.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b'"distances": [', b'"distances": [1')
    log.write_bytes(b"".join(lines))
    with pytest.warns(VisualMemoryWarning, match="damaged in line 3, left out here"):
        read = read_run(tmp_path / "run")
    assert (len(read.results["q"]), read.damaged_lines) == (len(queries) - 1, (3,))
    assert say_damage(read) == ["damaged and left out: 1 line of the log (3)"]
    with pytest.warns(VisualMemoryWarning, match="the queries are answered again"):
        _, after = evaluate(memory, {"q": queries}, tmp_path / "run", k=5)
    assert measure(after) == measure(before) and not after.damaged_lines


def test_no_byte_of_a_log_changes_in_silence(memory: VisualMemory, queries: list[Sample], tmp_path: Path) -> None:
    """Flip bits of every byte of the first three lines: the log is refused, or a line is left out and said."""
    _, whole = evaluate(memory, {"q": queries[:4]}, tmp_path / "run", k=3)
    log, right = tmp_path / "run" / "log.jsonl", measure(whole)
    content = log.read_bytes()
    draw = random.Random(0)
    end = len(b"".join(content.splitlines(keepends=True)[:3]))
    for place in range(0, end, 7):
        changed = bytearray(content)
        changed[place] ^= 1 << draw.randrange(8)
        log.write_bytes(changed)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                read = read_run(tmp_path / "run")
            except RunError:
                continue
        assert read.damaged_lines and said, (place, content[place : place + 1], changed[place : place + 1])
    log.write_bytes(content)
    assert measure(read_run(tmp_path / "run")) == right


def test_a_log_of_an_earlier_version_is_read_and_gone_on_with(
    memory: VisualMemory, queries: list[Sample], tmp_path: Path
) -> None:
    _, before = evaluate(memory, {"q": queries}, tmp_path / "run", k=5)
    log = tmp_path / "run" / "log.jsonl"
    records = [unsealed(line) or {} for line in log.read_bytes().splitlines()]
    records[0].pop("sums")
    log.write_text("".join(json.dumps(record) + "\n" for record in records[:5]))
    assert len(read_run(tmp_path / "run").results["q"]) == 4
    _, after = evaluate(memory, {"q": queries}, tmp_path / "run", k=5)
    assert measure(after) == measure(before)
    assert [is_sealed(line) for line in log.read_bytes().splitlines()] == [False] * 5 + [True] * (len(queries) - 4)


def test_a_folder_of_other_files_becomes_no_run(memory: VisualMemory, queries: list[Sample], tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("mine")
    with pytest.raises(RunError, match="holds other files and no run"):
        evaluate(memory, {"q": queries}, tmp_path, k=5)
    assert (tmp_path / "metrics.json").read_text() == "mine"


def test_a_run_is_written_by_one_process_at_a_time(tmp_path: Path) -> None:
    with RunLog(tmp_path / "run", {"k": 1}, {}):
        with pytest.raises(RunError, match="run is being written by another process: wait for it"):
            RunLog(tmp_path / "run", {"k": 1}, {})
    with RunLog(tmp_path / "run", {"k": 1}, {}):
        pass
    with pytest.raises(OtherSettings, match="k: 1, now 2"):
        RunLog(tmp_path / "run", {"k": 2}, {})
    with RunLog(tmp_path / "run", {"k": 1}, {}):
        pass


def test_lines_of_a_log_are_found_by_their_places(memory: VisualMemory, queries: list[Sample], tmp_path: Path) -> None:
    _, run = evaluate(memory, {"a": queries[:5], "b": queries[5:]}, tmp_path / "run", k=5)
    found = run.results["b"]
    lines = list(lines_at(tmp_path / "run", found.places))
    assert [line["id"] for line in lines] == found.ids
    assert [line["labels"] for line in lines] == [found.neighbor_labels.of(row) for row in range(len(found))]
    assert np.array_equal(np.array([line["distances"] for line in lines], np.float32), found.neighbor_distances)
