"""Reliability of items, against the paper's appendix I followed one item at a time."""

import numpy as np
import pytest

from retrieval.curation.pruning import (
    count_self_votes,
    count_votes,
    half_of_class,
    kept_items,
    leave_one_out,
    other_places,
    reliability,
)
from retrieval.errors import InvalidArgument
from retrieval.indexes.exact import ExactIndex


def clusters(items: int = 240, classes: int = 6) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(3)
    labels = draw.integers(classes, size=items)
    vectors = draw.normal(size=(classes, 12))[labels] + 1.2 * draw.normal(size=(items, 12))
    vectors[40:60], labels[40:50] = vectors[20:40], labels[20:30]  # the same pictures again, half under other labels
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), labels


def appendix_i(vectors: np.ndarray, labels: np.ndarray, k: int) -> tuple[list[int], list[int]]:
    """Query the memory with itself, one item after the other, and note who votes rightly and who wrongly."""
    helped, hurt = [0] * len(labels), [0] * len(labels)
    for query in range(len(labels)):
        others = [item for item in range(len(labels)) if item != query]
        similarity = np.einsum("nd,d->n", vectors[others], vectors[query])
        for place in sorted(range(len(others)), key=lambda place: -similarity[place])[:k]:
            item = others[place]
            if labels[item] == labels[query]:
                helped[item] += 1
            else:
                hurt[item] += 1
    return helped, hurt


@pytest.mark.parametrize("k", [1, 7, 100])
def test_votes_are_counted_as_one_by_one(k: int) -> None:
    vectors, labels = clusters()
    ledger = count_self_votes(vectors, labels, ExactIndex(vectors).search, k=k)
    helped, hurt = appendix_i(vectors, labels, k)
    assert ledger.helped.tolist() == helped
    assert ledger.hurt.tolist() == hurt


def test_every_item_gives_out_k_votes() -> None:
    vectors, labels = clusters()
    ledger = count_self_votes(vectors, labels, ExactIndex(vectors).search, k=9)
    assert (ledger.helped + ledger.hurt).sum() == 9 * len(labels)


def test_neighbours_beyond_half_of_a_class_are_not_blamed() -> None:
    """Two classes far apart: with more neighbours than a class has items, all hurt by its size alone."""
    vectors, labels = np.repeat(np.eye(2, dtype=np.float32), 5, axis=0), np.repeat([0, 1], 5)
    search = ExactIndex(vectors).search
    assert count_self_votes(vectors, labels, search, k=9).hurt.sum() == 50
    ledger = count_self_votes(vectors, labels, search, k=9, within=half_of_class(labels))
    assert (ledger.hurt.sum(), ledger.helped.sum()) == (0, 20)


def test_an_item_alone_in_its_class_blames_nobody() -> None:
    labels = np.array([0, 0, 0, 1])
    assert half_of_class(labels).tolist() == [1, 1, 1, 0]
    assert count_votes([(np.array([3]), np.array([[0, 1, 2]]))], labels, within=half_of_class(labels)).hurt.sum() == 0


@pytest.mark.parametrize("seed", range(3))
def test_leave_one_out_is_that_of_a_sequential_count(seed: int) -> None:
    vectors, labels = clusters(120)
    reliable = np.maximum(np.random.default_rng(seed).uniform(-0.5, 1.0, size=120), 0.0)
    asked = np.arange(3, 120, 2)
    right = []
    for item in asked:
        others = [other for other in range(120) if other != item and reliable[other] > 0]
        order = sorted(others, key=lambda other: -float(np.vecdot(vectors[other], vectors[item])))[:7]
        sums = np.zeros(6)
        np.add.at(sums, labels[order], [reliable[other] / (2 + rank) for rank, other in enumerate(order)])
        right.append(sums.argmax() == labels[item])
    assert leave_one_out(vectors, labels, asked, reliable, k=7).tolist() == right


def test_more_copies_than_neighbours_do_not_make_an_item_vote_for_itself() -> None:
    vectors, labels = np.ones((5, 1), np.float32), np.arange(5)
    ledger = count_self_votes(vectors, labels, ExactIndex(vectors).search, k=1)
    assert ledger.helped.sum() == 0  # every label is another one, so only an item itself could help
    assert ledger.hurt.sum() == 5


def test_k_beyond_the_memory_means_all_others() -> None:
    vectors, labels = clusters(60)
    ledger = count_self_votes(vectors, labels, ExactIndex(vectors).search, k=1000)
    assert (ledger.helped + ledger.hurt).tolist() == [59] * 60


def test_a_memory_of_one_item_has_no_votes() -> None:
    vectors = np.ones((1, 1), np.float32)
    ledger = count_self_votes(vectors, np.zeros(1, int), ExactIndex(vectors).search, k=10)
    assert ledger.hurt.tolist() == [0]


def test_an_item_is_left_out_wherever_it_stands() -> None:
    rows = np.array([[3, 1, 2], [1, 3, 2], [1, 2, 3], [1, 2, 0]])
    left = [row[others].tolist() for row, others in zip(rows, other_places(rows, np.full(4, 3)), strict=True)]
    assert left == [[1, 2]] * 4  # the last has not found itself: the farthest goes


def test_batches_add_up() -> None:
    labels = np.array([0, 0, 1])
    parts = [(np.array([0]), np.array([[1, 2]])), (np.array([1, 2]), np.array([[0, 2], [0, 1]]))]
    whole = [(np.array([0, 1, 2]), np.array([[1, 2], [0, 2], [0, 1]]))]
    assert count_votes(parts, labels).hurt.tolist() == count_votes(whole, labels).hurt.tolist() == [1, 1, 2]


def test_soft_weights_are_those_of_the_paper() -> None:
    gamma = reliability(np.array([0, 1, 10, 100]))
    assert gamma[0] == 1.0
    assert np.round(gamma[1:], 2).tolist() == [0.88, 0.16, 0.02]  # as appendix I states them


def test_hard_pruning_leaves_out_from_128_wrong_votes_on() -> None:
    assert kept_items(np.array([0, 127, 128, 500])).tolist() == [True, True, False, False]


def test_what_makes_no_sense_is_refused() -> None:
    vectors, labels = np.eye(3, dtype=np.float32), np.zeros(3, int)
    with pytest.raises(InvalidArgument, match="k=0"):
        count_self_votes(vectors, labels, ExactIndex(vectors).search, k=0)
    with pytest.raises(InvalidArgument, match="a limit of 0"):
        kept_items(labels, limit=0)
    with pytest.raises(InvalidArgument, match="above 0"):
        reliability(labels, offset=0.0)
