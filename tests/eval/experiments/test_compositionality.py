"""Residuals: against a plain computation by hand, query by query (paper, appendix O)."""

import io
import math
import re
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from eval.experiments.compositionality import compositionality, count_distinct, find_residuals
from eval.experiments.embedded import Embedded
from eval.report.plots import as_png, as_svg
from retrieval.errors import InvalidArgument
from tests.conftest import draw
from tests.eval.experiments.made_embedded import unit

LABELS = ["cat", "dog", "<b>$x$", "owl"]


def made(*, items: int = 40, queries: int = 12, same: int = 0, seed: int = 0) -> Embedded:
    random = np.random.default_rng(seed)
    vectors = unit(random.normal(size=(items, 8)))
    asked = unit(random.normal(size=(queries, 8)))
    asked[:same] = vectors[:same]
    return Embedded(
        name="val",
        embedder="made",
        item_ids=[f"item {number}" for number in range(items)],
        vectors=vectors,
        labels=random.integers(0, len(LABELS), items),
        label_names=LABELS,
        query_ids=[f"query {number}" for number in range(queries)],
        queries=asked,
        truths=[frozenset([LABELS[number % 4]]) for number in range(queries)],
    )


def nearest_by_hand(vectors: Sequence[Sequence[float]], asked: Sequence[float]) -> list[tuple[float, int]]:
    length = math.sqrt(sum(x * x for x in asked))
    return sorted(
        (1 - sum(x * y for x, y in zip(vector, asked, strict=True)) / length, row) for row, vector in enumerate(vectors)
    )


def test_residuals_and_their_neighbours_are_those_computed_by_hand() -> None:
    embedded = made()
    found = find_residuals(embedded, 5)
    vectors = embedded.vectors.tolist()
    for place, asked in enumerate(embedded.queries.tolist()):
        before = nearest_by_hand(vectors, asked)[:5]
        residual = [x - y for x, y in zip(asked, vectors[before[0][1]], strict=True)]
        after = nearest_by_hand(vectors, residual)[:5]
        assert found.rows[place].tolist() == [row for _, row in before]
        assert found.residual_rows[place].tolist() == [row for _, row in after]
        assert found.residual_distances[place] == pytest.approx([distance for distance, _ in after], abs=1e-5)


def test_the_summary_counts_what_a_plain_loop_over_all_queries_counts() -> None:
    embedded = made()
    found = find_residuals(embedded, 5)
    summary = compositionality(embedded, k=5).rows[0]
    nearest, after = embedded.labels[found.rows], embedded.labels[found.residual_rows]
    another = sum(a != b for a, b in zip(nearest[:, 0].tolist(), after[:, 0].tolist(), strict=True))
    assert summary[8] == f"{100 * another / 12:.1f} %"
    assert summary[9] == round(sum(len(set(row)) for row in nearest.tolist()) / 12, 2)
    assert summary[10] == round(sum(len(set(row)) for row in after.tolist()) / 12, 2)
    right = sum(LABELS[row[0]] in truth for row, truth in zip(after.tolist(), embedded.truths, strict=True))
    assert summary[6] == f"right for {100 * right / 12:.1f} %"


def test_it_is_said_that_a_vector_is_subtracted_and_nothing_taken_out_of_the_memory() -> None:
    analysis = compositionality(made(), k=5)
    assert analysis.finding.startswith("Where the nearest neighbour's vector is subtracted")
    assert any("Nothing is taken out of the memory" in note for note in analysis.notes)


def test_queries_that_equal_their_nearest_neighbour_are_left_out_and_counted() -> None:
    analysis = compositionality(made(same=3))
    assert analysis.rows[0][0] == "all 9 queries"
    assert any("3 queries equal to the nearest neighbour" in note for note in analysis.notes)


def test_queries_that_are_all_in_the_memory_are_refused_in_a_sentence() -> None:
    with pytest.raises(InvalidArgument, match="every query equals its nearest neighbour"):
        compositionality(made(queries=5, same=5))


@pytest.mark.parametrize(("k", "shown"), [(0, 1), (1, 0)])
def test_numbers_below_one_are_refused(k: int, shown: int) -> None:
    with pytest.raises(InvalidArgument, match="1 or more expected"):
        compositionality(made(), k=k, shown=shown)


def test_the_seed_chooses_the_queries_that_are_shown_and_nothing_else() -> None:
    first, again, other = (compositionality(made(), seed=seed) for seed in (1, 1, 2))
    assert first.rows == again.rows
    assert first.rows[0] == other.rows[0] and first.rows[1:] != other.rows[1:]
    assert len(first.rows) == 1 + 6 and all(len(row) == len(first.columns) for row in first.rows)


def test_a_memory_smaller_than_k_is_used_whole() -> None:
    assert len(compositionality(made(items=2), k=10, shown=50).rows) == 1 + 12


def test_different_labels_are_counted_in_each_row() -> None:
    assert count_distinct(np.array([[1, 1, 1], [2, 1, 2], [3, 2, 1]])).tolist() == [1, 2, 3]


def picture(number: int) -> bytes:
    encoded = io.BytesIO()
    draw((200, 30, 30), number % 10).save(encoded, "PNG")
    return encoded.getvalue()


def test_with_pictures_the_plot_is_a_gallery_of_queries_neighbours_and_residuals() -> None:
    asked: list[str] = []

    def pictures(ids: Sequence[str]) -> list[bytes | None]:
        asked.extend(ids)
        given = [picture(0), b"no picture", None]
        return [given[number % 3] for number in range(len(ids))]

    analysis = compositionality(made(), shown=2, pictures=pictures, query_pictures=pictures)
    with Image.open(io.BytesIO(as_png(analysis.draw()))) as gallery:
        assert gallery.size[0] > gallery.size[1] > 200
    assert {row[0] for row in analysis.rows[1:]} <= set(asked)
    assert re.search("<image", as_svg(analysis.draw()))


def test_without_pictures_the_plot_has_no_picture() -> None:
    assert not re.search("<image", as_svg(compositionality(made()).draw()))
