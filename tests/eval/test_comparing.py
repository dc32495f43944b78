"""Comparisons of runs against cases counted by hand and against plainer computations."""

from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import binomtest

from eval.comparing import Comparison, PairedFigures, compare_runs, compare_with_vote, conclude, format_difference
from eval.metrics.intervals import Adjusted, holm, mcnemar_p, paired_interval, sign_flip_p, wilson_interval
from eval.types import Names, Outcome, QueryResults, Run, RunError, RunInfo
from tests.eval.made_runs import answers

TRUTH = frozenset({"t"})


def results(
    answers: Sequence[str],
    *,
    ids: Sequence[str] | None = None,
    truths: Sequence[frozenset[str]] | None = None,
    asked: Sequence[str] | None = None,
) -> QueryResults:
    """Return queries with one neighbour each, which has the given label; ``asked`` is what a model made of them."""
    names = sorted(set(answers))
    codes = np.array([[names.index(answer)] for answer in answers], np.int32).reshape(-1, 1)
    return QueryResults(
        ids=list(ids or map(str, range(len(answers)))),
        truths=list(truths or [TRUTH] * len(answers)),
        neighbor_ids=Names(np.zeros_like(codes), ["n"]),
        neighbor_labels=Names(codes, names),
        neighbor_distances=np.zeros(codes.shape, np.float32),
        unreadable={},
        outcomes=None if asked is None else [outcome(label) for label in asked],
    )


def outcome(label: str) -> Outcome:
    return Outcome(label, label, "reranked: ", 0.9, 1, 0, 1, 1, 0, 0.0, 0.0, (0.1,))


def run(settings: dict[str, object] | None = None, *, place: str = "", **datasets: QueryResults) -> Run:
    about = {"datasets": dict.fromkeys(datasets, place), "queries": {name: len(d) for name, d in datasets.items()}}
    return Run(RunInfo(settings or {}, about), datasets)


def compared(before: Run, after: Run) -> Comparison:
    return compare_runs([("before", before), ("after", after)])


def test_figures_of_a_case_counted_by_hand() -> None:
    before = run(q=results(["t", "t", "w", "w", "w", "t"]))
    after = run(q=results(["t", "w", "t", "t", "v", "t"]))
    (other,) = compared(before, after).others
    (dataset,) = other.datasets
    figures = dataset.figures
    assert (figures.count, figures.fixed, figures.broken) == (6, 2, 1)
    assert (figures.before, figures.after) == pytest.approx((50, 400 / 6))
    assert figures.before_interval == wilson_interval(3, 6) and figures.after_interval == wilson_interval(4, 6)
    assert figures.difference == pytest.approx(100 / 6) and figures.discordant == 50
    assert figures.p == pytest.approx(1.0) and other.overall == figures
    flips = [(flip.id, flip.before, flip.after, flip.kind) for flip in dataset.flips]
    assert flips == [
        ("1", "t", "w", "broken"),
        ("2", "w", "t", "fixed"),
        ("3", "w", "t", "fixed"),
        ("4", "w", "v", "wrong either way"),
    ]


def test_queries_are_paired_by_id_whatever_their_order() -> None:
    before = run(q=results(["t", "w", "w"], ids=["a", "b", "only before"]))
    after = run(q=results(["t", "w", "t", "t"], ids=["new", "a", "b", "newer"]))
    (dataset,) = compared(before, after).others[0].datasets
    assert (dataset.only_before, dataset.only_after, dataset.figures.count) == (1, 2, 2)
    assert [(flip.id, flip.kind, flip.before_row, flip.after_row) for flip in dataset.flips] == [
        ("a", "broken", 0, 1),
        ("b", "fixed", 1, 2),
    ]


def test_another_right_answer_is_a_flip_of_its_own_kind() -> None:
    two = [frozenset({"t", "u"})]
    (dataset,) = compared(run(q=results(["t"], truths=two)), run(q=results(["u"], truths=two))).others[0].datasets
    assert dataset.flips[0].kind == "right either way" and dataset.classes == []


