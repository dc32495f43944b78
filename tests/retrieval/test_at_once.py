"""Writers and readers at once, in several processes and in several threads of one."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from retrieval.embedders.base import foreign_vectors
from retrieval.memory import VisualMemory
from retrieval.storage.places import writer_lock

DIMENSION = 8
ITEMS = 300
READERS = 2
THREADS = 4
ROUNDS = 20

# Gives all items the same label again and again, always another one, and adds one of that label.
WRITER = """
import sys
import numpy as np
from retrieval import VisualMemory

memory = VisualMemory.open(sys.argv[1])
for number in range(1, int(sys.argv[2]) + 1):
    memory.relabel(f"{number}", where="true")
    memory.add_vectors([f"of round {number}"], [f"{number}"], np.random.default_rng(number).standard_normal((1, 8)))
"""

# Searches again and again until the last label was seen: whatever is found has one label, and none comes back.
READER = """
import sys
import numpy as np
from retrieval import VisualMemory

memory = VisualMemory.open(sys.argv[1])
queries = np.random.default_rng().standard_normal((20, 8))
newest, searches, versions = 0, 0, set()
while newest < int(sys.argv[2]):
    if searches % 2:
        memory.refresh()
    else:
        memory = VisualMemory.open(sys.argv[1])
    found = memory.search_vectors(queries, k=50)
    labels = set(found.labels.ravel().tolist()) | set(memory.snapshot().labels.tolist())
    assert len(labels) == 1, labels
    assert int(min(labels)) >= newest, (labels, newest)
    assert len(memory) == len(memory.snapshot().ids) == len(set(memory.snapshot().ids.tolist()))
    newest, searches = int(min(labels)), searches + 1
    versions.add(memory.version)
print(len(versions))
"""

# Reads the history, old versions and what was opened before, while another process drops versions.
HISTORIAN = """
import sys
import numpy as np
from retrieval import VisualMemory
from retrieval.errors import UnknownVersion

gone, labels = 0, ()
while "last" not in labels:
    newest = VisualMemory.open(sys.argv[1])
    try:
        labels = newest.stats().labels
        numbers = [version.number for version in newest.history()]
        for number in numbers:
            assert len(newest.at(number).snapshot().labels) == newest.at(number).stats().items
        newest.diff(numbers[-1])
        newest.search_vectors(np.ones((1, 8)), k=3)
    except UnknownVersion:
        gone += 1
        open(sys.argv[2], "w").close()
print(gone)
"""

# Adds items in small steps.
ADDER = """
import sys
import numpy as np
from retrieval import VisualMemory

memory = VisualMemory.open(sys.argv[1])
print("opened", flush=True)
vectors = np.random.default_rng(5).standard_normal((200, 8))
for start in range(0, 200, 10):
    ids = [f"new {number}" for number in range(start, start + 10)]
    memory.add_vectors(ids, ["new"] * 10, vectors[start : start + 10], on_duplicate=sys.argv[2])
"""


@pytest.fixture
def memory(tmp_path: Path) -> VisualMemory:
    memory = VisualMemory.create(tmp_path / "memory", embedder=foreign_vectors("made", DIMENSION))
    vectors = np.random.default_rng(0).standard_normal((ITEMS, DIMENSION))
    memory.add_vectors([f"{i}" for i in range(ITEMS)], ["0"] * ITEMS, vectors)
    return memory


def start(program: str, *arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: "subprocess.Popen[str]") -> str:
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return output


def test_each_reader_beside_a_writer_sees_whole_versions_only(memory: VisualMemory) -> None:
    readers = [start(READER, memory.path, ROUNDS) for _ in range(READERS)]
    finish(start(WRITER, memory.path, ROUNDS))
    seen = [int(finish(reader)) for reader in readers]
    assert max(seen) > 1
    assert len(VisualMemory.open(memory.path)) == ITEMS + ROUNDS


def test_a_reader_is_told_that_a_version_is_gone_which_another_process_drops(
    memory: VisualMemory, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    readers = [start(HISTORIAN, memory.path, told) for _ in range(READERS)]
    for number in range(100 * ROUNDS):  # on a busy machine it takes readers a while to begin
        memory.relabel(f"{number}", ids=[f"{number % (ITEMS - 1)}", f"{number % (ITEMS - 1) + 1}"])
        if number % 2:
            memory.compact(keep=1)
        if number >= ROUNDS and told.exists():
            break
    memory.relabel("last", ids=["0"])
    assert sum(int(finish(reader)) for reader in readers) > 0


@pytest.mark.parametrize("on_duplicate", ["skip", "replace"])
def test_two_writers_of_the_same_ids_make_no_duplicates(memory: VisualMemory, on_duplicate: str) -> None:
    for writer in [start(ADDER, memory.path, on_duplicate) for _ in range(2)]:
        finish(writer)
    ids = VisualMemory.open(memory.path).snapshot().ids.tolist()
    assert len(ids) == len(set(ids)) == ITEMS + 200


def test_a_second_writer_waits_for_the_first(memory: VisualMemory) -> None:
    with writer_lock(memory.path):
        other = start(ADDER, memory.path, "skip")
        assert other.stdout and other.stdout.readline() == "opened\n"
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(0.5)
        assert memory.refresh() is False
    finish(other)
    assert memory.refresh()
    assert len(memory) == ITEMS + 200


def test_threads_search_while_another_edits_and_find_nothing_that_was_forgotten_before(memory: VisualMemory) -> None:
    gone: set[str] = set()
    ended = threading.Event()

    def search(seed: int) -> int:
        queries = np.random.default_rng(seed).standard_normal((5, DIMENSION))
        searches = 0
        while not ended.is_set():
            forgotten = set(gone)
            found = memory.search_vectors(queries, k=30)
            assert not forgotten & set(found.ids.ravel().tolist())
            assert len(memory.thumbnails(found.ids[0].tolist(), rows=found.rows[0].tolist())) == 30
            searches += 1
        return searches

    with ThreadPoolExecutor(THREADS) as pool:
        searching = [pool.submit(search, seed) for seed in range(THREADS)]
        try:
            for number in range(ROUNDS):
                memory.forget(ids=[f"{2 * number}", f"{2 * number + 1}"])
                gone |= {f"{2 * number}", f"{2 * number + 1}"}
                memory.add_vectors([f"new {number}"], ["new"], np.random.default_rng(number).standard_normal((1, 8)))
                memory.relabel(f"label {number}", ids=[f"{100 + number}"])
                if number % 5 == 0:
                    memory.set_reliability(np.linspace(0.5, 1, len(memory)))
        finally:
            ended.set()
        assert all(one.result() for one in searching)


def test_a_refresh_waits_while_another_thread_edits(memory: VisualMemory) -> None:
    with ThreadPoolExecutor(1) as pool:
        with memory.turn():
            refreshing = pool.submit(memory.refresh)
            with pytest.raises(TimeoutError):
                refreshing.result(0.2)
        assert refreshing.result(60) is False


def test_threads_that_edit_at_once_take_turns(memory: VisualMemory) -> None:
    def edit(number: int) -> None:
        memory.forget(ids=[f"{number}"])
        memory.add_vectors([f"new {number}"], ["new"], np.random.default_rng(number).standard_normal((1, 8)))

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(edit, range(40)))
    ids = VisualMemory.open(memory.path).snapshot().ids.tolist()
    assert sorted(ids) == sorted([f"{i}" for i in range(40, ITEMS)] + [f"new {i}" for i in range(40)])
