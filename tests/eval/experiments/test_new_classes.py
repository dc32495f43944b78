"""Table 1."""

from dataclasses import replace

import numpy as np
import pytest

from eval.experiments.embedded import Embedded
from eval.experiments.new_classes import new_classes
from eval.metrics.votes import are_right
from eval.report.plots import as_png
from retrieval.errors import InvalidArgument
from retrieval.voting import METHODS, predict_every_k
from tests.eval.experiments.made_embedded import made_embedded, rebuilt, unit


def best(embedded: Embedded, method: str, asked: np.ndarray, most: int) -> float:
    """Return the highest accuracy over k on some queries."""
    results = embedded.neighbors(most).results
    codes = predict_every_k(results.neighbor_labels.codes, results.neighbor_distances, method=method)
    truths = [truth for truth, is_asked in zip(embedded.truths, asked, strict=True) if is_asked]
    labels = [[embedded.label_names[code] for code in column] for column in codes[asked].T]
    return max(100 * float(are_right(column, truths).mean()) for column in labels)


def test_each_figure_is_that_of_a_memory_made_anew() -> None:
    embedded = made_embedded(noise=1.2)
    analysis = new_classes(embedded, classes=["b1", "c0"], k=20)
    is_new = np.isin(np.array(embedded.label_names)[embedded.labels], ["b1", "c0"])
    asks_new = np.array([bool(truth & {"b1", "c0"}) for truth in embedded.truths])
    rows = {row[0]: dict(zip(analysis.columns, row, strict=True)) for row in analysis.rows}
    for name, method, most in (("nearest", "rank", 1), *((method, method, 20) for method in METHODS)):
        old = rebuilt(embedded, ~is_new)
        assert rows[name]["old before (%)"] == pytest.approx(best(old, method, ~asks_new, most))
        assert rows[name]["old after (%)"] == pytest.approx(best(embedded, method, ~asks_new, most))
        assert rows[name]["new (%)"] == pytest.approx(best(embedded, method, asks_new, most))
    assert rows["rank"]["paper: new"] == 87.4


def test_classes_are_drawn_by_seed() -> None:
    embedded = made_embedded(noise=1.2)
    assert new_classes(embedded, seed=1, share=0.3).rows == new_classes(embedded, seed=1, share=0.3).rows
    assert "Adding 2 new classes" in new_classes(embedded, share=0.3).title


def unknown_of(embedded: Embedded) -> Embedded:
    """Return queries of two classes that a memory does not have."""
    draw = np.random.default_rng(9)
    vectors = unit(np.repeat(draw.normal(size=(2, 16)), 5, axis=0) + 0.1 * draw.normal(size=(10, 16)))
    truths = [frozenset([label]) for label in ["x"] * 5 + ["y"] * 5]
    ids = [f"query {row}" for row in range(10)]  # ids that the other queries have as well
    return replace(embedded, name="unknown", query_ids=ids, queries=vectors, truths=truths, _found={}, _index=[])


def test_unknown_queries_are_inserted_and_asked_about_without_themselves() -> None:
    embedded = made_embedded()
    rows = {row[0]: row for row in new_classes(embedded, unknown=unknown_of(embedded)).rows}
    assert rows["nearest"][7] == 100.0
    alone = unknown_of(embedded)
    lonely = replace(alone, truths=[frozenset([f"x{row}"]) for row in range(10)])  # a class each: nothing else to find
    assert {row[7] for row in new_classes(embedded, unknown=lonely).rows} == {0.0}


def test_old_queries_keep_their_neighbours_when_the_new_ones_are_far() -> None:
    embedded = made_embedded(noise=1.2)
    far = unknown_of(embedded)
    queries = unit(np.hstack([np.zeros((10, 16)), np.ones((10, 1))]))  # at a right angle to everything
    vectors, asked = (np.pad(some, ((0, 0), (0, 1))) for some in (embedded.vectors, embedded.queries))
    wider = replace(embedded, vectors=vectors, queries=asked, _found={}, _index=[])
    analysis = new_classes(wider, unknown=replace(far, vectors=vectors, queries=queries), k=10)
    assert {row[5] for row in analysis.rows} == {0.0}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"classes": ["z9"]}, "'z9' is no class of the memory"),
        ({"classes": []}, "0 of 8 classes held out"),
        ({"share": 0.0}, "between 0 and 1"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        new_classes(made_embedded(), **options)  # type: ignore[arg-type]


def test_unknown_queries_of_a_known_class_are_refused() -> None:
    embedded = made_embedded()
    with pytest.raises(InvalidArgument, match="label 'a0' is in the memory already"):
        new_classes(embedded, unknown=replace(embedded, name="same"))
    with pytest.raises(InvalidArgument, match="use one"):
        new_classes(embedded, unknown=replace(unknown_of(embedded), embedder="another"))


def test_queries_of_one_kind_alone_are_refused() -> None:
    embedded = made_embedded()
    with pytest.raises(InvalidArgument, match="no query is of new classes"):
        new_classes(replace(embedded, truths=[frozenset(["a0"])] * len(embedded.truths)), classes=["b0"])


def test_the_plot_is_a_picture() -> None:
    assert as_png(new_classes(made_embedded()).draw()).startswith(b"\x89PNG")
