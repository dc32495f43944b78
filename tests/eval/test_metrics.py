"""Figures against small cases counted by hand."""

import numpy as np
import pytest

from eval.metrics import compute_metrics, is_right, wilson_interval
from eval.types import QueryResults


def results(truths: list[set[str]], labels: list[list[str]]) -> QueryResults:
    shape = np.array(labels, object).shape
    return QueryResults(
        ids=[str(n) for n in range(len(truths))],
        truths=[frozenset(truth) for truth in truths],
        neighbor_ids=np.full(shape, "n", object),
        neighbor_labels=np.array(labels, object),
        neighbor_distances=np.tile(np.linspace(0.1, 0.5, shape[1], dtype=np.float32), (shape[0], 1)),
        unreadable={"u": "torn"},
    )


def test_every_figure_of_a_case_counted_by_hand() -> None:
    three = results([{"a"}, {"b"}, {"z"}], [["a", "b", "b"], ["a", "a", "b"], ["a", "b", "b"]])
    figures = compute_metrics(three, known_labels=["a", "b"])
    assert (figures.count, figures.unreadable, figures.labels_not_in_memory) == (3, 1, ["z"])
    # Rank weights 1/2, 1/3, 1/4: "b" behind "a" gathers 7/12 and wins; one "a" more and it loses.
    assert figures.top1["rank"] == pytest.approx(0) and figures.top1_by_k["rank"] == pytest.approx(
        [100 / 3, 100 / 3, 0]
    )
    assert figures.hit_rate == pytest.approx(200 / 3)
    assert figures.per_class["a"] == {"count": 1, "rank": 0, "plurality": 0, "distance": 0, "softmax": 100}


def test_any_of_several_right_labels_counts() -> None:
    several = results([{"a", "b"}, {"c"}], [["b", "a"], ["b", "c"]])
    figures = compute_metrics(several, known_labels="abc")
    assert figures.top1_by_k["rank"] == [50, 50] and figures.hit_rate == 100
    right = is_right(np.array([[0, 1], [2, 2]]), np.array([[0, 1], [2, -1]]))
    assert right.tolist() == [[True, True], [True, True]]


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(0, 10, 0.0, 27.75), (10, 10, 72.25, 100.0), (50, 100, 40.38, 59.62), (81, 263, 25.53, 36.62)],
)
def test_wilson_intervals_agree_with_published_values(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=0.01)
