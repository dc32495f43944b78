"""The memory: what goes in can be found again, survives, and is never mixed with another embedder's vectors."""

import shutil
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
def test_a_path_without_a_memory_is_refused(tmp_path: Path, make) -> None:
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
