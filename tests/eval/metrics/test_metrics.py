"""Figures against small cases counted by hand."""

from dataclasses import replace

import numpy as np
import pytest

from eval.metrics.intervals import bootstrap_interval, calibrate, wilson_interval
from eval.metrics.rerank import sum_spending
from eval.metrics.votes import compute_metrics, is_right, measure
from eval.types import Names, Outcome, QueryResults, Run, RunError, RunInfo
from retrieval.voting import encode_labels


def results(truths: list[set[str]], labels: list[list[str]]) -> QueryResults:
    shape = np.array(labels, object).shape
    return QueryResults(
        ids=[str(n) for n in range(len(truths))],
        truths=[frozenset(truth) for truth in truths],
        neighbor_ids=Names(np.zeros(shape, int), ["n"]),
        neighbor_labels=Names(*encode_labels(np.array(labels, object))),
        neighbor_distances=np.tile(np.linspace(0.1, 0.5, shape[1], dtype=np.float32), (shape[0], 1)),
        unreadable={"u": "torn"},
    )


def test_every_figure_of_a_case_counted_by_hand() -> None:
    three = results([{"a"}, {"b"}, {"z"}], [["a", "b", "b"], ["a", "a", "b"], ["a", "b", "b"]])
    figures = compute_metrics(three, absent=["z"])
    assert (figures.count, figures.unreadable, figures.labels_not_in_memory) == (3, 1, ["z"])
    # Rank weights 1/2, 1/3, 1/4: "b" behind "a" gathers 7/12 and wins; one "a" more and it loses.
    assert figures.top1["rank"] == pytest.approx(0) and figures.top1_by_k["rank"] == pytest.approx(
        [100 / 3, 100 / 3, 0]
    )
    assert figures.hit_rate == pytest.approx(200 / 3)
    assert figures.per_class["a"] == {"count": 1, "rank": 0, "plurality": 0, "distance": 0, "softmax": 100}


def test_any_of_several_right_labels_counts() -> None:
    several = results([{"a", "b"}, {"c"}], [["b", "a"], ["b", "c"]])
    figures = compute_metrics(several)
    assert figures.top1_by_k["rank"] == [50, 50] and figures.hit_rate == 100
    right = is_right(np.array([[0, 1], [2, 2]]), np.array([[0, 1], [2, -1]]))
    assert right.tolist() == [[True, True], [True, True]]


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(0, 10, 0.0, 27.75), (10, 10, 72.25, 100.0), (50, 100, 40.38, 59.62), (81, 263, 25.53, 36.62)],
)
def test_wilson_intervals_agree_with_published_values(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=0.01)


def test_masked_scoring_gives_other_classes_no_vote_and_leaves_ranks_alone() -> None:
    labels = [["x", "x", "a", "b"], ["x", "b", "a", "a"], ["x", "x", "x", "x"]]
    figures = compute_metrics(results([{"a"}, {"a"}, {"a"}], labels), subset={"a", "b"}, excluded=4)
    assert figures.top1["rank"] == 0 and figures.masked_classes == 2 and figures.excluded == 4
    # Second query: 1/3 for "b", 1/4 + 1/5 for "a". The third has no neighbour that may vote.
    assert figures.masked and figures.masked["rank"] == pytest.approx(200 / 3)


def test_macro_accuracy_weighs_classes_and_not_queries() -> None:
    figures = compute_metrics(results([{"a"}, {"a"}, {"a"}, {"b"}], [["a"], ["a"], ["a"], ["a"]]))
    assert figures.top1["rank"] == 75 and figures.macro["rank"] == 50


def test_k_is_chosen_on_held_out_queries_and_on_the_scored_ones_only_by_name() -> None:
    nearest_is_right = results([{"a"}] * 4, [["a", "b", "b"]] * 4)
    third_is_right = results([{"b"}] * 4, [["a", "b", "b"]] * 4)
    run = Run(
        RunInfo(
            {},
            {
                "absent": {},
                "subsets": {},
                "excluded": {},
                "queries": {"scored": 9, "held-out": 4},
                "datasets": {"scored": "/a", "held-out": "/b"},
            },
        ),
        {"scored": third_is_right, "held-out": nearest_is_right},
    )
    held_out = measure(run, choose_k_on="held-out")["scored"].chosen
    assert held_out and (held_out.k, held_out.top1["rank"], held_out.optimistic) == (1, 0, False)
    own = measure(run, choose_k_on="test")["scored"].chosen
    assert own and (own.k, own.top1["rank"], own.optimistic) == (3, 100, True)
    assert measure(run)["scored"].chosen is None and measure(run)["scored"].missing == 4
    run.info.about["datasets"]["held-out"] = "/a"  # as ImageNet's validation set and ReaL are the same pictures
    same = measure(run, choose_k_on="held-out")["scored"].chosen
    assert same and same.optimistic
    with pytest.raises(RunError, match="--choose-k-on 'x': test or one of scored, held-out expected"):
        measure(run, choose_k_on="x")


