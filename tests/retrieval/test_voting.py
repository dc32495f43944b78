"""Voting against a plain sequential count written from the paper's text (section 2.2)."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from retrieval.errors import InvalidArgument
from retrieval.types import Votes
from retrieval.voting import METHODS, count_votes, encode_labels, heaviest_labels, neighbor_weights, predict_every_k


def sequential_winners(labels: list[Any], distances: list[float], method: str) -> list[Any]:
    """Walk outwards; after each neighbour the heaviest label leads, and who reached its weight first keeps a tie."""
    weigh: Callable[[int, float], float] = {
        "plurality": lambda rank, distance: 1.0,
        "distance": lambda rank, distance: math.exp(-distance),
        "softmax": lambda rank, distance: math.exp((1 - distance) / 0.07),
        "rank": lambda rank, distance: 1 / (2 + rank),
    }[method]
    gathered: dict[Any, float] = {}
    winners: list[Any] = []
    for rank, (label, distance) in enumerate(zip(labels, distances, strict=True)):
        gathered[label] = gathered.get(label, 0.0) + weigh(rank, distance)
        if not winners or gathered[label] > gathered[winners[-1]]:
            winners.append(label)
        else:
            winners.append(winners[-1])
    return winners


@pytest.mark.parametrize("method", METHODS)
def test_agrees_with_a_sequential_count_on_10000_cases_with_ties_for_every_k(method: str) -> None:
    draw = np.random.default_rng(7)
    labels = draw.integers(0, 4, size=(10_000, 20))
    # Few distinct distances, so that weights tie in every method.
    distances = np.sort(draw.choice([0.0, 0.25, 0.5], size=labels.shape), axis=1)
    winners = predict_every_k(labels, distances, method=method)
    expected = [sequential_winners(*row, method) for row in zip(labels.tolist(), distances.tolist(), strict=True)]
    assert winners.tolist() == expected


@pytest.mark.parametrize("method", METHODS)
def test_the_last_column_is_the_winner_of_the_counted_votes(method: str) -> None:
    draw = np.random.default_rng(8)
    labels = draw.integers(0, 5, size=(500, 12))
    distances = np.sort(draw.choice([0.0, 0.5, 1.0], size=labels.shape), axis=1)
    winners = predict_every_k(labels, distances, method=method)[:, -1]
    assert [votes.winner for votes in count_votes(labels, distances, method=method)] == winners.tolist()


def test_rank_weights_are_one_over_two_plus_rank() -> None:
    assert neighbor_weights(np.zeros((1, 4)), "rank").tolist() == [[1 / 2, 1 / 3, 1 / 4, 1 / 5]]


def test_a_tie_goes_to_the_label_that_reached_the_weight_first() -> None:
    labels = np.array([["b", "a", "a", "b"]], object)
    assert predict_every_k(labels, np.zeros((1, 4)), method="plurality").tolist() == [["b", "b", "a", "a"]]


def test_zero_and_the_empty_text_are_labels_like_others() -> None:
    labels = np.array([[0, "", "", 0, 0]], object)
    assert predict_every_k(labels, np.zeros((1, 5)), method="plurality").tolist() == [[0, 0, "", "", 0]]


def test_labels_of_mixed_types_keep_apart() -> None:
    labels = np.array([["1", 1, None, "1", None]], object)
    codes, vocabulary = encode_labels(labels)
    assert codes.tolist() == [[0, 1, 2, 0, 2]] and vocabulary == ["1", 1, None]
    assert predict_every_k(labels, np.zeros((1, 5)), method="plurality").tolist() == [["1", "1", "1", "1", "1"]]


@pytest.mark.parametrize("labels", [[0, 2**60, 2**60], ["a", b"a", b"a"], [2**70, "\udce9", "\udce9"], [-1, 3, 3]])
def test_labels_that_are_not_equal_never_share_their_votes(labels: list[Any]) -> None:
    row = np.empty((1, 3), object)
    row[0] = labels
    winners = predict_every_k(
        np.array([labels]) if type(labels[1]) is int else row, np.zeros((1, 3)), method="plurality"
    )
    assert winners.tolist() == [[labels[0], labels[0], labels[1]]]


def test_votes_are_heaviest_first_and_their_shares_add_up() -> None:
    (votes,) = count_votes(np.array([["x", "y", "y"]], object), np.zeros((1, 3)), method="rank")
    assert votes == Votes(("y", "x"), (1 / 3 + 1 / 4, 1 / 2))
    assert sum(votes.shares) == pytest.approx(1.0)


def test_an_unknown_method_is_refused_by_name() -> None:
    with pytest.raises(InvalidArgument, match="no voting method 'loudest': choose one of rank"):
        predict_every_k(np.array([[1]]), np.zeros((1, 1)), method="loudest")


@pytest.mark.parametrize("method", METHODS)
def test_an_unreliable_neighbour_has_part_of_its_weight_at_its_own_rank(method: str) -> None:
    draw = np.random.default_rng(9)
    labels, factors = draw.integers(0, 4, size=(300, 9)), draw.uniform(0.01, 1.0, (300, 9))
    distances = np.sort(draw.uniform(0.1, 0.9, labels.shape), axis=1)
    weights = neighbor_weights(distances, method) * factors
    totals = np.stack([np.where(labels == label, weights, 0.0).sum(axis=1) for label in range(4)], axis=1)
    winners = totals.argmax(axis=1).tolist()
    assert predict_every_k(labels, distances, method=method, factors=factors)[:, -1].tolist() == winners
    counted = count_votes(labels, distances, method=method, factors=factors)
    assert [votes.winner for votes in counted] == winners
    heaviest, shares = heaviest_labels(labels, distances, count=2, method=method, factors=factors)
    assert heaviest[:, 0].tolist() == winners
    assert np.allclose(shares[:, 0], totals.max(axis=1) / totals.sum(axis=1))


def test_a_label_without_a_vote_is_no_answer_and_has_no_share() -> None:
    labels, distances, nobody = np.array([[1, 0]]), np.zeros((1, 2)), np.zeros((1, 2))
    heaviest, shares = heaviest_labels(labels, distances, count=1, factors=nobody)
    assert (heaviest.tolist(), shares.tolist()) == ([[-1]], [[0.0]])
    assert count_votes(labels, distances, factors=nobody)[0].shares == (0.0, 0.0)
