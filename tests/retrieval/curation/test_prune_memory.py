"""Pruning a memory: what is written, what it does to votes, and what a second pruning sees."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval import VisualMemory
from retrieval.curation.pruning import count_self_votes, half_of_class, reliability
from retrieval.embedders import load_embedder
from retrieval.embedders.base import foreign_vectors
from retrieval.errors import InvalidArgument, PruningRefused
from tests.conftest import shared_data
from tests.own_items import own_accuracy

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

    hurt = count_self_votes(snapshot.vectors(), codes, search, k=20, within=half_of_class(codes)).hurt
    found = memory.prune(neighbors=20, many=True)
    assert found.ledger.hurt.tolist() == hurt.tolist()
    near = memory.search_vectors(snapshot.vectors()[:5], k=30)
    assert near.reliabilities is not None
    assert np.allclose(near.reliabilities, reliability(hurt)[near.rows])


def test_hard_pruning_leaves_items_out_of_every_answer(memory: VisualMemory) -> None:
    found = memory.prune(method="hard", neighbors=20, limit=12, many=True)
    gone = set(found.ids[found.reliability == 0].tolist())
    assert 0 < len(gone) == found.left_out < 200
    answered = memory.search_vectors(memory.snapshot().vectors(), k=50)
    assert not gone & set(answered.ids.ravel().tolist())


def test_pruning_twice_is_pruning_once(memory: VisualMemory) -> None:
    first = memory.prune(neighbors=20, many=True)
    second = memory.prune(neighbors=20, many=True)
    assert first.reliability.tolist() == second.reliability.tolist()
    assert (first.written, second.written) == (True, False)


def test_a_dry_run_writes_nothing(memory: VisualMemory) -> None:
    before = memory.version
    found = memory.prune(neighbors=20, dry_run=True)
    assert (found.written, memory.version) == (False, before)
    assert memory.search_vectors(np.ones((1, 16)), k=200).reliabilities is None


def test_a_pruning_is_undone_as_if_it_had_never_been(memory: VisualMemory) -> None:
    before = memory.search_vectors(np.ones((1, 16)), k=200)
    memory.prune(method="hard", neighbors=20, limit=12, many=True)
    memory.set_reliability(None)
    after = memory.search_vectors(np.ones((1, 16)), k=200)
    assert after.ids.tolist() == before.ids.tolist()
    assert after.reliabilities is None


def test_the_worst_are_those_that_hurt_most(memory: VisualMemory) -> None:
    found = memory.prune(neighbors=20, dry_run=True)
    worst = found.worst(10)
    assert [one.hurt for one in worst] == sorted(found.ledger.hurt.tolist(), reverse=True)[:10]
    assert all(one.hurt > 0 for one in found.worst(200))
    assert found.weakened == len(found.worst(200))


def test_what_makes_no_sense_is_refused_before_anything_is_searched(memory: VisualMemory, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="no pruning method 'firm': choose one of soft, hard"):
        memory.prune(method="firm")
    with pytest.raises(InvalidArgument, match="above 0"):
        memory.prune(offset=0.0)
    with pytest.raises(InvalidArgument, match="a limit of 1 wrong votes leaves no item"):
        memory.prune(method="hard", limit=1, neighbors=199, paper=True)
    empty = VisualMemory.create(tmp_path / "empty", embedder=foreign_vectors("test", 16))
    with pytest.raises(InvalidArgument, match="2 or more expected"):
        empty.prune()


def clustered(path: Path, *, noise: float, seed: int, each: int = 42) -> VisualMemory:
    """Return a memory of 12 classes, the larger the noise the more mixed."""
    draw = np.random.default_rng(seed)
    labels = np.repeat(np.arange(12), each)
    vectors = draw.normal(size=(12, 24))[labels] + noise * draw.normal(size=(len(labels), 24))
    made = VisualMemory.create(path, embedder=foreign_vectors("test", 24))
    made.add_vectors([f"id{row}" for row in range(len(labels))], [f"c{code}" for code in labels], vectors)
    return made


@pytest.mark.parametrize("noise, seed", [(0.9, 2), (1.1, 0), (1.6, 0)])
@pytest.mark.parametrize("setting", [{}, {"method": "hard", "limit": 40}, {"paper": True, "neighbors": 100}], ids=str)
def test_no_setting_makes_a_memory_worse_at_its_own_items(
    tmp_path: Path, noise: float, seed: int, setting: dict[str, Any]
) -> None:
    memory = clustered(tmp_path / "m", noise=noise, seed=seed, each=20)
    before, version = own_accuracy(memory), memory.version
    found = memory.prune(dry_run=True, **setting)
    assert found.before == pytest.approx(before)
    if found.is_worse:
        with pytest.raises(PruningRefused, match="right about fewer of its own items"):
            memory.prune(many=True, **setting)
        assert memory.version == version
    else:
        memory.prune(many=True, **setting)
        assert own_accuracy(memory) >= before


def test_an_item_is_not_judged_by_the_query_that_it_answers(tmp_path: Path) -> None:
    """With an accuracy in which it is, each pruning seems to help: each item has weakened the votes against it."""
    memory = clustered(tmp_path / "m", noise=1.6, seed=0)
    found = memory.prune(dry_run=True)
    memory.set_reliability(found.reliability)
    assert found.after < found.before < own_accuracy(memory)


def test_more_than_a_fifth_of_the_items_is_touched_only_where_it_was_allowed(tmp_path: Path) -> None:
    memory = clustered(tmp_path / "m", noise=0.9, seed=2)
    with pytest.raises(PruningRefused, match=r"159 of 504 items would count less, more than 20 %; if you want that"):
        memory.prune()
    assert memory.version == 2
    assert memory.prune(many=True).written


def test_classes_of_42_are_not_blamed_for_their_size(tmp_path: Path) -> None:
    memory = clustered(tmp_path / "m", noise=0.9, seed=2)
    assert memory.prune(neighbors=100, dry_run=True, paper=True).touched == 504
    assert memory.prune(neighbors=100, dry_run=True).touched < 350


def test_pruning_12_classes_of_42_photographs_makes_them_no_worse(tmp_path: Path) -> None:
    labels = sorted((shared_data("tiny-imagenet") / "train").iterdir())[::17][:12]
    files = [file for label in labels for file in sorted(label.rglob("*.JPEG"))[:42]]
    assert len(files) == 504
    memory = VisualMemory.create(tmp_path / "m", embedder=load_embedder("efficientnet-lite0"))
    memory.add([(file.name, file.name.partition("_")[0], file) for file in files])
    before = own_accuracy(memory)
    for setting in ({}, {"neighbors": 100}, {"method": "hard"}, {"method": "hard", "limit": 30}):
        try:
            memory.prune(many=True, **setting)
        except PruningRefused:
            pass
        assert own_accuracy(memory) >= before