def test_a_confidence_that_tells_the_truth_has_no_calibration_error() -> None:
    honest = calibrate(np.array([0.8] * 10 + [0.2] * 10), np.array([True] * 8 + [False] * 2 + [True] * 2 + [False] * 8))
    boastful = calibrate(np.ones(4), np.array([True, False, False, False]))
    assert honest.ece == pytest.approx(0) and boastful.ece == pytest.approx(75)
    assert sum(honest.counts) == 20 and boastful.accuracy[-1] == 25 and boastful.confidence[0] is None


def test_a_bootstrap_interval_agrees_with_resampling_queries_one_by_one() -> None:
    right = np.arange(200) < 130
    draws = np.random.default_rng(1).choice(right, (4000, 200)).mean(axis=1)
    assert bootstrap_interval(130, 200) == pytest.approx(tuple(100 * np.quantile(draws, (0.025, 0.975))), abs=0.6)


def outcome(label: str, code: str = "reranked", **others: object) -> Outcome:
    defaults: dict[str, object] = {"prompt_tokens": 10, "cached_tokens": 0, "reply_tokens": 1, "calls": 1}
    defaults |= {"calls_saved": 0, "cost": 0.5, "full_cost": 0.5, "seconds": (1.0,), "confidence": 0.9}
    return Outcome(label=label, answer=label, reason=f"{code}: words", **(defaults | others))  # type: ignore[arg-type]


def test_failures_and_foreign_replies_are_counted_apart_and_the_ceiling_is_the_hit_rate() -> None:
    outcomes = [outcome("a"), outcome("b", "timed_out"), outcome("b", "unusable_reply"), outcome("b", "none_of_these")]
    votes = [["b", "a", "b"], ["b", "a", "b"], ["b", "b", "b"], ["b", "b", "b"]]
    rerank = compute_metrics(replace(results([{"a"}, {"a"}, {"b"}, {"b"}], votes), outcomes=outcomes)).rerank
    assert rerank and (rerank.vote_top1, rerank.top1, rerank.efficiency) == (50, 75, 0.5)
    assert (rerank.fixed, rerank.broken, rerank.unchanged_right, rerank.unchanged_wrong) == (1, 0, 2, 1)
    assert (rerank.out_of_candidates, rerank.errors) == (1, 1)
    assert rerank.calibration and sum(rerank.calibration.counts) == 1  # of answers that the model itself gave


def test_a_gates_curve_runs_from_the_vote_to_the_run_and_adds_up_what_queries_cost() -> None:
    votes = [["b", "a"], ["b", "b"], ["b", "a"]]  # the margin of the second is 1, of the others 0.2
    outcomes = [outcome("a"), outcome("a"), outcome("b", full_cost=0.25)]
    rerank = compute_metrics(replace(results([{"a"}, {"a"}, {"b"}], votes), outcomes=outcomes)).rerank
    assert rerank and rerank.gate.asked == pytest.approx([0, 200 / 3, 100])
    assert rerank.gate.top1 == pytest.approx([100 / 3, 200 / 3, 100]) and rerank.gate.cost == [0, 0.75, 1.25]
    assert rerank.gate.margin == pytest.approx([0, 1.0, 1.01])


def test_latency_is_told_by_percentiles_of_the_calls_that_were_made() -> None:
    spent = sum_spending([outcome("a", seconds=(float(n),)) for n in range(101)] + [outcome("a", seconds=())])
    assert spent.seconds == {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "max": 100.0}
    assert spent.calls == 102 and spent.cost == 51.0
    assert sum_spending([outcome("a", cost=None, seconds=())]).cost is None
