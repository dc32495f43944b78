"""One suite that every index passes, with exact comparison in float64 as the truth."""

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from retrieval.errors import InvalidArgument
from retrieval.indexes import SCANN_FROM, build_index, choose_kind, index_class, scann
from retrieval.indexes.base import ArrayBlocks, Index, Skipped
from retrieval.indexes.exact import ExactIndex
from retrieval.indexes.plans import Effort, layout_for
from retrieval.indexes.scann import BRUTE_FORCE_BELOW
from retrieval.vectors import to_fixed_point, to_unit
from tests.conftest import needs_scann

Vectors = Callable[..., np.ndarray]
KINDS = ["exact", *(["scann"] if sys.platform == "linux" else []), "milvus"]
TREE = BRUTE_FORCE_BELOW + 2000  # vectors; Milvus compares every one at any size, and would take a minute for them
KIND_AND_ITEMS = [(kind, items) for kind in KINDS for items in (1, 7, 300, TREE) if (kind, items) != ("milvus", TREE)]
SAVED_AND_ITEMS = [(kind, items) for kind, items in KIND_AND_ITEMS if index_class(kind).saved]


def true_distances(queries: np.ndarray, vectors: np.ndarray, k: int) -> np.ndarray:
    return np.sort(1.0 - queries.astype(float) @ vectors.astype(float).T, axis=1)[:, :k]


def unit(halves: np.ndarray) -> np.ndarray:
    """Return float16 vectors, as a memory holds them, in float32 and of length 1."""
    wide = halves.astype(float)
    scaled: np.ndarray = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)
    return scaled


@dataclass(frozen=True)
class Made:
    """An index over some vectors that tests only read, or copy."""

    vectors: np.ndarray  # float32, of length 1
    halves: np.ndarray  # as they were given
    index: Index
    folder: Path | None


Make = Callable[..., Made]


