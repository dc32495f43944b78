"""Figure 3 and appendix F."""

from dataclasses import replace

import numpy as np
import pytest

from eval.experiments.embedded import class_order
from eval.experiments.memory_size import PUBLISHED, fit_error, memory_size
from eval.metrics.votes import are_right, vote_labels
from eval.report.plots import as_png, as_svg
from retrieval.errors import InvalidArgument
from tests.eval.experiments.found import column
from tests.eval.experiments.made_embedded import made_embedded, rebuilt


def test_the_fit_is_the_papers_polyfit_of_logarithms() -> None:
    items, errors = [100, 1000, 20_000, 500_000], [61.0, 40.0, 33.5, 21.0]
    fit = fit_error(items, errors)
    slope, offset = np.polyfit(np.log10(np.log10(items)), np.log10(errors), 1)
    assert fit is not None
    assert (fit.slope, fit.offset) == pytest.approx((slope, offset))


def test_points_on_the_papers_line_give_the_papers_numbers() -> None:
    items = [10**exponent for exponent in range(3, 10)]
    for line in PUBLISHED.values():
        fit = fit_error(items, line.error(np.array(items, float)).tolist())
        assert fit is not None
        assert (fit.slope, fit.offset) == pytest.approx((line.slope, line.offset))


def test_the_papers_line_agrees_with_its_text_at_one_item_a_class() -> None:
    error = PUBLISHED["DINOv2 ViT-L14"].error(np.array([1000.0]))[0]
    assert error == pytest.approx(41.0, abs=1.0)  # section 3.2: 41 % with one exemplar of 1,000 classes


def test_points_without_a_logarithm_are_left_out() -> None:
    assert fit_error([1, 100, 1000], [50.0, 20.0, 0.0]) is None
    assert fit_error([100, 100], [20.0, 10.0]) is None


def test_each_size_is_that_of_a_memory_made_anew() -> None:
    embedded = made_embedded(noise=1.2)
    analysis = memory_size(embedded, fractions=(0.1, 0.5), repeats=1, seed=5, k=20)
    order = class_order(embedded.labels, np.random.default_rng([5, 0]))
    assert [row[1] for row in analysis.rows] == [8, 24, 120]
    for row, each in zip(analysis.rows, (1, 3, 15), strict=True):
        small = rebuilt(embedded, order < each)
        right = are_right(vote_labels(small.neighbors(20).results), embedded.truths)
        assert row[3] == pytest.approx(100 - 100 * right.mean())


def test_repeats_spread_and_the_whole_memory_is_measured_once() -> None:
    rows = memory_size(made_embedded(noise=1.2), fractions=(0.2, 1.0), repeats=4).rows
    assert [row[2] for row in rows] == [4, 4, 1]
    mean, lowest, highest = (column(rows, place) for place in (3, 4, 5))
    assert (lowest <= mean).all() and (mean <= highest).all()
    assert rows[-1][4] == rows[-1][5]


def test_the_same_seed_gives_the_same_rows() -> None:
    embedded = made_embedded(noise=1.2)
    assert memory_size(embedded, seed=1).rows == memory_size(embedded, seed=1).rows
    assert memory_size(embedded, seed=1).rows != memory_size(embedded, seed=2).rows


def test_several_embedders_stand_below_each_other() -> None:
    analysis = memory_size(made_embedded(), replace(made_embedded(seed=1), embedder="other"), repeats=1)
    assert {row[0] for row in analysis.rows} == {"none", "other"}
    assert as_png(analysis.draw()).startswith(b"\x89PNG")


def test_a_name_that_looks_like_mathematics_is_drawn_as_text() -> None:
    analysis = memory_size(replace(made_embedded(), embedder=r"$\frac"), repeats=1)
    assert "<svg" in as_svg(analysis.draw())


def test_a_memory_without_errors_has_no_fit() -> None:
    analysis = memory_size(made_embedded(noise=0.0), repeats=1)
    assert {row[7] for row in analysis.rows} == {None}
    assert as_png(analysis.draw())


@pytest.mark.parametrize(
    ("options", "said"),
    [({"fractions": (0.0,)}, "above 0"), ({"fractions": ()}, "above 0"), ({"repeats": 0}, "one draw or more")],
)
def test_what_makes_no_sense_is_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        memory_size(made_embedded(), **options)  # type: ignore[arg-type]


def test_one_embedder_twice_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="by one embedder"):
        memory_size(made_embedded(), made_embedded(seed=1))


def test_no_material_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="at least one data set"):
        memory_size()
