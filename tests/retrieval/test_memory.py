"""The memory: what goes in can be found again, survives, and is never mixed with another embedder's vectors."""

import copy
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from retrieval import VisualMemory
from retrieval.building import build_memory
from retrieval.embedders.base import foreign_vectors
from retrieval.errors import (
    EmbedderMismatch,
    InvalidArgument,
    MissingWeights,
    NotAMemory,
    NotAnImage,
    UnknownVersion,
)
from tests.conftest import save_dinov2


def test_a_picture_finds_itself_first(built: Path, pictures: Path) -> None:
    neighbors = VisualMemory.open(built).search(pictures / "red" / "2.png", k=4)[0]
    assert (neighbors[0].id, neighbors[0].label) == ("red/2.png", "red")
    assert neighbors[0].distance == pytest.approx(0, abs=1e-5)
    assert [n.distance for n in neighbors] == sorted(n.distance for n in neighbors)


def test_stored_half_precision_moves_no_distance_by_a_ten_thousandth(built: Path, pictures: Path) -> None:
    memory = VisualMemory.open(built)
    paths = sorted(pictures.glob("*/*.png"))
    vectors = memory.embed(paths)
    found = memory.search_vectors(vectors, k=len(paths))
    exact = np.sort(1 - vectors.astype(float) @ vectors.astype(float).T, axis=1)
    assert np.abs(found.distances - exact).max() < 1e-4


def test_an_opened_memory_is_the_one_that_was_written(built: Path) -> None:
    memory = VisualMemory.open(built)
    stats = memory.stats()
    assert (len(memory), stats.items, stats.index) == (18, 18, "exact")
    assert stats.labels == {"blue": 6, "green": 6, "red": 6}
    assert stats.bytes_on_disk > 10_000 and memory.index_is_ready()


@pytest.mark.parametrize("k", [0, -3, 2.5, True])
def test_k_below_one_or_not_whole_is_refused(built: Path, pictures: Path, k: object) -> None:
    with pytest.raises(InvalidArgument, match="a whole number of neighbours, 1 or more, expected"):
        VisualMemory.open(built).search(pictures / "red" / "1.png", k=k)  # type: ignore[arg-type]


def test_k_above_the_size_gives_every_item_and_says_so(built: Path, pictures: Path) -> None:
    with pytest.warns(UserWarning, match="k=99 is more than the 18 items in the memory"):
        assert VisualMemory.open(built).search(pictures / "red" / "1.png", k=99).k == 18


def test_a_query_that_is_no_picture_is_refused(built: Path) -> None:
    with pytest.raises(NotAnImage, match="is not a picture"):
        VisualMemory.open(built).search(b"words", k=1)


def test_another_embedder_is_refused(built: Path, tmp_path: Path) -> None:
    other = save_dinov2(tmp_path / "other", seed=5)
    with pytest.raises(EmbedderMismatch, match="was built by small-dinov2 .* not by other"):
        VisualMemory.open(built, embedder=str(other))


def test_other_weights_in_the_embedders_place_are_refused(tmp_path: Path, pictures: Path) -> None:
    weights = save_dinov2(tmp_path / "model", seed=1)
    build_memory(tmp_path / "memory", pictures, embedder=str(weights))
    shutil.rmtree(weights)
    save_dinov2(weights, seed=2)
    with pytest.raises(EmbedderMismatch, match="use the embedder it was built by"):
        VisualMemory.open(tmp_path / "memory").search(pictures / "red" / "1.png", k=1)


def test_a_moved_embedder_can_be_pointed_at(tmp_path: Path, pictures: Path) -> None:
    weights = save_dinov2(tmp_path / "model", seed=1)
    build_memory(tmp_path / "memory", pictures, embedder=str(weights))
    moved = weights.rename(tmp_path / "moved")
    with pytest.raises(MissingWeights, match="where it is no longer: say where it is now with --embedder FOLDER"):
        VisualMemory.open(tmp_path / "memory").search(pictures / "red" / "1.png", k=1)
    found = VisualMemory.open(tmp_path / "memory", embedder=str(moved)).search(pictures / "red" / "1.png", k=1)
    assert found[0][0].id == "red/1.png"


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: p.write_text("x")])
def test_a_path_without_a_memory_is_refused(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "x")
    with pytest.raises(NotAMemory, match="is no memory .*: make one with `vmem memory build"):
        VisualMemory.open(tmp_path / "x")


def test_a_broken_table_is_reported_as_such(tmp_path: Path) -> None:
    (tmp_path / "m" / "items.lance" / "_versions").mkdir(parents=True)
    with pytest.raises(NotAMemory, match="holds a memory that cannot be read"):
        VisualMemory.open(tmp_path / "m")


