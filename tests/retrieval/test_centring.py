"""Domain centring: what it does to vectors, and what that does to neighbours."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from retrieval import VisualMemory
from retrieval.errors import InvalidArgument
from retrieval.indexes.saved import load_stored
from retrieval.vectors import centre_queries, to_fixed_point, to_unit
from retrieval.view import MemoryView

Make = Callable[..., np.ndarray]


def memory_of(path: Path, vectors: np.ndarray, index: str = "exact") -> VisualMemory:
    from retrieval.embedders.base import foreign_vectors

    memory = VisualMemory.create(path, embedder=foreign_vectors("made", vectors.shape[1]), index=index)
    memory.add_vectors([f"i{n}" for n in range(len(vectors))], [f"l{n % 7}" for n in range(len(vectors))], vectors)
    return memory


def test_neighbours_are_those_of_a_sequential_count_on_centred_vectors(tmp_path: Path, random_vectors: Make) -> None:
    vectors, queries = random_vectors(300, 16), random_vectors(40, 16)
    memory = memory_of(tmp_path / "m", vectors)
    stored = to_unit(to_fixed_point(vectors)).astype(np.float64)
    stored -= stored.mean(axis=0)
    stored /= np.linalg.norm(stored, axis=1, keepdims=True)
    asked = queries - queries.mean(axis=0)
    asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    wanted = np.argsort(-(asked @ stored.T), axis=1)[:, :5]
    centred = memory.centred()
    found = centred.search_vectors(centre_queries(queries, "queries", memory_mean=centred.snapshot().mean), k=5)
    assert found.ids.tolist() == [[f"i{row}" for row in rows] for rows in wanted]


def test_a_domain_that_is_only_shifted_finds_its_own(tmp_path: Path, random_vectors: Make) -> None:
    vectors = random_vectors(200, 32)
    shift = np.zeros(32, np.float32)
    shift[0] = 3.0
    memory = memory_of(tmp_path / "m", vectors)
    centred = memory.centred()
    shifted = vectors + shift
    plain = (memory.search_vectors(shifted, k=1).rows[:, 0] == np.arange(200)).mean()
    found = centred.search_vectors(centre_queries(shifted, "queries", memory_mean=centred.snapshot().mean), k=1)
    assert plain < 0.9 and (found.rows[:, 0] == np.arange(200)).mean() > 0.99


def test_a_running_mean_knows_only_what_came_before(random_vectors: Make) -> None:
    queries = random_vectors(50, 8)
    mean = np.full(8, 0.1)
    whole = centre_queries(queries, "running", memory_mean=mean)
    assert np.allclose(whole[:20], centre_queries(queries[:20], "running", memory_mean=mean))
    fourth = queries[3] - (10 * mean + queries[:4].sum(axis=0)) / 14
    assert np.allclose(whole[3], fourth / np.linalg.norm(fourth), atol=1e-6)


def test_the_centred_index_is_kept_beside_the_other_and_made_anew_for_another_version(
    tmp_path: Path, random_vectors: Make
) -> None:
    memory = memory_of(tmp_path / "m", random_vectors(60, 8), index="scann")
    query = -random_vectors(1, 8)
    memory.centred().search_vectors(query, k=3)
    version = memory.snapshot().version
    assert load_stored(tmp_path / "m" / "index-centred", stamp=version) is not None
    memory.add_vectors(["new"], ["new"], query)
    centred = memory.centred()
    assert centred.search_vectors(centred_query(query, centred), k=1).ids[0, 0] == "new"


def centred_query(query: np.ndarray, centred: MemoryView) -> np.ndarray:
    shifted: np.ndarray = query - centred.snapshot().mean.astype(np.float32)
    return shifted


@pytest.mark.parametrize(("how", "count", "said"), [("queries", 1, "there is 1: give more"), ("mean", 4, "choose one")])
def test_what_cannot_be_centred_is_told(random_vectors: Make, how: str, count: int, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        centre_queries(random_vectors(4, 8)[:count], how, memory_mean=np.zeros(8))


def test_queries_that_are_all_the_same_have_nothing_left(random_vectors: Make) -> None:
    same = np.repeat(random_vectors(1, 8), 3, axis=0)
    with pytest.raises(InvalidArgument, match="centring leaves nothing of vectors that all are the same"):
        centre_queries(same, "queries", memory_mean=np.zeros(8))


def test_a_memory_without_its_mean_can_be_pickled(tmp_path: Path, random_vectors: Make) -> None:
    centred = memory_of(tmp_path / "m", random_vectors(60, 8)).centred()
    query = random_vectors(1, 8, 3)
    again = pickle.loads(pickle.dumps(centred)).search_vectors(query, k=5)
    assert np.array_equal(again.distances, centred.search_vectors(query, k=5).distances)
