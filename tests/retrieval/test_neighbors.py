"""What a search returns: neighbours whose ids are looked up when they are asked for."""

import pickle
from pathlib import Path

import numpy as np

from retrieval import VisualMemory
from retrieval.embedders.base import foreign_vectors
from retrieval.types import Neighbors


def search(path: Path, k: int) -> Neighbors:
    """Return the neighbours of two of five vectors."""
    vectors = np.eye(5, 4, dtype=np.float32) + 0.1
    memory = VisualMemory.create(path, embedder=foreign_vectors("made", 4))
    memory.add_vectors([f"item {number}" for number in range(5)], list("aabbb"), vectors)
    found = memory.search_vectors(vectors[[0, 3]], k=k)
    memory.forget(ids=["item 0"])
    return found


def test_ids_are_those_of_the_version_that_was_searched(tmp_path: Path) -> None:
    assert search(tmp_path / "memory", 2).ids[:, 0].tolist() == ["item 0", "item 3"]


def test_the_nearest_of_them_keep_their_ids(tmp_path: Path) -> None:
    found = search(tmp_path / "memory", 3)
    assert np.array_equal(found.nearest(1).ids, found.ids[:, :1]) and found.nearest(1).k == 1


def test_pickled_neighbours_need_no_memory(tmp_path: Path) -> None:
    found = search(tmp_path / "memory", 3)
    copied = pickle.loads(pickle.dumps(found))
    assert list(copied) == list(found) and len(pickle.dumps(found)) < 3000