def test_damaged_data_files_are_reported_and_not_thrown(built: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(built, tmp_path / "memory")
    for file in (copied / "items.lance" / "data").iterdir():
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(NotAMemory, match="holds a memory that cannot be read: .*; `vmem memory check .*` says what"):
        VisualMemory.open(copied).search_vectors(np.ones((1, 32)), k=1)


def test_an_index_left_by_a_restored_table_is_not_trusted(tmp_path: Path) -> None:
    memory = VisualMemory.create(tmp_path / "memory", embedder=foreign_vectors("made", 3))
    table = memory.path / "items.lance"
    memory.add_vectors(["a"], ["a"], np.eye(3)[:1])
    shutil.copytree(table, tmp_path / "backup")
    memory.add_vectors(["b"], ["b"], np.eye(3)[1:2])
    memory.build_index()
    shutil.rmtree(table)
    shutil.copytree(tmp_path / "backup", table)
    restored = VisualMemory.open(memory.path)
    restored.add_vectors(["c"], ["c"], np.eye(3)[2:])
    assert restored.search_vectors(np.eye(3)[2:], k=1)[0][0].id == "c"


def test_a_memory_whose_index_cannot_be_saved_is_searched_all_the_same(tmp_path: Path) -> None:
    memory = VisualMemory.create(tmp_path / "memory", embedder=foreign_vectors("made", 3), index="scann")
    memory.add_vectors(["a", "b", "c"], ["x", "y", "z"], np.eye(3))
    (memory.path / "index").write_text("a file in the index's place")
    assert memory.search_vectors(np.eye(3), k=1).ids[:, 0].tolist() == ["a", "b", "c"]


READER = """
import pickle, sys
for memory in pickle.load(sys.stdin.buffer):
    found = memory.search_vectors(memory.snapshot().vectors()[:1], k=2)
    print(type(memory).__name__, memory.version, len(memory), found.ids.tolist())
"""


def test_a_memory_and_its_views_can_be_pickled_for_processes_started_by_spawn(tmp_path: Path) -> None:
    memory = VisualMemory.create(tmp_path / "m", embedder=foreign_vectors("made", 64))
    memory.add_vectors(["a", "b", "c"], ["x", "y", "z"], np.eye(64)[:3] + 0.1)
    memory.forget(ids=["b"])
    views = [memory, memory.at(2), memory.at(2).without(["c"])]
    pickled = pickle.dumps(views)
    assert len(pickled) < 2000  # a path, a version, and how to load the embedder
    done = subprocess.run([sys.executable, "-c", READER], input=pickled, capture_output=True, check=True, cwd="/")
    first, second, third = done.stdout.decode().splitlines()
    assert first == "VisualMemory 3 2 [['a', 'c']]"
    assert second.startswith("MemoryView 2 3 [['a', ") and third == "MemoryView 2 2 [['a', 'b']]"
    twin = copy.deepcopy(memory)
    twin.relabel("w", ids=["a"])
    assert memory.snapshot().labels.tolist() == ["x", "z"] and memory.refresh()
    memory.compact(keep=1)
    with pytest.raises(UnknownVersion, match="has no version 3"):
        pickle.loads(pickled)


def test_a_pickled_memory_loads_its_embedder_anew_and_holds_no_weights(built: Path, pictures: Path) -> None:
    memory = VisualMemory.open(built)
    query = pictures / "red" / "0.png"
    expected = memory.search(query, k=3).ids.tolist()
    for opened in (memory, VisualMemory.open(built, embedder=memory.embedder)):
        pickled = pickle.dumps(opened)
        assert len(pickled) < 2000
        assert pickle.loads(pickled).search(query, k=3).ids.tolist() == expected


FORKED = """
import os, sys
import numpy as np
from retrieval import VisualMemory
from retrieval.errors import StorageError

memory = VisualMemory.open(sys.argv[1])
memory.search_vectors(np.eye(64)[:1], k=1)
child = os.fork()
if child == 0:
    print(memory.search_vectors(np.eye(64)[:1], k=1).ids.tolist())
    for use in (lambda: VisualMemory.open(sys.argv[1]), memory.history, lambda: memory.forget(ids=["a"])):
        try:
            use()
        except StorageError as error:
            print(error)
    sys.stdout.flush()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print(len(memory.history()))
"""


def test_a_forked_process_searches_what_is_at_hand_and_is_refused_the_rest_in_a_sentence(tmp_path: Path) -> None:
    memory = VisualMemory.create(tmp_path / "m", embedder=foreign_vectors("made", 64), index="exact")
    memory.add_vectors(["a", "b"], ["x", "y"], np.eye(64)[:2])
    command = [sys.executable, "-W", "ignore", "-c", FORKED, str(memory.path)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    assert (lines[0], lines[-1], len(lines)) == ("[['a']]", "2", 5)
    assert all("forked from one that had opened a memory" in line and "by spawn" in line for line in lines[1:4])
