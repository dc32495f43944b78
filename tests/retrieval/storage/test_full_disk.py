"""A disk that is full: the edit fails in one sentence, what was there is still there, and later the edit goes through.

A small file system stands for the disk where it may be mounted, and everywhere a limit on the size of files, beyond
which the system refuses to write.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from retrieval.embedders.base import foreign_vectors
from retrieval.erasing.erase import finish_pending
from retrieval.errors import StorageError
from retrieval.memory import VisualMemory
from retrieval.storage.checking import check_memory
from retrieval.storage.places import erasure_notes
from retrieval.support.cachedir import open_store
from tests.conftest import cannot_here
from tests.retrieval.storage import edits
from tests.retrieval.storage.edits import WITHOUT_TREE, expect_right_answers, expected, holds

SIZE = 12 * 2**20
PAGE = 4096
LEFT = (0, 1, 2, 3, 4, 5, 8, 13, 40)  # pages: from too few for any file of an edit to enough for most
LEFT_FOR_TREE = (0, 2, 8, 40)  # of which each costs a second
EDITS: dict[str, edits.Edit] = {
    "add": {"kind": "add", "seed": 3, "ids": [f"new {i}" for i in range(500)]},
    "forget": {"kind": "forget", "ids": [f"first {i}" for i in range(500)]},
    "relabel": {"kind": "relabel", "seed": 4, "ids": [f"first {i}" for i in range(500)]},
    "replace": {"kind": "replace", "seed": 5, "ids": [f"first {i}" for i in range(500)]},
    "prune": {"kind": "prune", "ids": [f"first {i}" for i in range(20)]},
    "checkout": {"kind": "checkout", "version": 2},
    "erase": {"kind": "erase", "ids": [f"first {i}" for i in range(20)]},
    "rebuild": {"kind": "rebuild"},
}

Full = Callable[[int], AbstractContextManager[None]]


@pytest.fixture(params=["a small file system", "a limit"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, Full]]:
    """Return a folder, and what leaves only some pages of room in it."""
    if request.param == "a limit":
        yield tmp_path, _limit
        return
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode:
        cannot_here(f"no file system may be mounted: {mounted.stderr.decode().strip()}")
    try:
        yield tmp_path, lambda pages: _fill(tmp_path, pages)
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


@contextmanager
def _limit(pages: int) -> Iterator[None]:
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (pages * PAGE // 4, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))


@contextmanager
def _fill(folder: Path, pages: int) -> Iterator[None]:
    filler = folder / "filler"
    room = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    filler.write_bytes(bytes(max(0, room - pages * PAGE)))
    try:
        yield
    finally:
        filler.unlink()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Return what gives a memory of so many items, made once."""

    @cache
    def make(items: int) -> Path:
        memory = edits.create(tmp_path_factory.mktemp("m") / "memory", items)
        memory.relabel("other", ids=["first 7", "first 8"])
        memory.set_reliability(None)
        return memory.path

    return make


@pytest.mark.parametrize(
    ("kind", "items"), [*((kind, WITHOUT_TREE) for kind in EDITS), ("rebuild", edits.ITEMS), ("add", edits.ITEMS)]
)
def test_an_edit_that_finds_the_disk_full_leaves_all_as_it_was(
    made: Callable[[int], Path], disk: tuple[Path, Full], kind: str, items: int
) -> None:
    folder, full = disk
    path = Path(shutil.copytree(made(items), folder / "memory"))
    memory = VisualMemory.open(path)
    memory.build_index()
    states = {2: edits.first_state(items)}
    before: edits.State = edits.after(states[2], {"kind": "relabel", "seed": "x", "ids": []}, states)
    before = {**before, **{id_: replace(before[id_], label="other") for id_ in ("first 7", "first 8")}}
    after = edits.after(before, EDITS[kind], states)
    failed = 0
    for pages in LEFT_FOR_TREE if items == edits.ITEMS else LEFT:
        error = None
        try:
            with full(pages):
                edits.make(memory, EDITS[kind])
        except StorageError as raised:
            error = raised
            assert "\n" not in str(error)
        if erasure_notes(path):
            finish_pending(path, traces=[], progress=False)
        opened = VisualMemory.open(path)
        memory.refresh()
        found = holds(opened)
        assert found == holds(memory)
        if error is None or found != expected(before):
            assert found == expected(after)
            break
        failed += 1
        assert check_memory(path).sound
        expect_right_answers(memory, before, set())
    assert failed or kind == "rebuild"
    if found != expected(after):
        edits.make(memory, EDITS[kind])
    assert holds(VisualMemory.open(path)) == expected(after)
    expect_right_answers(memory, after, set())
    assert check_memory(path).sound


# Runs commands one after the other, each to its exit status.
PROGRAM = """
import json, resource, sys
from eval.cli.vmem import main

resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
for command in json.loads(sys.argv[1]):
    sys.argv = ["vmem", "memory", *command]
    try:
        main()
    except SystemExit as ended:
        print(ended.code, flush=True)
"""


def test_the_command_says_so_in_one_sentence_and_exits_with_2(made: Callable[[int], Path], tmp_path: Path) -> None:
    path = str(shutil.copytree(made(WITHOUT_TREE), tmp_path / "memory"))
    commands = [
        ["forget", path, "--id", "first 1"],
        ["relabel", path, "new", "--id", "first 1"],
        ["checkout", path, "2"],
        ["tag", path, "name"],
    ]
    run = [sys.executable, "-c", PROGRAM, json.dumps(commands)]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["2"] * len(commands), done.stderr
    said = done.stderr.split("Error: ")[1:]
    assert len(said) == len(commands) and all(f"{path} cannot be written" in one for one in said), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("limit", [50, 500, 5_000])
def test_an_erasure_that_meets_a_limit_on_the_size_of_files_says_so(tmp_path: Path, limit: int) -> None:
    program = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}));"
    program += "from eval.cli.vmem import main; main()"
    memory = VisualMemory.create(tmp_path / "memory", embedder=foreign_vectors("made", 16))
    memory.add_vectors(["a", "b"], ["x", "x"], np.eye(2, 16, dtype=np.float32))
    kept = tmp_path / "cache" / "features" / "some"
    with open_store(kept, size_limit=2**20) as store:
        store.set("digest", bytes(9_000))
    (kept / "about.txt").write_text("some")
    environment = os.environ | {"VMEM_CACHE": str(tmp_path / "cache")}
    command = ["memory", "forget", str(memory.path), "--id", "a", "--erase", "--yes"]
    run = [sys.executable, "-c", program, *command]
    done = subprocess.run(run, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"files of this process may have {limit:,} bytes at most: raise that limit (`ulimit -f`)" in done.stderr
    finish_pending(memory.path, traces=[], progress=False)
    assert check_memory(memory.path).sound
