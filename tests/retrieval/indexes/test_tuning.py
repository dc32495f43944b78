"""The cheapest plan is that which looks far only for the queries that need it."""

import numpy as np
import pytest

from retrieval.indexes.plans import NEIGHBORS, RECALLS, Effort, Plan, cheapest_plans

LEAVES, ITEMS, QUERIES = 1000, 250_000, 1000
HARD = np.arange(QUERIES) % 20 == 0


def finds(easy: int, hard: int, *, far: float = 0.5) -> list[Plan]:
    """Return plans for queries that find their neighbours first of all, in so many leaves and no fewer."""

    def search(effort: Effort) -> tuple[np.ndarray, np.ndarray]:
        enough = effort.leaves >= np.where(HARD, hard, easy)
        right = np.zeros((QUERIES, effort.candidates), bool)
        right[:, :NEIGHBORS] = enough[:, None]
        distances = np.where(HARD, far, 0.2)[:, None] + np.linspace(0, 0.01, effort.candidates)
        return right, distances.astype(np.float32)

    return cheapest_plans(search, items=ITEMS, leaves=LEAVES)


def test_few_leaves_are_enough_for_easy_queries_and_the_far_ones_are_asked_again() -> None:
    plan = finds(10, 400)[-1]
    assert plan.first.leaves == 10 and 400 <= plan.second.leaves < 500
    assert 0.2 < plan.beyond < 0.5


def test_queries_that_cannot_be_told_apart_are_all_asked_once() -> None:
    plan = finds(10, 400, far=0.2)[-1]
    assert plan.first.leaves >= 400


def test_a_recall_that_nothing_reaches_is_given_all_there_is() -> None:
    plan = finds(LEAVES + 1, LEAVES + 1)[-1]
    assert plan.first.leaves == LEAVES


def test_there_is_a_plan_for_each_thousandth_from_nine_tenths_and_for_half_of_the_last() -> None:
    assert RECALLS[0] == 0.9 and RECALLS[-2:] == (0.999, 0.9995) and len(RECALLS) == len(finds(10, 400)) == 101
    assert finds(10, 400)[RECALLS.index(0.9)].second.leaves < 400  # of twenty queries nineteen are easy


@pytest.mark.parametrize("k", [1, 10, 50])
def test_fewer_neighbours_take_no_less_effort(k: int) -> None:
    plan = Plan(Effort(4, 100), 0.3, Effort(40, 300))
    assert plan.for_neighbors(k) == plan


def test_more_neighbours_are_looked_for_as_those_of_far_queries_are() -> None:
    assert Plan(Effort(4, 100), 0.3, Effort(40, 300)).for_neighbors(100).first == Effort(80, 600)