@pytest.fixture(scope="module")
def make(random_vectors: Vectors, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Return what builds an index of a kind and size, or returns it where it was built before."""

    @cache
    def build(kind: str, items: int, *, saved: bool = True, turn: int = 0) -> Made:
        halves = random_vectors(items + 200, 24)[:items].astype(np.float16)
        folder = tmp_path_factory.mktemp("made") if saved else None
        return Made(unit(halves), halves, index_class(kind).build(ArrayBlocks(halves), folder), folder)

    return build


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize(("kind", "items"), KIND_AND_ITEMS)
def test_finds_the_nearest_in_order(kind: str, items: int, make: Make) -> None:
    vectors = make(kind, items).vectors
    queries = vectors[:: max(1, items // 40)] + np.float32(0.01)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    k = min(50, items)
    farthest = true_distances(queries, vectors, k)[:, -1:]
    trained = kind != "exact" and items >= BRUTE_FORCE_BELOW
    recalls = []
    for turn in range(
        4 if trained else 1
    ):  # ScaNN draws a tree's centres at random: 0.99 is what trees have on average
        positions, distances = make(kind, items, saved=turn != 1, turn=turn).index.search(queries, k)
        assert positions.shape == distances.shape == (len(queries), k)
        assert (np.diff(distances, axis=1) >= 0).all()
        assert all(len(set(row)) == k for row in positions.tolist())
        own = 1.0 - np.einsum("qd,qkd->qk", queries, vectors[positions])
        assert np.allclose(distances, own, atol=1e-5)
        recalls.append((distances <= farthest + 1e-5).mean())
    assert np.mean(recalls) >= (0.99 if trained else 1.0)


@pytest.mark.parametrize(("kind", "items"), KIND_AND_ITEMS)
def test_every_vector_can_be_asked_for(kind: str, items: int, make: Make) -> None:
    made = make(kind, items)
    positions, distances = made.index.search(made.vectors[:2], items)
    assert (np.sort(positions, axis=1) == np.arange(items)).all() and np.isfinite(distances).all()


def test_a_vector_is_its_own_nearest_at_distance_zero(kind: str, make: Make) -> None:
    made = make(kind, 300)
    positions, distances = made.index.search(made.vectors, 1)
    assert (positions[:, 0] == np.arange(300)).all() and np.allclose(distances, 0, atol=1e-6)
    assert (distances >= 0).all()


@pytest.mark.parametrize(("kind", "items"), SAVED_AND_ITEMS)
def test_a_loaded_index_answers_as_before(kind: str, items: int, make: Make) -> None:
    made = make(kind, items)
    loaded = index_class(kind).load(made.folder)
    assert loaded.kind == kind and len(loaded) == items
    k = min(10, items)
    for before, after in zip(made.index.search(made.vectors[:5], k), loaded.search(made.vectors[:5], k), strict=True):
        assert np.array_equal(before, after)


@pytest.mark.parametrize(("kind", "items"), KIND_AND_ITEMS)
@pytest.mark.parametrize("saved", [True, False])
def test_an_extended_index_finds_both_and_the_old_one_only_its_own(
    kind: str, items: int, saved: bool, make: Make, random_vectors: Vectors, tmp_path: Path
) -> None:
    more = random_vectors(items + 200, 24)[items:]
    made, place = make(kind, items, saved=saved, turn=int(not saved)), tmp_path if saved else None
    new, vectors = made.index.extended(ArrayBlocks(more), place), np.concatenate([made.vectors, more])
    assert (len(made.index), len(new)) == (items, items + 200)
    for index in (new, index_class(kind).load(place) if saved and new.saved else new):
        asked = np.append(np.arange(0, items, 9), np.arange(items, items + 200))
        positions, distances = index.search(vectors[asked], 1)
        assert (positions[:, 0] == asked).mean() >= 0.99  # a tree may miss some
        assert np.allclose(distances, 0, atol=1e-6)
    positions, _ = made.index.search(vectors[:items:9], 1)
    assert (positions[:, 0] == np.arange(0, items, 9)).mean() >= 0.99 and positions.max() < items


@pytest.mark.parametrize(("kind", "items"), KIND_AND_ITEMS)
def test_skipped_vectors_are_never_found(kind: str, items: int, make: Make) -> None:
    made = make(kind, items)
    skip = np.zeros(items, bool)
    skip[::3] = items > 1
    living = np.flatnonzero(~skip)
    k = min(50, len(living))
    positions, distances = made.index.search(made.vectors[:40], k, skip=Skipped(skip))
    assert not skip[positions].any() and all(len(set(row)) == k for row in positions.tolist())
    farthest = true_distances(made.vectors[:40], made.vectors[living], k)[:, -1:]
    assert (distances <= farthest + 1e-5).mean() >= 0.98


@pytest.fixture(scope="module")
def crowded(random_vectors: Vectors) -> Callable[[str], Made]:
    """Return what builds an index in which a thousand vectors, from 5000 on, lie around one point; 40 are copies."""

    @cache
    def build(kind: str) -> Made:
        vectors = random_vectors(TREE, 24)
        vectors[5000:6000] = random_vectors(1, 24, seed=7) + 0.02 * vectors[5000:6000]
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors[100:4100:100] = vectors[50]
        return Made(vectors, vectors, build_index(kind, vectors), None)

    return build


def test_a_thousand_skipped_neighbours_do_not_hide_those_behind(
    kind: str, crowded: Callable[[str], Made], random_vectors: Vectors
) -> None:
    made, around = crowded(kind), random_vectors(1, 24, seed=7)
    skip = np.zeros(TREE, bool)
    skip[5000:6000] = True
    assert (made.index.search(around, 900)[0] >= 5000).all()
    _, distances = made.index.search(around, 50, skip=Skipped(skip))
    farthest = true_distances(around, made.vectors[~skip], 50)[:, -1:]
    assert (distances <= farthest + 1e-5).mean() >= 0.98


def test_all_that_is_left_is_found_when_nearly_everything_is_skipped(kind: str, crowded: Callable[[str], Made]) -> None:
    made, skip = crowded(kind), np.ones(TREE, bool)
    skip[[3, 500, 11_000]] = False
    positions, _ = made.index.search(made.vectors[:2], 3, skip=Skipped(skip))
    assert np.sort(positions, axis=1).tolist() == [[3, 500, 11_000]] * 2


@pytest.mark.parametrize(("kind", "items"), [(kind, items) for kind, items in SAVED_AND_ITEMS if items >= 300])
def test_erased_vectors_leave_no_byte_and_the_others_are_found(
    kind: str, items: int, make: Make, tmp_path: Path
) -> None:
    made = make(kind, items)
    if kind == "milvus":  # whose database is open
        index_class(kind).build(ArrayBlocks(made.vectors), tmp_path)
    else:
        shutil.copytree(made.folder or "", tmp_path, dirs_exist_ok=True)
    vectors = made.vectors
    erased = np.arange(7, items, 11)
    traces = {vectors[row].tobytes() for row in erased} | {row.tobytes() for row in to_fixed_point(made.halves[erased])}
    assert any(trace in contents(tmp_path) for trace in traces)
    written = index_class(kind).erase(tmp_path, erased)
    assert written and all((tmp_path / name).exists() for name in written)
    assert not any(trace in contents(tmp_path) for trace in traces)
    skip = np.zeros(items, bool)
    skip[erased] = True
    loaded = index_class(kind).load(tmp_path)
    kept = np.flatnonzero(~skip)
    positions, distances = loaded.search(vectors[kept], 1, skip=Skipped(skip))
    assert (positions[:, 0] == kept).mean() >= 0.99 and np.isfinite(distances).all()


def contents(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file())


def test_an_index_wears_when_a_fifth_of_it_is_skipped(kind: str, random_vectors: Vectors) -> None:
    index = build_index(kind, random_vectors(100, 8))
    assert not index.worn(skipped=5) and index.worn(skipped=60)


def test_float16_vectors_are_searched_by_their_direction(kind: str, random_vectors: Vectors) -> None:
    vectors = random_vectors(400, 24)
    halves = (vectors * 1.001).astype(np.float16)
    positions, distances = build_index(kind, halves).search(vectors[:50], 5)
    truth = 1 - np.einsum("qd,qkd->qk", vectors[:50], unit(halves)[positions])
    assert np.allclose(distances, truth, atol=3e-5)  # rows of a ScaNN index are rounded to 1/65,534 of their largest


def test_equal_distances_come_in_order_of_position() -> None:
    vectors = np.tile(np.array([[1, 0]], np.float32), (6, 1))
    positions, _ = build_index("exact", vectors).search(vectors[:1], 6)
    assert positions.tolist() == [[0, 1, 2, 3, 4, 5]]


def test_of_more_copies_than_fit_the_first_are_taken() -> None:
    vectors = np.tile(np.array([[0, 1]], np.float32), (100, 1))
    vectors[70] = [1, 0]
    positions, _ = build_index("exact", vectors).search(np.array([[1, 0], [0, 1]], np.float32), 4)
    assert positions.tolist() == [[70, 0, 1, 2], [0, 1, 2, 3]]


def test_exact_search_is_the_same_in_one_block_as_in_many(random_vectors: Vectors) -> None:
    from retrieval.indexes import exact

    vectors = random_vectors(5000, 8)
    block = exact._BLOCK_BYTES // (4 * 300)
    many = np.tile(vectors, (8 * block // len(vectors), 1))  # more than one block for 300 queries
    positions, distances = build_index("exact", many).search(vectors[:300], 3)
    assert np.allclose(distances, true_distances(vectors[:300], many, 3), atol=1e-6)
    assert np.allclose(many[positions[:, 0]], vectors[:300])


def test_exact_search_goes_on_where_a_first_block_is_skipped_whole(random_vectors: Vectors) -> None:
    from retrieval.indexes import exact

    vectors = random_vectors(20_000, 8)
    skip = np.zeros(len(vectors), bool)
    skip[: exact._BLOCK_BYTES // (4 * 300) + 1] = True
    positions, distances = build_index("exact", vectors).search(vectors[:300], 5, skip=Skipped(skip))
    assert np.allclose(distances, true_distances(vectors[:300], vectors[~skip], 5), atol=1e-6)
    assert not skip[positions].any() and all(len(set(row)) == 5 for row in positions.tolist())


@needs_scann
def test_auto_takes_exact_for_small_memories_and_scann_for_large_ones() -> None:
    assert choose_kind("auto", items=SCANN_FROM - 1) == "exact"
    assert choose_kind("auto", items=SCANN_FROM) == "scann"


def test_an_unknown_kind_is_refused_by_name() -> None:
    with pytest.raises(InvalidArgument, match="no index 'tree': choose one of auto, exact, scann, milvus, milvus:URI"):
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


@pytest.fixture(scope="module")
def flat(random_vectors: Vectors) -> Made:
    """Return a tree over vectors of few dimensions, and as many vectors again and more."""
    vectors = random_vectors(2 * BRUTE_FORCE_BELOW + 1000, 8)
    return Made(vectors, vectors, build_index("scann", vectors[:BRUTE_FORCE_BELOW]), None)


@needs_scann
def test_extending_far_beyond_its_training_wears_a_tree(flat: Made) -> None:
    assert not flat.index.worn(skipped=0)
    assert flat.index.extended(ArrayBlocks(flat.vectors[BRUTE_FORCE_BELOW:]), None).worn(skipped=0)


@needs_scann
def test_a_tree_with_all_new_vectors_in_one_leaf_is_worn(flat: Made) -> None:
    assert flat.index.extended(ArrayBlocks(np.tile(flat.vectors[:1], (BRUTE_FORCE_BELOW // 2, 1))), None).worn(
        skipped=0
    )


@needs_scann
def test_an_index_without_a_tree_is_worn_once_it_is_large_enough_for_one(random_vectors: Vectors) -> None:
    vectors = random_vectors(BRUTE_FORCE_BELOW, 8)
    index = build_index("scann", vectors[:9000])
    assert not index.worn(skipped=0) and index.extended(ArrayBlocks(vectors[9000:]), None).worn(skipped=0)


@needs_scann
def test_neighbours_in_a_tree_do_not_depend_on_the_queries_beside(make: Make) -> None:
    index, vectors = make("scann", TREE).index, make("scann", TREE).vectors
    few, many = vectors[: scann.BATCHED_FROM - 1], vectors[:700]
    alone = [index.search(query[None], 50) for query in few]
    for kind_of_answer, answer in enumerate(index.search(few, 50)):
        assert np.array_equal(answer, np.concatenate([one[kind_of_answer] for one in alone]))
    parts = [index.search(many[start : start + 100], 50) for start in range(0, 700, 100)]
    for kind_of_answer, answer in enumerate(index.search(many, 50)):
        assert np.array_equal(answer, np.concatenate([part[kind_of_answer] for part in parts]))


@needs_scann
def test_leaves_that_hold_too_few_say_so_to_one_query_as_to_several(random_vectors: Vectors) -> None:
    vectors, layout = random_vectors(4000, 16), layout_for(4000)
    searcher = scann.train(vectors, layout)
    scann.fill(searcher, [vectors], items=len(vectors))
    effort = Effort(1, 4000 // layout.leaves * 4)
    positions, similarities = scann.ask(searcher, vectors[:40], effort)
    assert np.isnan(similarities).any()
    for row in range(40):
        alone, alike = scann.ask(searcher, vectors[row : row + 1], effort)
        assert np.array_equal(alike[0], similarities[row], equal_nan=True)
        assert np.array_equal(alone[0][~np.isnan(alike[0])], positions[row][~np.isnan(alike[0])])


@pytest.mark.parametrize("kind_and_address", ["exact:here", "scann:http://x", "tree:"])
def test_only_milvus_has_an_address(kind_and_address: str) -> None:
    with pytest.raises(InvalidArgument, match="choose one of"):
        choose_kind(kind_and_address, items=1)


@pytest.mark.parametrize("scale", [6.1e-5, 1.0, 65504.0])
@pytest.mark.parametrize("kept_as", [np.float16, np.float32])
def test_fixed_point_is_off_by_a_part_in_65534_of_the_largest_number(
    scale: float, kept_as: type[np.floating], random_vectors: Vectors
) -> None:
    vectors = (random_vectors(50, 24) * scale).astype(kept_as).astype(np.float64)
    largest = np.abs(vectors).max(axis=1, keepdims=True)
    kept = to_fixed_point(vectors.astype(kept_as))
    assert (np.abs(kept).max(axis=1) == 32_767).all()
    assert np.abs(kept * largest / 32_767 - vectors).max() <= 1.01 * largest.max() / 65_534
    assert np.allclose(to_unit(kept), vectors / np.linalg.norm(vectors, axis=1, keepdims=True), atol=3e-5)


def test_the_same_vector_has_the_same_bytes_in_fixed_point_alone_and_among_others(random_vectors: Vectors) -> None:
    vectors = random_vectors(100, 37).astype(np.float16)
    alone = np.concatenate([to_fixed_point(vector[None]) for vector in vectors])
    assert np.array_equal(to_fixed_point(vectors), alone)
    assert np.array_equal(to_fixed_point(np.asfortranarray(vectors)), alone)


def test_zeros_are_zeros_in_fixed_point_and_no_direction() -> None:
    kept = to_fixed_point(np.array([[0, 0], [0, 0.5]], np.float16))
    assert kept.tolist() == [[0, 0], [0, 32_767]] and to_unit(kept).tolist() == [[0, 0], [0, 1]]


@needs_scann
def test_equal_vectors_in_a_tree_come_in_order_of_position(crowded: Callable[[str], Made]) -> None:
    made = crowded("scann")
    positions, _ = made.index.search(made.vectors[50:51], 30)
    assert positions[0].tolist() == [50, *range(100, 3000, 100)]


@needs_scann
def test_a_tree_looks_at_more_where_more_is_asked_of_it(random_vectors: Vectors) -> None:
    draw_from = np.random.default_rng(0)
    vectors = draw_from.normal(size=(BRUTE_FORCE_BELOW, 48)).astype(np.float32)  # no clusters: neighbours lie anywhere
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = draw_from.normal(size=(200, 48)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    index = build_index("scann", vectors)
    farthest = true_distances(queries, vectors, 50)[:, -1:]
    for asked in (0.99, 0.999, 0.9995):
        found = (index.search(queries, 50, recall=asked)[1] <= farthest + 1e-3).mean()
        assert found >= asked


@needs_scann
def test_a_leaf_whose_centre_is_as_good_as_an_erased_vector_loses_it(random_vectors: Vectors, tmp_path: Path) -> None:
    vectors = random_vectors(BRUTE_FORCE_BELOW, 24)
    copies = np.arange(1000, 3000)  # enough of one picture for a leaf of its own
    vectors[copies] = vectors[0]
    index_class("scann").build(ArrayBlocks(vectors), tmp_path)
    _, centres = scann._read_centres(tmp_path)
    assert closest(centres, vectors[0]) > 0.999
    assert "serialized_partitioner.pb" in index_class("scann").erase(tmp_path, np.append(0, copies))
    _, centres = scann._read_centres(tmp_path)
    assert closest(centres, vectors[0]) < 0.99
    skip = np.zeros(len(vectors), bool)
    skip[0], skip[copies] = True, True
    kept = np.flatnonzero(~skip)
    positions, _ = index_class("scann").load(tmp_path).search(vectors[kept[::50]], 1, skip=Skipped(skip))
    assert (positions[:, 0] == kept[::50]).mean() >= 0.99


def closest(centres: np.ndarray, vector: np.ndarray) -> float:
    return float((centres @ vector / np.maximum(np.linalg.norm(centres, axis=1), 1e-9)).max())
