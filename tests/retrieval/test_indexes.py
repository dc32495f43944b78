"""One suite that every index passes, with exact comparison in float64 as the truth."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from retrieval.errors import InvalidArgument
from retrieval.indexes import SCANN_FROM, build_index, choose_kind, load_index, save_index
from retrieval.indexes.base import Index
from retrieval.indexes.exact import ExactIndex
from retrieval.indexes.scann import BRUTE_FORCE_BELOW

Vectors = Callable[[int, int], np.ndarray]
KINDS = ["exact", pytest.param("scann", marks=pytest.mark.skipif(sys.platform != "linux", reason="ScaNN is for Linux"))]
SIZES = [1, 7, 300, BRUTE_FORCE_BELOW + 2000]  # the last is a tree in ScaNN


def true_distances(queries: np.ndarray, vectors: np.ndarray, k: int) -> np.ndarray:
    return np.sort(1.0 - queries.astype(float) @ vectors.astype(float).T, axis=1)[:, :k]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("items", SIZES)
def test_finds_the_nearest_in_order(kind: str, items: int, random_vectors: Vectors) -> None:
    vectors = random_vectors(items, 24)
    queries = vectors[:: max(1, items // 40)] + np.float32(0.01)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    k = min(50, items)
    farthest = true_distances(queries, vectors, k)[:, -1:]
    trained = kind != "exact" and items >= BRUTE_FORCE_BELOW
    recalls = []
    for _ in range(4 if trained else 1):  # ScaNN draws a tree's centres at random: 0.99 is what trees have on average
        positions, distances = build_index(kind, vectors).search(queries, k)
        assert positions.shape == distances.shape == (len(queries), k)
        assert (np.diff(distances, axis=1) >= 0).all()
        assert all(len(set(row)) == k for row in positions.tolist())
        own = 1.0 - np.einsum("qd,qkd->qk", queries, vectors[positions])
        assert np.allclose(distances, own, atol=1e-5)
        recalls.append((distances <= farthest + 1e-5).mean())
    assert np.mean(recalls) >= (0.99 if trained else 1.0)


@pytest.mark.parametrize("items", SIZES)
def test_every_vector_can_be_asked_for(kind: str, items: int, random_vectors: Vectors) -> None:
    vectors = random_vectors(items, 24)
    positions, distances = build_index(kind, vectors).search(vectors[:2], items)
    assert (np.sort(positions, axis=1) == np.arange(items)).all() and np.isfinite(distances).all()


def test_a_vector_is_its_own_nearest_at_distance_zero(kind: str, random_vectors: Vectors) -> None:
    vectors = random_vectors(500, 24)
    positions, distances = build_index(kind, vectors).search(vectors, 1)
    assert (positions[:, 0] == np.arange(500)).all() and np.allclose(distances, 0, atol=1e-6)
    assert (distances >= 0).all()


@pytest.mark.parametrize("items", SIZES)
def test_a_saved_index_answers_as_before(kind: str, items: int, random_vectors: Vectors, tmp_path: Path) -> None:
    vectors = random_vectors(items, 24)
    index = build_index(kind, vectors)
    save_index(index, tmp_path / "index", table_version="3")
    loaded = load_index(tmp_path / "index", table_version="3")
    assert loaded is not None and loaded.kind == kind and len(loaded) == items
    k = min(10, items)
    for before, after in zip(index.search(vectors[:5], k), loaded.search(vectors[:5], k), strict=True):
        assert np.array_equal(before, after)


def test_an_index_of_another_version_is_not_loaded(kind: str, random_vectors: Vectors, tmp_path: Path) -> None:
    save_index(build_index(kind, random_vectors(20, 8)), tmp_path / "index", table_version="3")
    assert load_index(tmp_path / "index", table_version="4") is None


def test_a_damaged_index_is_not_loaded(kind: str, random_vectors: Vectors, tmp_path: Path) -> None:
    save_index(build_index(kind, random_vectors(20, 8)), tmp_path / "index", table_version="3")
    for file in (tmp_path / "index").iterdir():
        if file.name != "index.json":
            file.write_bytes(b"")
    assert load_index(tmp_path / "index", table_version="3") is None


def test_saving_takes_the_place_of_what_was_there(kind: str, random_vectors: Vectors, tmp_path: Path) -> None:
    for items in (20, 30):
        save_index(build_index(kind, random_vectors(items, 8)), tmp_path / "index", table_version=str(items))
    loaded: Index | None = load_index(tmp_path / "index", table_version="30")
    assert loaded is not None and len(loaded) == 30
    assert [entry.name for entry in tmp_path.iterdir()] == ["index"]


def test_equal_distances_come_in_order_of_position() -> None:
    vectors = np.tile(np.array([[1, 0]], np.float32), (6, 1))
    positions, _ = build_index("exact", vectors).search(vectors[:1], 6)
    assert positions.tolist() == [[0, 1, 2, 3, 4, 5]]


def test_of_more_copies_than_fit_the_first_are_taken() -> None:
    vectors = np.tile(np.array([[0, 1]], np.float32), (100, 1))
    vectors[70] = [1, 0]
    positions, _ = build_index("exact", vectors).search(np.array([[1, 0], [0, 1]], np.float32), 4)
    assert positions.tolist() == [[70, 0, 1, 2], [0, 1, 2, 3]]


@pytest.mark.parametrize("header", ["", "[]", '{"kind": []}', '{"kind": "exact", "table_version": "3"}'])
def test_an_index_with_a_damaged_header_is_not_loaded(random_vectors: Vectors, tmp_path: Path, header: str) -> None:
    save_index(build_index("exact", random_vectors(20, 8)), tmp_path / "index", table_version="3")
    (tmp_path / "index" / "index.json").write_text(header)
    assert load_index(tmp_path / "index", table_version="3") is None


def test_exact_search_is_the_same_in_one_block_as_in_many(random_vectors: Vectors) -> None:
    from retrieval.indexes import exact

    vectors = random_vectors(5000, 8)
    block = exact._BLOCK_BYTES // (4 * 300)
    many = np.tile(vectors, (2 * block // len(vectors), 1))  # more than one block for 300 queries
    positions, distances = build_index("exact", many).search(vectors[:300], 3)
    assert np.allclose(distances, true_distances(vectors[:300], many, 3), atol=1e-6)
    assert np.allclose(many[positions[:, 0]], vectors[:300])


def test_a_pickle_in_a_scann_index_is_never_loaded(random_vectors: Vectors, tmp_path: Path) -> None:
    pytest.importorskip("scann", reason="ScaNN is for Linux")
    save_index(build_index("scann", random_vectors(20, 8)), tmp_path / "index", table_version="1")
    (tmp_path / "index" / "scann_docids.pkl").write_bytes(b"cposix\nsystem\n(S'false'\ntR.")
    assert load_index(tmp_path / "index", table_version="1") is None


def test_auto_takes_exact_for_small_memories_and_scann_for_large_ones() -> None:
    pytest.importorskip("scann", reason="ScaNN is for Linux")
    assert choose_kind("auto", items=SCANN_FROM - 1) == "exact"
    assert choose_kind("auto", items=SCANN_FROM) == "scann"


def test_an_unknown_kind_is_refused_by_name() -> None:
    with pytest.raises(InvalidArgument, match="no index 'tree': choose one of auto, exact, scann"):
        choose_kind("tree", items=1)


@pytest.mark.parametrize("copies", [0, 60])
def test_exact_neighbours_do_not_depend_on_the_queries_beside(copies: int, random_vectors: Vectors) -> None:
    vectors = random_vectors(1001, 96)
    vectors[10 : 10 + 16 * copies : 16] = vectors[10]
    queries = random_vectors(130, 96)
    queries[::2] = vectors[10] + 0.02 * queries[::2]
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    index = ExactIndex(vectors)
    positions, distances = index.search(queries, 50)
    alone = [index.search(queries[row : row + 1], 50) for row in range(len(queries))]
    assert np.array_equal(positions, np.concatenate([found for found, _ in alone]))
    assert np.array_equal(distances, np.concatenate([found for _, found in alone]))
    if copies:
        assert positions[0].tolist() == list(range(10, 10 + 16 * 50, 16))  # the first of the copies, in order
