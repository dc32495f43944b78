"""vmem memory relabel, history, diff, tag, untag, checkout, undo and compact."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval import VisualMemory
from retrieval.cli.history_cli import checkout, compact, diff, history, relabel, tag, undo, untag
from retrieval.embedders.base import foreign_vectors
from retrieval.errors import UnknownVersion
from retrieval.storage.table import command
from tests.commands import Run, runner

ITEMS = 400


@pytest.fixture
def run() -> Run:
    """Return what runs a command and returns what it prints."""
    return runner(relabel, history, diff, tag, untag, checkout, undo, compact)


def as_json(run: Run, *arguments: object) -> Any:
    return json.loads(run(*arguments, "--json"))


@pytest.fixture
def path(tmp_path: Path, random_vectors: Callable[[int, int], np.ndarray]) -> Path:
    """Return a memory that was made of two adds: its versions are 1 to 3."""
    memory = VisualMemory.create(tmp_path / "m", embedder=foreign_vectors("made", 64))
    vectors = random_vectors(2 * ITEMS, 64)
    for part in (0, 1):
        ids = [f"{part}/{number}" for number in range(ITEMS)]
        memory.add_vectors(ids, [f"class {part}"] * ITEMS, vectors[part * ITEMS : (part + 1) * ITEMS])
    return tmp_path / "m"


def test_every_edit_is_listed_the_newest_first_with_what_it_changed(path: Path, run: Run) -> None:
    run("relabel", path, "other", "--id", "0/1", "--id", "0/2")
    found = [(version["number"], version["deed"], version["items"]) for version in as_json(run, "history", path)]
    assert found == [(4, "relabel", 800), (3, "add", 800), (2, "add", 400), (1, "create", 0)]
    newest, *_ = (line for line in run("history", path, "--limit", 1).splitlines() if "relabel" in line)
    assert newest.split()[0] == "4" and newest.split()[-1] == "800"


def test_a_relabelled_item_is_in_the_diff_with_both_labels(path: Path, run: Run) -> None:
    told, back = run("relabel", path, "other", "--id", "0/1").splitlines()
    assert re.fullmatch(r".*: relabelled 1 item from .* \(1\) to other, version 4", told)
    assert back == f"`vmem memory undo {path}` takes it back"
    assert as_json(run, "diff", path, 3)["relabelled"] == {"0/1": ["class 0", "other"]}
    assert "class 0 → other" in run("diff", path, 3, 4)


def test_a_diff_of_many_changes_shows_some_and_counts_all(path: Path, run: Run) -> None:
    printed = run("diff", path, 2)
    assert "… and 350 changes more (--json lists all)" in printed
    assert printed.endswith("400 added, 0 forgotten, 0 relabelled, 0 replaced, 0 relied on more or less\n")
    assert len(as_json(run, "diff", path, 2)["added"]) == ITEMS


def test_a_memory_goes_back_to_a_tag_and_that_can_be_undone(path: Path, run: Run) -> None:
    run("tag", path, "half", "--version", 2)
    assert "half" in run("history", path)
    told, back = run("checkout", path, "half").splitlines()
    assert told.endswith(": went back to version half, 400 pictures (400 of 800 went), version 4")
    assert back == f"`vmem memory undo {path}` takes it back"
    assert len(VisualMemory.open(path)) == ITEMS
    assert "800 pictures" in run("checkout", path, 3) and len(VisualMemory.open(path)) == 2 * ITEMS
    run("untag", path, "half")
    assert "half" not in run("history", path)


def test_compacting_says_why_a_memory_grew_and_what_lets_go_of_it(path: Path, run: Run) -> None:
    first = run("compact", path)
    assert "0 versions dropped" in first and "a smaller --keep and fewer tags let them go" in first
    last = run("compact", path, "--keep", 1)
    assert "versions dropped" in last and "a smaller --keep" not in last
    assert len(as_json(run, "history", path)) == 1


def test_the_last_command_is_taken_back_with_all_its_versions_and_says_how_many_pictures_went(
    path: Path, run: Run
) -> None:
    memory = VisualMemory.open(path)
    with command("add"):
        for number in range(3):
            memory.add_vectors([f"new {number}"], ["new"], np.ones((1, 64)))
    newest, *_ = as_json(run, "history", path)
    assert (newest["number"], newest["deed"], newest["change"], newest["versions"]) == (6, "add", 3, [6, 5, 4])
    assert [version["change"] for version in as_json(run, "history", path, "--all")[:3]] == [1, 1, 1]
    assert "4–6" in run("history", path)
    told, back = run("undo", path).splitlines()
    assert "took back add (versions 4 to 6) and went back to version 3, 800 pictures (3 of 803 went)" in told
    assert back == f"`vmem memory checkout {path} 6` takes it back"
    assert "took back add (version 3)" in run("undo", path)
    assert len(VisualMemory.open(path)) == ITEMS
    run("checkout", path, 6)
    assert "went)" in run("undo", path) and len(VisualMemory.open(path)) == ITEMS


BUILDER = """
import os, sys
import numpy as np
from pathlib import Path
from retrieval import VisualMemory
from retrieval.embedders.base import foreign_vectors
from retrieval.errors import UnknownVersion
from retrieval.storage.table import command
from retrieval.storage.places import is_memory

path, origin, first, ending = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
with command("build", folder=path, what=origin):
    made = VisualMemory.open(path) if is_memory(path) else VisualMemory.create(path, embedder=foreign_vectors("m", 8))
    for number in range(first, first + 3):
        made.add_vectors([f"{number}"], ["x"], np.ones((1, 8)))
    if ending == "killed":
        os.kill(os.getpid(), 9)
"""


def test_a_build_that_was_killed_and_run_again_is_one_command(tmp_path: Path) -> None:
    path = tmp_path / "built"

    def build(origin: str, first: int, ending: str) -> None:
        command = [sys.executable, "-c", BUILDER, str(path), origin, str(first), ending]
        assert subprocess.run(command, check=False).returncode == (-9 if ending == "killed" else 0)

    build("photos", 0, "killed")
    build("photos", 3, "ended")
    memory = VisualMemory.open(path)
    (entry,) = memory.commands()
    assert (entry.deed, entry.first, entry.versions, entry.items) == ("build", 1, (7, 6, 5, 4, 3, 2, 1), 6)
    with pytest.raises(UnknownVersion, match="has nothing more to undo: it begins with 'build', versions 1 to 7"):
        memory.undo()
    build("photos", 6, "killed")
    memory.forget(ids=["0"])
    build("photos", 9, "ended")  # something else was done between
    memory.refresh()
    assert [(entry.deed, entry.change) for entry in memory.commands()] == [
        ("build", 3),
        ("forget", -1),
        ("build", 3),
        ("build", 6),
    ]
    assert memory.undo().first == 12 and len(memory) == 8
    assert not list(path.glob(".command"))
