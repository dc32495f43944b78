"""Section 3.4."""

import numpy as np
import pytest

from eval.experiments.base import Analysis, Cell
from eval.experiments.unlearning import unlearning
from eval.metrics.votes import are_right, vote_labels
from eval.report.plots import as_png
from retrieval.errors import InvalidArgument
from tests.eval.experiments.made_embedded import made_embedded, rebuilt


def named(analysis: Analysis) -> list[dict[str, Cell]]:
    return [dict(zip(analysis.columns, row, strict=True)) for row in analysis.rows]


def test_nothing_forgotten_is_left_and_answers_are_those_of_a_memory_that_never_held_it() -> None:
    rows = named(unlearning(made_embedded(noise=1.2, each=120), classes=["a0", "b1"]))
    assert [row["forgotten"] for row in rows] == [
        "1 item", "1 % of the items", "10 % of the items", "50 % of the items", "class a0", "class b1"
    ]  # fmt: skip
    assert [row["items"] for row in rows] == [1, 10, 96, 480, 120, 120]
    for row in rows:
        assert row["places still held"] == 0
        assert row["same neighbours (%)"] == 100.0
        assert row["same answers (%)"] == 100.0


def test_a_forgotten_class_is_never_named_and_the_rest_is_as_in_a_memory_made_anew() -> None:
    embedded = made_embedded(noise=1.2)
    row = named(unlearning(embedded, shares=(), classes=["b1"], k=20))[0]
    anew = rebuilt(embedded, embedded.labels != embedded.label_names.index("b1")).neighbors(20).results
    rest = np.array(["b1" not in truth for truth in embedded.truths])
    right = are_right(vote_labels(anew), embedded.truths)
    assert row["rest after (%)"] == pytest.approx(100 * right[rest].mean())
    assert row["class after (%)"] == 0.0


def test_the_same_seed_forgets_the_same() -> None:
    timeless = [
        [[cell for column, cell in row.items() if "time" not in column] for row in named(unlearning(made_embedded()))]
        for _ in range(2)
    ]
    assert timeless[0] == timeless[1]


@pytest.mark.parametrize(
    ("options", "said"), [({"shares": (1.0,)}, "a share of 1.0"), ({"classes": ["z9"]}, "'z9' is no class")]
)
def test_what_makes_no_sense_is_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        unlearning(made_embedded(), **options)  # type: ignore[arg-type]


def test_forgetting_everything_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="no item of the memory is kept"):
        unlearning(made_embedded(), shares=(0.999,))


def test_the_plot_is_a_picture() -> None:
    assert as_png(unlearning(made_embedded()).draw()).startswith(b"\x89PNG")