def test_one_id_with_other_right_labels_is_refused() -> None:
    other = run(q=results(["t"], truths=[frozenset({"u"})]))
    with pytest.raises(RunError, match=r"q is another data set in after: there \['u'\] is right for '0'"):
        compared(run(q=results(["t"])), other)


def test_data_sets_without_a_shared_query_are_named() -> None:
    before = run(q=results(["t"]), other=results(["t"], ids=["a"]), mine=results(["t"]))
    after = run(q=results(["w"]), other=results(["t"], ids=["b"]), yours=results(["t"]))
    other = compared(before, after).others[0]
    assert other.missing == ["mine", "other", "yours"] and other.overall.count == 1


@pytest.mark.parametrize("other", [run(p=results(["t"])), run(q=results(["t"], ids=["else"])), run()])
def test_runs_that_share_no_query_are_refused(other: Run) -> None:
    with pytest.raises(RunError, match="before and after share no query"):
        compared(run(q=results(["t"])), other)


def test_the_exact_test_is_a_binomial_test_on_the_changed_queries() -> None:
    fixed, broken = np.array([0, 0, 3, 10, 25, 7, 1]), np.array([0, 1, 3, 2, 40, 0, 0])
    plain = [binomtest(int(f), int(f + b)).pvalue if f + b else 1.0 for f, b in zip(fixed, broken, strict=True)]
    assert mcnemar_p(fixed, broken) == pytest.approx(plain)


def test_the_interval_is_that_of_queries_drawn_anew() -> None:
    rng = np.random.default_rng(1)
    change = rng.choice([-1, 0, 1], p=[0.05, 0.8, 0.15], size=400)
    drawn = np.array([change[rng.integers(0, 400, 400)].mean() for _ in range(10_000)])
    counts = np.bincount(change + 1, minlength=3)[None]
    plain = 100 * np.quantile(drawn, (0.025, 0.975))
    test = Adjusted(p=0.01, adjusted=0.01, alpha=0.05)
    assert paired_interval(counts, queries=400, test=test) == pytest.approx(tuple(plain), abs=0.4)


def test_strata_keep_their_sizes_when_drawn_anew() -> None:
    separate = np.array([[0, 0, 50], [50, 0, 0]])  # one data set all fixed, one all broken: nothing is left to chance
    test = Adjusted(p=1.0, adjusted=1.0, alpha=0.05)
    assert paired_interval(separate, queries=100, test=test) == (0, 0)
    low, high = paired_interval(separate.sum(axis=0, keepdims=True), queries=100, test=test)
    assert low < -15 and high > 15


def test_pictures_in_several_data_sets_are_tested_as_one() -> None:
    once = run(q=results(answers(right=90, wrong=10))), run(q=results(answers(right=98, wrong=2)))
    elsewhere = tuple(run(q=one.results["q"], other=one.results["q"]) for one in once)
    twice = tuple(run(q=one.results["q"], again=one.results["q"], place="/val") for one in once)
    alone, other, repeated = (compared(*pair).others[0] for pair in (once, elsewhere, twice))
    assert (alone.repeated, other.repeated, repeated.repeated) == (0, 0, 100)
    assert other.overall.p < alone.overall.p  # the same names in other folders are other pictures
    assert repeated.overall.count == 200 and repeated.overall.fixed == 16
    assert repeated.overall.p == pytest.approx(alone.overall.p)
    assert repeated.overall.difference_interval == pytest.approx(alone.overall.difference_interval, abs=0.6)
    assert repeated.overall.after_interval == alone.overall.after_interval


def test_changes_of_several_sizes_are_tested_by_every_way_to_turn_their_signs() -> None:
    counts = np.array([2, 1, 5, 3, 4])  # changes of -2, -1, 0, 1, 2
    sizes = np.repeat([1, 2], [4, 6])
    signs = 1 - 2 * ((np.arange(2**10)[:, None] >> np.arange(10)) & 1)
    plain = (np.abs(signs @ sizes) >= 6).mean()
    assert sign_flip_p(counts) == pytest.approx(plain)
    assert sign_flip_p(np.array([100_000, 0, 0, 0, 101_000])) == pytest.approx(
        float(mcnemar_p(np.array([101_000]), np.array([100_000]))[0]), rel=1e-6
    )


