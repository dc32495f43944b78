"""``vmem eval report``: the memory that decided and no other, what has moved, and runs that are not finished."""

import json
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eval.cli.vmem import app
from eval.datasets.trees import read_folder
from eval.runs.runner import run_evaluation
from eval.types import Dataset, RunError
from retrieval import VisualMemory
from retrieval.errors import InvalidArgument
from retrieval.support.parsing import sealed, unsealed
from tests.conftest import draw
from tests.eval.report_page import FoundCard, Page


@pytest.fixture
def place(built: Path, pictures: Path, tmp_path: Path) -> Path:
    """Return a folder with a memory, two data sets in folders, and a run on both that knows where all that lies."""
    shutil.copytree(built, tmp_path / "memory")
    memory = VisualMemory.open(tmp_path / "memory")
    for name in ("imagenet-a", "mine"):
        shutil.copytree(pictures, tmp_path / name)
    sets = {name: Dataset(read_folder(tmp_path / name)) for name in ("imagenet-a", "mine")}
    paths = {"imagenet-a": "", "mine": str(tmp_path / "mine")}
    run_evaluation(memory, sets, tmp_path / "run", k=3, paths=paths, progress=False)
    return tmp_path


def report(place: Path, *options: str) -> tuple[str, str, dict[str, list[FoundCard]]]:
    """Return what the command says, the page, and the cards of the pictured queries, by data set."""
    said = CliRunner().invoke(app, ["eval", "report", str(place / "run"), *options], catch_exceptions=False)
    page = Page(place / "run" / "report.html")
    names = [group["name"] for group in page.data("gallery-data")["groups"]]
    return said.output, page.source, {name: list(page.listed(n).values()) for n, name in enumerate(names)}


def has_pictures(cards: list[FoundCard]) -> tuple[bool, bool]:
    """Tell whether queries and neighbours have their pictures."""
    near = [neighbor.picture is not None for card in cards for neighbor in card.neighbors]
    return all(card.picture is not None for card in cards), all(near)


def cut(place: Path, *, lines: int) -> None:
    """Leave so many answers in the log."""
    log = place / "run" / "log.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[: lines + 1]))


def test_a_data_set_that_is_gone_takes_no_other_pictures_with_it(place: Path) -> None:
    said, _, cases = report(place)
    assert "queries of imagenet-a have no pictures: the run does not say where they lie; give --dataset" in said
    assert has_pictures(cases["mine"]) == (True, True) and has_pictures(cases["imagenet-a"]) == (False, True)


def test_a_memory_that_is_gone_takes_no_queries_pictures_with_it(place: Path) -> None:
    (place / "memory").rename(place / "elsewhere")
    said, _, cases = report(place)
    assert "Note: neighbours' pictures are missing: the memory is not in" in said
    assert has_pictures(cases["mine"]) == (True, False)
    said, _, cases = report(place, "--memory", str(place / "elsewhere"))
    assert "Note: neighbours'" not in said and has_pictures(cases["mine"]) == (True, True)


def test_a_data_set_that_was_moved_is_found_where_it_lies_now(place: Path) -> None:
    (place / "mine").rename(place / "moved")
    said, _, cases = report(place)
    assert f"queries of mine have no pictures: {place / 'mine'} does not hold them" in said.replace("\n", "")
    said, _, cases = report(place, "--dataset", f"mine={place / 'moved'}")
    assert "queries of mine" not in said and has_pictures(cases["mine"]) == (True, True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("mine", "'mine': NAME=PATH expected"),
        ("other=PLACE", "--dataset other: no data set of the run; it has imagenet-a, mine"),
        ("mine=PLACE/strange", "holds none of the run's queries of mine"),
    ],
)
def test_what_is_no_data_set_of_the_run_is_refused(place: Path, given: str, message: str) -> None:
    (place / "strange" / "red").mkdir(parents=True)
    draw((9, 9, 9), 1).save(place / "strange" / "red" / "strange.png")
    with pytest.raises(InvalidArgument, match=re.escape(message)):
        report(place, "--dataset", given.replace("PLACE", str(place)))


def test_a_memory_that_did_not_decide_is_refused_and_nothing_written(place: Path, checkpoint: Path) -> None:
    VisualMemory.create(place / "other", embedder=str(checkpoint))
    with pytest.raises(InvalidArgument, match="other is another memory than the run's"):
        report(place, "--memory", str(place / "other"))
    assert not (place / "run" / "report.html").exists() and not (place / "run" / "metrics.json").exists()


def test_a_memory_that_has_grown_is_described_as_it_was(place: Path) -> None:
    memory = VisualMemory.open(place / "memory")
    then = memory.version
    classes, items = len(memory.stats().labels), len(memory)
    memory.add([("new", "a new class", draw((1, 2, 3), 1))])
    _, page, _ = report(place)
    assert f"{items} pictures of {classes} classes, version {then}; shown are the pictures of version" in page
    assert f"{classes}-way" in page and f"{classes + 1}-way" not in page
    assert json.loads((place / "run" / "metrics.json").read_text())["classes"] == classes


def test_an_unfinished_run_says_so_on_the_page_and_in_the_terminal(place: Path) -> None:
    count = sum(1 for _ in (place / "mine").rglob("*.png"))
    cut(place, lines=4)
    said, page, _ = report(place)
    assert f"unfinished: 4 of {count:,} queries of imagenet-a; the same `vmem eval run` goes on" in said
    assert f"unfinished: 0 of {count:,} queries of mine; the same `vmem eval run` goes on" in said
    top = page[: page.index("<dl ")]
    assert f"unfinished: 4 of {count:,} queries of imagenet-a" in top and f"0 of {count:,} queries of mine" in top
    with pytest.raises(RunError, match=f"run is unfinished: 4 of {count:,} queries of imagenet-a"):
        CliRunner().invoke(app, ["eval", "table", str(place / "run")], catch_exceptions=False)


def test_a_run_that_was_killed_before_its_first_answer_has_no_report(place: Path) -> None:
    cut(place, lines=0)
    with pytest.raises(RunError, match="no query of the run is answered yet"):
        report(place)
    assert {path.name for path in (place / "run").iterdir()} <= {"log.jsonl", "log.lock"}


def test_a_part_of_a_published_data_set_is_named_as_such(place: Path) -> None:
    count = sum(1 for _ in (place / "mine").rglob("*.png"))
    said, page, _ = report(place)
    assert f"imagenet-a: {count} of 7,500 pictures, so that figures do not compare" in said
    assert f"imagenet-a: {count} of 7,500 pictures, so that figures do not compare" in page
    assert "mine: " not in said.replace("queries of mine: ", "")


def test_a_data_set_without_a_usable_picture_is_named_with_the_reason(place: Path) -> None:
    log = place / "run" / "log.jsonl"
    lines = [unsealed(line) or {} for line in log.read_bytes().splitlines()]
    spoilt = [
        {name: line[name] for name in ("dataset", "id", "picture")} | {"unreadable": "it breaks off"}
        if line.get("dataset") == "mine"
        else line
        for line in lines
    ]
    log.write_bytes(b"".join(map(sealed, spoilt)))
    count = sum(line.get("dataset") == "mine" for line in lines)
    said, page, _ = report(place)
    told = f"mine has no figures: no usable picture among {count} files; the first: it breaks off"
    assert told in said and told in page and "unfinished" not in said
