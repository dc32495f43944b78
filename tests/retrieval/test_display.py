"""Neighbours and records as a notebook shows them."""

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from retrieval.support.html import Shown, picture_tile, show_records, side_by_side, table, text_line
from retrieval.support.terminal import printable
from retrieval.types import Neighbors
from tests.hostile import HOSTILE
from tests.markup import read_harmless


def batch(queries: int, k: int, label: str = "cat", item: str = "cat/1.jpg") -> Neighbors:
    """Return the same neighbours for some queries."""
    ids, labels = (np.full((queries, k), text, object) for text in (item, label))
    distances = np.tile(np.linspace(0.1, 0.5, k), (queries, 1))
    return Neighbors(labels, distances, np.zeros((queries, k), np.int64), lambda: ids)


def test_neighbours_show_rank_label_id_and_distance() -> None:
    found = read_harmless(batch(1, 2)._repr_html_())
    assert found.text == "Query 1 of 1: the nearest of 2ranklabeliddistance1catcat/1.jpg0.1002catcat/1.jpg0.500"
    assert [value for name, value in found.attributes if name == "scope"] == ["col"] * 4 + ["row"] * 2


def test_of_many_queries_and_neighbours_only_the_first_are_shown() -> None:
    found = read_harmless(batch(50_000, 100)._repr_html_())
    assert found.tags.count("table") == 3 and found.tags.count("tr") == 3 * 11
    assert "Query 3 of 50,000: the nearest of 100" in found.text and found.text.endswith("… 49,997 more queries")


def test_no_queries_show_nothing() -> None:
    assert read_harmless(batch(0, 5)._repr_html_()).text == ""


def test_a_known_class_is_called_by_its_name_too() -> None:
    assert "tench (n01440764)" in batch(1, 1, label="n01440764")._repr_html_()


def test_hostile_labels_and_ids_are_shown_as_text() -> None:
    for text in HOSTILE:
        shown = read_harmless(batch(1, 1, label=text, item=text)._repr_html_()).text
        assert printable(text[:9]) in shown
        assert len(shown) < 600


def test_cells_that_are_numbers_stand_to_the_right() -> None:
    html = table(["name", "count"], [("a", 12_345), ("b", True)])
    assert 'right">12,345</td>' in html and 'left">True</td>' in html


def test_a_picture_that_is_missing_or_damaged_leaves_a_box() -> None:
    for encoded in (None, b"no picture"):
        found = read_harmless(picture_tile(encoded, ["cat"]))
        assert ("aria-label", "no picture") in found.attributes and "img" not in found.tags and found.text == "cat"


@dataclass
class Edit:
    """A record."""

    name: str
    when: datetime
    tags: tuple[str, ...]
    change: int | None


def test_records_are_a_table_of_their_fields() -> None:
    made = [Edit("<b>add</b>", datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC), ("x", "y"), None)] * 3
    found = read_harmless(show_records(made, most=2)._repr_html_())
    assert found.text.startswith("namewhentagschange<b>add</b>2026-01-02 03:04:05x, y")
    assert found.text.endswith("… 1 more row")
    assert read_harmless(show_records([])._repr_html_()).text == "nothing"


def test_things_stand_side_by_side_and_do_not_fill_the_text_form() -> None:
    both = side_by_side(Shown(text_line("a < b")), batch(1, 1))
    assert read_harmless(both._repr_html_()).text.startswith("a < bQuery 1 of 1")
    assert repr(both).startswith("<pictures or tables") and len(repr(both)) < 100