@pytest.mark.parametrize("seed", range(3))
def test_an_interval_leaves_out_0_where_and_only_where_the_adjusted_test_tells_a_difference(seed: int) -> None:
    draw = np.random.default_rng(seed)
    changes = [np.array([draw.integers(0, 30), 500, draw.integers(0, 30)]) for _ in range(60)]
    told = 0
    for start in range(0, 60, 4):  # families of four
        family = changes[start : start + 4]
        for counts, test in zip(family, holm([sign_flip_p(counts) for counts in family]), strict=True):
            low, high = paired_interval(counts[None], queries=560, test=test)
            assert (low > 0 or high < 0) == (test.adjusted < 0.05)
            assert low <= 100 * (counts[2] - counts[0]) / 560 <= high
            told += test.is_told
    assert 10 < told < 50


def test_a_conclusion_and_its_interval_agree_beside_other_runs() -> None:
    """8 of 100 queries fixed and none broken: p is 0.008 alone, and adjusted 0.078 beside nine other runs."""
    base, better = run(q=results(answers(right=50, wrong=50))), run(q=results(answers(right=58, wrong=42)))
    alone = compare_runs([("base", base), ("better", better)])
    beside = compare_runs([("base", base), ("better", better), *((f"same {n}", base) for n in range(9))])
    assert conclude(alone.before, alone.others[0]).startswith(
        "better is better than base by 8.0 points, 95 % interval 3.0"
    )
    said = conclude(beside.before, beside.others[0])
    assert said.startswith("No difference between better and base can be told") and "interval 0.0 to 16.0" in said


def test_p_is_adjusted_for_every_data_set_and_run() -> None:
    tests = holm([0.01, 0.04, 0.03, 0.9])
    assert [test.adjusted for test in tests] == pytest.approx([0.04, 0.09, 0.09, 0.9])
    assert [test.alpha for test in tests] == pytest.approx([0.05 / 4, 0.05 / 2, 0.05 / 3, 0.05])
    assert holm([]) == []
    base = run(a=results(answers(right=50, wrong=50)), b=results(answers(right=50, wrong=50)))
    better = run(a=results(answers(right=58, wrong=42)), b=results(answers(right=50, wrong=50)))
    two = compare_runs([("base", base), ("better", better), ("again", better)])
    p = 2 / 2**8
    assert two.others[1].datasets[0].figures.p == pytest.approx(p)
    assert two.others[1].datasets[0].figures.adjusted == pytest.approx(4 * p)  # the family is 2 data sets × 2 runs


def test_classes_are_listed_by_how_far_they_moved() -> None:
    truths = [frozenset({name}) for name in ["cat"] * 12 + ["dog"] * 6 + ["emu"] * 5]
    before = run(q=results(["cat"] * 2 + ["w"] * 10 + ["dog"] * 6 + ["emu"] * 5, truths=truths))
    after = run(q=results(["cat"] * 12 + ["dog"] * 4 + ["w"] * 2 + ["emu"] * 5, truths=truths))
    cat, dog = compared(before, after).others[0].datasets[0].classes
    assert (cat.label, cat.count, cat.fixed, cat.broken, cat.net) == ("cat", 12, 10, 0, 10)
    assert (dog.label, dog.net, dog.p) == ("dog", -2, 0.5)
    assert cat.p == pytest.approx(2 / 2**10) and cat.q == pytest.approx(4 / 2**10) and dog.q == 0.5


def test_a_run_is_compared_with_its_own_vote() -> None:
    both = compare_with_vote("run", run(q=results(["w", "w", "t"], asked=["t", "w", "t"])))
    assert (both.before.name, both.before.vote, both.others[0].after.name) == ("run (vote)", True, "run")
    assert both.others[0].overall.fixed == 1
    with pytest.raises(RunError, match="run asked no model"):
        compare_with_vote("run", run(q=results(["t"])))


