"""Analyses of neighbours, held against plain loops written from the paper's text."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest

from eval.experiments.aggregation import aggregation, hyperparameters
from eval.experiments.base import AGGREGATION, same_model, where
from eval.experiments.label_noise import corrupt, label_noise
from eval.experiments.reliability import calibration, detect, distances, fit_logarithm, hit_rate, reliability
from eval.types import Names, Neighborhoods
from retrieval.errors import InvalidArgument
from tests.eval.experiments.found import column, made_neighborhoods, plain_top1

WEIGHTS = {  # section 2.2
    "rank": lambda rank, distance: 1 / (2.0 + rank),
    "plurality": lambda rank, distance: 1.0,
    "distance": lambda rank, distance: math.exp(-distance),
    "softmax": lambda rank, distance: math.exp((1 - distance) / 0.07),
}


@pytest.fixture(scope="module")
def found() -> Neighborhoods:
    return made_neighborhoods()


@pytest.mark.parametrize("place, method", list(enumerate(WEIGHTS, start=1)))
def test_aggregation_counts_votes_as_a_plain_loop_does(found: Neighborhoods, place: int, method: str) -> None:
    rows = aggregation(found).rows
    plain = [plain_top1(found.results, WEIGHTS[method], k) for k in range(1, 21)]
    assert column(rows, place) == pytest.approx(plain)


def test_aggregation_has_the_papers_figures_beside_ours(found: Neighborhoods) -> None:
    told = aggregation(replace(found, embedder="clip-vitb16"))
    assert told.rows[9][5:] == (73.0, 72.8, 73.1, 73.3) and told.rows[8][5:] == (None,) * 4
    assert "CLIP ViT-B16" in told.notes[0]


def test_a_model_of_the_paper_is_known_by_any_spelling_and_others_stand_beside_its_main_one() -> None:
    assert same_model("dinov2_vits14") == "dinov2-vits14" and same_model("resnet50") == "dinov2-vitl14"
    assert [where(name)[-2] for name in AGGREGATION] == list("45678")


def test_hyperparameters_weigh_as_appendix_c_says(found: Neighborhoods) -> None:
    rows = hyperparameters(found, alphas=[0.5], xis=[3.0], taus=[0.2]).rows
    for (_, _, value, top1, k), weight in zip(
        rows,
        [
            lambda rank, distance: 1 / (0.5 + rank),
            lambda rank, distance: math.exp(-distance) ** 3,
            lambda rank, distance: math.exp((1 - distance) / 0.2),
        ],
        strict=True,
    ):
        plain = [plain_top1(found.results, weight, k) for k in range(1, 21)]
        assert top1 == pytest.approx(max(plain)) and k == plain.index(max(plain)) + 1, value


def test_a_tiny_temperature_leaves_the_nearest_neighbour_to_decide(found: Neighborhoods) -> None:
    (row,) = hyperparameters(found, alphas=[], xis=[], taus=[1e-9]).rows
    assert row[3] == pytest.approx(plain_top1(found.results, WEIGHTS["rank"], 1))


def test_a_hyperparameter_of_zero_is_refused(found: Neighborhoods) -> None:
    with pytest.raises(InvalidArgument, match="above 0"):
        hyperparameters(found, alphas=[0.0])


def test_reliability_counts_each_rank_for_itself(found: Neighborhoods) -> None:
    results = found.results
    plain = [
        100 * np.mean([results.neighbor_labels.of(q)[rank] in results.truths[q] for q in range(len(results))])
        for rank in range(20)
    ]
    assert column(reliability(found).rows, 1) == pytest.approx(plain)


def test_the_fit_finds_the_logarithm_that_made_the_points() -> None:
    ranks = np.arange(1.0, 101)
    fit = fit_logarithm(ranks, 81.1 - 5.5 * np.log(ranks))
    assert (fit.nearest, fit.slope, fit.determination) == pytest.approx((81.1, -5.5, 1.0))


def test_a_fit_says_nothing_where_it_would_leave_0_to_100_percent() -> None:
    ranks = np.array([1.0, 2.0, 1000.0])
    steep = fit_logarithm(np.arange(1.0, 4), np.array([130.0, 60.0, 10.0]))
    assert np.isnan(steep.at(ranks)).tolist() == [True, False, True]


def test_two_neighbours_are_too_few_for_a_fit() -> None:
    with pytest.raises(InvalidArgument, match="three neighbours"):
        reliability(made_neighborhoods(10, k=2))


def test_the_hit_rate_is_the_share_of_queries_with_a_right_label_so_far(found: Neighborhoods) -> None:
    results = found.results
    plain = [
        100 * np.mean([bool(set(results.neighbor_labels.of(q)[:k]) & results.truths[q]) for q in range(len(results))])
        for k in range(1, 21)
    ]
    assert column(hit_rate(found).rows, 1) == pytest.approx(plain)


def test_without_corruption_label_noise_is_plain_rank_voting(found: Neighborhoods) -> None:
    rows = label_noise(found, levels=[0]).rows
    assert rows[0][1:3] == pytest.approx((plain_top1(found.results, WEIGHTS["rank"], 1), plain_top1(found.results, WEIGHTS["rank"], 10)))  # fmt: skip  # noqa: E501


def test_a_corrupted_item_has_one_label_for_all_queries_and_stays_corrupted(found: Neighborhoods) -> None:
    items = many_items(found)
    ids = items.results.neighbor_ids.codes
    changed_before: set[int] = set()
    for level, labels in zip((0, 30, 60, 100), corrupt(items, (0, 30, 60, 100), seed=3), strict=True):
        label_of = dict(zip(ids.ravel().tolist(), labels.ravel().tolist(), strict=True))
        assert all(label_of[item] == label for item, label in zip(ids.flat, labels.flat, strict=True))
        changed = {int(item) for item in ids[labels != items.results.neighbor_labels.codes]}
        assert changed_before <= changed
        assert abs(len(changed) / len(label_of) - level / 100) < 0.05  # one label of 40 comes back
        changed_before = changed


def test_corruption_is_the_same_however_items_and_labels_are_stored(found: Neighborhoods) -> None:
    items = many_items(found)
    ids, labels = items.results.neighbor_ids, items.results.neighbor_labels
    other = replace(items.results, neighbor_ids=shuffled(ids), neighbor_labels=shuffled(labels))
    (one,), (two,) = (corrupt(some, [50], seed=1) for some in (items, replace(items, results=other)))
    assert Names(one, labels.names).of(5) == Names(two, other.neighbor_labels.names).of(5)
    (third,) = corrupt(items, [50], seed=2)
    assert (one != third).any()


def many_items(found: Neighborhoods) -> Neighborhoods:
    """Return the same neighbours with ten items a label."""
    results = found.results
    codes = results.neighbor_labels.codes * 10 + np.arange(results.k) % 10
    names = [f"{label}/{item}" for label in results.neighbor_labels.names for item in range(10)]
    return replace(found, results=replace(results, neighbor_ids=Names(codes, names)))


def shuffled(names: Names) -> Names:
    order = list(range(len(names.names)))
    random.Random(0).shuffle(order)
    place = np.argsort(order)
    return Names(place[names.codes], [names.names[code] for code in order])


def test_a_level_above_a_hundred_percent_is_refused(found: Neighborhoods) -> None:
    with pytest.raises(InvalidArgument, match="0 to 100"):
        label_noise(found, levels=[0, 101])


def test_calibration_counts_the_most_frequent_label(found: Neighborhoods) -> None:
    results = found.results
    plain: dict[int, list[bool]] = {}
    for query, truth in enumerate(results.truths):
        labels = results.neighbor_labels.of(query)
        count = max(map(labels.count, labels))
        reached = [i for i, label in enumerate(labels) if labels[: i + 1].count(label) == count]
        plain.setdefault(count, []).append(labels[min(reached)] in truth)
    rows = calibration(found).rows
    assert [(row[0], row[2]) for row in rows] == [(count, len(plain[count])) for count in sorted(plain)]
    assert column(rows, 4) == pytest.approx([100 * np.mean(plain[count]) for count in sorted(plain)])


def test_auroc_is_how_often_an_unknown_query_lies_further_away() -> None:
    draw = np.random.default_rng(0)
    known, unknown = draw.integers(0, 20, 60) / 20, draw.integers(5, 25, 40) / 20
    pairs = [(far > near) + 0.5 * (far == near) for near in known for far in unknown]
    assert detect("nearest", known, unknown).auroc == pytest.approx(100 * np.mean(pairs))


def test_fpr_is_the_share_of_unknown_queries_that_pass_with_95_percent_of_the_known_ones() -> None:
    detector = detect("nearest", np.arange(1.0, 101), np.arange(91.0, 101))
    assert detector.threshold == 95.0 and detector.fpr == pytest.approx(50.0)


def test_distances_compare_the_same_number_of_neighbours() -> None:
    told = distances(made_neighborhoods(50, k=5), made_neighborhoods(30, k=9, name="other"))
    assert [row[0] for row in told.rows] == ["nearest", "mean of 5", "median of 5"]
    assert "query of val" in told.finding and "one of other" in told.finding
