"""vmem memory prune, why and duplicates."""

import json
from pathlib import Path
from typing import Any

import pytest

from retrieval import VisualMemory
from retrieval.building import build_memory
from retrieval.cli.curation_cli import duplicates, prune, why
from retrieval.errors import PruningRefused
from tests.commands import Run, runner
from tests.conftest import COLOURS, draw


@pytest.fixture
def run() -> Run:
    """Return what runs a command and returns what it prints."""
    return runner(prune, why, duplicates)


def as_json(run: Run, *arguments: object) -> Any:
    return json.loads(run(*arguments, "--json").splitlines()[-1])


@pytest.fixture
def memory(tmp_path: Path, pictures: Path, checkpoint: Path) -> Path:
    build_memory(tmp_path / "m", pictures, embedder=str(checkpoint))
    return tmp_path / "m"


def test_a_dry_run_of_prune_shows_the_worst_and_changes_nothing(memory: Path, run: Run, tmp_path: Path) -> None:
    before = VisualMemory.open(memory).version
    printed = run("prune", memory, "--dry-run", "--paper", "--sheet", tmp_path / "worst.png")
    assert "nothing was written" in printed and "hurt" in printed
    assert (tmp_path / "worst.png").stat().st_size > 1000
    assert VisualMemory.open(memory).version == before


def test_prune_is_written_and_undone(memory: Path, pictures: Path, run: Run) -> None:
    found = as_json(run, "prune", memory, "--neighbors", 17, "--paper", "--yes")
    assert found["written"] and found["weakened"] == 18  # of 17 others 12 have another label
    assert found["leave_one_out"]["items"] == 18
    assert found["leave_one_out"]["after"] >= found["leave_one_out"]["before"]
    near = VisualMemory.open(memory).search(pictures / "red" / "0.png", k=3)
    assert near[0][0].reliability == pytest.approx(1.75 / (1 + 12))
    assert run("prune", memory, "--undo").endswith(f"`vmem memory undo {memory}` takes it back\n")
    assert VisualMemory.open(memory).search(pictures / "red" / "0.png", k=3).reliabilities is None
    assert "nothing to change" in (again := run("prune", memory, "--undo")) and "takes it back" not in again


def test_prune_asks_before_it_touches_more_than_a_fifth_of_the_items(memory: Path, run: Run) -> None:
    version = VisualMemory.open(memory).version
    with pytest.raises(PruningRefused, match="18 of 18 items would count less, more than 20 %; .* --yes"):
        run("prune", memory, "--neighbors", 17, "--paper")
    assert VisualMemory.open(memory).version == version


def test_prune_with_nothing_to_blame_changes_nothing_and_draws_no_sheet(memory: Path, run: Run, tmp_path: Path) -> None:
    version = VisualMemory.open(memory).version
    printed = run("prune", memory, "--method", "hard", "--sheet", tmp_path / "worst.png")
    assert "leave-one-out accuracy: 100.0 % before, 100.0 % after" in printed
    assert "nothing to change: nothing was written" in printed and "worst.png is not written" in printed
    assert not (tmp_path / "worst.png").exists()
    assert VisualMemory.open(memory).version == version


def test_why_names_the_neighbours_that_a_vote_hangs_on(memory: Path, pictures: Path, run: Run) -> None:
    query = pictures / "red" / "0.png"
    found = as_json(run, "why", memory, query, "--k", 5)
    assert len(found["voters"]) == 5
    opened, gone = VisualMemory.open(memory), set(found["flip"]["removed"])
    left = [neighbor.label for neighbor in opened.search(query, k=18)[0] if neighbor.id not in gone][:5]
    assert found["flip"]["label"] in left
    assert "no smaller set flips it" in " ".join(run("why", memory, query, "--k", 5).split())


def test_a_vote_of_one_label_alone_is_said_not_to_flip(tmp_path: Path, checkpoint: Path, run: Run) -> None:
    (tmp_path / "p" / "red").mkdir(parents=True)
    for number in range(3):
        draw(COLOURS["red"], number).save(tmp_path / "p" / "red" / f"{number}.png")
    build_memory(tmp_path / "m", tmp_path / "p", embedder=str(checkpoint))
    assert "no removal among the nearest 3 neighbours" in run("why", tmp_path / "m", tmp_path / "p" / "red" / "0.png")


def test_duplicates_are_listed_with_a_sheet(memory: Path, pictures: Path, run: Run, tmp_path: Path) -> None:
    VisualMemory.open(memory).add_folder(pictures, id_prefix="again/", progress=False)
    printed = run("duplicates", memory, "--distance", 1e-6, "--sheet", tmp_path / "twins.html")
    assert "same content" in printed and "18 pictures could go" in printed
    assert (tmp_path / "twins.html").read_text().count("<img") == 36
    found = as_json(run, "duplicates", memory, "--distance", 1e-6)
    assert len(found["pairs"]) == len(found["groups"]) == 18


def test_no_sheet_is_written_of_no_duplicates(memory: Path, run: Run, tmp_path: Path) -> None:
    printed = run("duplicates", memory, "--distance", 0, "--sheet", tmp_path / "twins.html")
    assert "there are no pairs" in printed and not (tmp_path / "twins.html").exists()


def test_leaks_are_counted(memory: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "test" / "red").mkdir(parents=True)
    draw(COLOURS["red"], 0).save(tmp_path / "test" / "red" / "leak.png")
    (tmp_path / "test" / "red" / "broken.png").write_bytes(b"")
    printed = run(
        "duplicates", memory, "--against", tmp_path / "test", "--distance", 1e-6, "--sheet", tmp_path / "s.png"
    )
    assert "1 of 2 queries have a twin" in printed and "1 files could not be used" in printed
    found = as_json(run, "duplicates", memory, "--against", tmp_path / "test", "--distance", 1e-6)
    assert (found["leaked"], found["pairs"][0]["exact"]) == (1, True)