def test_what_differs_between_runs_is_kept() -> None:
    before = run({"k": 10, "centre": ""}, q=results(["t"]))
    after = run({"k": 50, "centre": "queries", "rerank": {"model": "m"}}, q=results(["t"]))
    other = compared(before, after).others[0]
    assert other.changed == {"k": (10, 50), "centre": ("", "queries"), "rerank": (None, {"model": "m"})}
    parts = compared(
        run({"memory": {"id": "m", "version": 1}}, q=results(["t"])), run({"memory": {"id": "m"}}, q=results(["t"]))
    )
    assert parts.others[0].changed == {"memory version": (1, None)}
    assert other.after.centred == "queries"


def conclusion(before: Sequence[str], after: Sequence[str]) -> str:
    comparison = compared(run(q=results(before)), run(q=results(after)))
    return conclude(comparison.before, comparison.others[0])


def test_the_conclusion_says_who_is_better_and_how_sure_that_is() -> None:
    half, more = answers(right=500, wrong=500), answers(right=520, wrong=480)
    said = "2.0 points, 95 % interval 1.2 to 2.9, p < 0.001 on 1,000 queries."
    assert conclusion(half, more) == f"after is better than before by {said}"
    assert conclusion(more, half) == f"after is worse than before by {said}"


def test_an_open_comparison_says_how_many_queries_would_close_it() -> None:
    text = conclusion(["t"] * 90 + ["w"] * 10, ["w"] * 5 + ["t"] * 95)
    assert "No difference between after and before can be told on 100 queries (5.0 points" in text
    assert "to tell 1 point you would need about 12,000 queries" in text
    assert (
        conclusion(["t", "w"], ["t", "w"])
        == "after and before are right on the same queries: none of 2 tells them apart."
    )
    few = conclusion(answers(right=500, wrong=500), answers(right=503, wrong=497))
    assert "differ in being right on 0.3 % of the queries only, too few for 1 point" in few


def test_two_hundred_thousand_queries_are_compared() -> None:
    rng = np.random.default_rng(0)
    labels = np.array([f"class {number}" for number in range(1000)])
    truths = [frozenset({label}) for label in rng.choice(labels, 200_000).tolist()]
    runs = []
    for seed in (1, 2):
        guess = np.random.default_rng(seed).random(200_000) < 0.2
        codes = rng.integers(0, 1000, 200_000)
        codes[~guess] = [int(next(iter(truth))[6:]) for truth, wrong in zip(truths, guess, strict=True) if not wrong]
        found = QueryResults(
            ids=[f"folder/{number}.jpeg" for number in range(200_000)],
            truths=truths,
            neighbor_ids=Names(codes[:, None], labels.tolist()),
            neighbor_labels=Names(codes[:, None], labels.tolist()),
            neighbor_distances=np.zeros((200_000, 1), np.float32),
            unreadable={},
        )
        runs.append((str(seed), run(q=found)))
    dataset = compare_runs(runs).others[0].datasets[0]
    assert len(dataset.flips) > 60_000 and len(dataset.classes) == 1000


@pytest.mark.parametrize(
    ("difference", "interval", "said"),
    [
        (1.24, (0.26, 2.1), ("+1.2", "0.3 to 2.1")),
        (0.05, (0.0, 0.1), ("+0.05", "0.00 to 0.10")),
        (0.012, (0.004, 0.02), ("+0.012", "0.004 to 0.020")),  # a query of 25,000 is told, and not shown as 0
        (0.0, (-1e-15, 1e-15), ("+0.0", "-0.0 to 0.0")),
    ],
)
def test_no_difference_is_rounded_to_none(
    difference: float, interval: tuple[float, float], said: tuple[str, str]
) -> None:
    figures = PairedFigures(9, 1.0, (0.0, 1.0), 1.0, (0.0, 1.0), difference, interval, 1, 1, 1.0, 1.0)
    assert format_difference(figures) == said
