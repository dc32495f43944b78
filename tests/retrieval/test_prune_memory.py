"""Pruning a memory: what is written, what it does to votes, and what a second pruning sees."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from retrieval import VisualMemory
from retrieval.curation.prune_memory import prune
from retrieval.curation.pruning import count_self_votes, reliability
from retrieval.embedders.base import foreign_vectors
from retrieval.errors import InvalidArgument

Make = Callable[[int, int], np.ndarray]


@pytest.fixture
def memory(tmp_path: Path, random_vectors: Make) -> VisualMemory:
    """Return a memory of 200 vectors in which every tenth label is wrong."""
    vectors = random_vectors(200, 16)
    labels = [f"c{code}" for code in (vectors @ random_vectors(4, 16).T).argmax(axis=1)]
    labels = ["wrong" if row % 10 == 0 else label for row, label in enumerate(labels)]
    made = VisualMemory.create(tmp_path / "m", embedder=foreign_vectors("test", 16))
    made.add_vectors([f"id{row}" for row in range(200)], labels, vectors)
    return made


def test_soft_pruning_gives_each_item_the_papers_factor(memory: VisualMemory) -> None:
    snapshot = memory.snapshot()
    codes = np.unique(snapshot.labels.astype(str), return_inverse=True)[1]

    def search(vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        found = snapshot.search(vectors, k)
        return found.rows, found.distances

    hurt = count_self_votes(snapshot.vectors(), codes, search, k=20).hurt
    found = prune(memory, neighbors=20)
    assert found.ledger.hurt.tolist() == hurt.tolist()
    near = memory.search_vectors(snapshot.vectors()[:5], k=30)
    assert near.reliabilities is not None
    assert np.allclose(near.reliabilities, reliability(hurt)[near.rows])


def test_hard_pruning_leaves_items_out_of_every_answer(memory: VisualMemory) -> None:
    found = prune(memory, method="hard", neighbors=20, limit=12)
    gone = set(found.ids[found.reliability == 0].tolist())
    assert 0 < len(gone) == found.left_out < 200
    answered = memory.search_vectors(memory.snapshot().vectors(), k=50)
    assert not gone & set(answered.ids.ravel().tolist())


def test_pruning_twice_is_pruning_once(memory: VisualMemory) -> None:
    first = prune(memory, method="hard", neighbors=20, limit=12)
    second = prune(memory, method="hard", neighbors=20, limit=12)
    assert first.reliability.tolist() == second.reliability.tolist()


def test_a_dry_run_writes_nothing(memory: VisualMemory) -> None:
    before = memory.version
    found = prune(memory, neighbors=20, dry_run=True)
    assert (found.written, memory.version) == (False, before)
    assert memory.search_vectors(np.ones((1, 16)), k=200).reliabilities is None


def test_a_pruning_is_undone_as_if_it_had_never_been(memory: VisualMemory) -> None:
    before = memory.search_vectors(np.ones((1, 16)), k=200)
    prune(memory, method="hard", neighbors=20, limit=12)
    memory.set_reliability(None)
    after = memory.search_vectors(np.ones((1, 16)), k=200)
    assert after.ids.tolist() == before.ids.tolist()
    assert after.reliabilities is None


def test_the_worst_are_those_that_hurt_most(memory: VisualMemory) -> None:
    found = prune(memory, neighbors=20, dry_run=True)
    worst = found.worst(10)
    assert [one.hurt for one in worst] == sorted(found.ledger.hurt.tolist(), reverse=True)[:10]
    assert all(one.hurt > 0 for one in found.worst(200))
    assert found.weakened == len(found.worst(200))


def test_what_makes_no_sense_is_refused_before_anything_is_searched(memory: VisualMemory, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="no pruning method 'firm': choose one of soft, hard"):
        prune(memory, method="firm")
    with pytest.raises(InvalidArgument, match="above 0"):
        prune(memory, offset=0.0)
    with pytest.raises(InvalidArgument, match="a limit of 1 wrong votes leaves no item"):
        prune(memory, method="hard", limit=1, neighbors=199)
    empty = VisualMemory.create(tmp_path / "empty", embedder=foreign_vectors("test", 16))
    with pytest.raises(InvalidArgument, match="2 or more expected"):
        prune(empty)
