"""The pages of a memory in headless Chromium, with real clicks and keys, served by the real command."""

import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from eval.app.map_page import chart_options, colour_classes, looks, next_item
from eval.app.memory_pages import filter_classes
from retrieval import VisualMemory
from tests.browser import Browser, needs_chromium
from tests.conftest import COLOURS, draw
from tests.markup import HOSTILE
from tests.serving import Served, serving

MANY = 120  # classes of one item each
ROWS = "[...document.querySelectorAll('.list tbody tr')]"
STATUS = "[...document.querySelectorAll('.page [role=status]')].map(node => node.innerText).join(' | ')"
PHONE = 390  # pixels


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    """Return a memory of three colours, hostile labels, many small classes, and twins under two labels."""
    path = tmp_path_factory.mktemp("browsed") / "memory"
    memory = VisualMemory.create(path, embedder=str(checkpoint))
    memory.add((f"{name}/{n}", name, draw(colour, n)) for name, colour in COLOURS.items() for n in range(6))
    memory.add((f"hostile {n}", label, draw((n, n, n), n)) for n, label in enumerate(HOSTILE))
    memory.add([("twin <b>of</b> red/0", "crimson", draw(COLOURS["red"], 0))])
    vectors = np.random.default_rng(0).normal(size=(MANY, 32)).astype(np.float32)
    memory.add_vectors([f"many {n}" for n in range(MANY)], [f"class {n:03}" for n in range(MANY)], vectors)
    return path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("server"), folder) as running:
        yield running


def visit(browser: Browser, served: Served, path: str, *, width: int = 1280) -> None:
    browser.open_url(urllib.parse.urljoin(served.url, path), width=width)
    ready(browser)


def ready(browser: Browser) -> None:
    browser.wait_for("document.querySelector('h1') !== null && window.did_handshake === true")


def first_cells(browser: Browser) -> list[str]:
    cells: list[str] = browser.evaluate(f"{ROWS}.map(row => row.cells[0].innerText)")
    return cells


def work(browser: Browser, served: Served, path: str, done: str) -> None:
    """Visit a page and have it do its work, unless that was done before."""
    visit(browser, served, path)
    if browser.evaluate("document.querySelector('.page section > button.main') !== null"):
        browser.click(".page section > button.main")
    browser.wait_for(f"document.querySelector({done!r}) !== null")


@needs_chromium
def test_classes_are_filtered_sorted_and_lead_to_their_pictures(quiet: Browser, served: Served) -> None:
    visit(quiet, served, "/memory")
    assert first_cells(quiet)[:3] == ["blue", "green", "red"] and len(first_cells(quiet)) == 50
    assert quiet.evaluate("document.querySelector('th[aria-sort]').ariaSort") == "descending"
    quiet.click(".list thead th:first-child a")
    quiet.wait_for("document.querySelector('.list th:first-child')?.ariaSort === 'ascending'")
    ready(quiet)
    quiet.click("input[name=text]")
    quiet.type("RE")
    quiet.press("Enter")
    quiet.wait_for("location.search.includes('text=RE')")
    ready(quiet)
    assert first_cells(quiet) == ["green", "red", "two�lines�three"]
    quiet.click(".list tbody tr:nth-child(2) a")
    quiet.wait_for("location.pathname === '/memory/class'")
    ready(quiet)
    assert quiet.evaluate("document.querySelectorAll('.tiles .tile img').length") == 6
    quiet.wait_for("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    quiet.evaluate("history.back()")
    quiet.wait_for("location.search.includes('text=RE')")


@needs_chromium
def test_classes_come_in_pages(quiet: Browser, served: Served) -> None:
    visit(quiet, served, "/memory?text=class")
    assert f"{MANY} of " in quiet.evaluate(STATUS)
    quiet.click(".pager a")
    quiet.wait_for("location.search.includes('page=2')")
    ready(quiet)
    assert first_cells(quiet)[0] == "class 050"
    assert quiet.evaluate("document.querySelector('input[name=text]').value") == "class"


@needs_chromium
def test_hostile_labels_are_text_wherever_they_stand(quiet: Browser, served: Served) -> None:
    visit(quiet, served, "/memory")
    for path in (
        "/memory",
        f"/memory/class?{urllib.parse.urlencode({'label': HOSTILE[1]})}",
        "/memory/class?label=%00%3Cb%3E",
    ):
        visit(quiet, served, path)
        assert quiet.evaluate("document.querySelectorAll('[onerror], .page script, .page b').length") == 0
        assert "\u202e" not in quiet.evaluate("document.body.innerText")
        assert quiet.evaluate("document.documentElement.scrollWidth") <= 1280
    assert "no item of this class" in quiet.evaluate(STATUS)
    visit(quiet, served, f"/memory/class?{urllib.parse.urlencode({'label': HOSTILE[1]})}")
    assert quiet.evaluate("document.querySelector('h1').innerText") == HOSTILE[1]
    assert quiet.evaluate("document.querySelectorAll('.tile').length") == 1


@needs_chromium
def test_near_duplicates_stand_side_by_side_and_those_that_disagree_can_be_asked_for(
    quiet: Browser, served: Served
) -> None:
    work(quiet, served, "/memory/twins", ".pairs")
    shown = quiet.evaluate("[...document.querySelectorAll('.pairs > li')].map(node => node.innerText)")
    assert any("twin <b>of</b> red/0" in text and "the same content, different labels" in text for text in shown)
    visit(quiet, served, "/memory/twins?labels=differ")
    assert quiet.evaluate(
        "[...document.querySelectorAll('.pairs > li > p')].every(p => p.innerText.includes('different'))"
    )


@needs_chromium
def test_the_worst_items_are_told_with_their_counts(quiet: Browser, served: Served) -> None:
    work(quiet, served, "/memory/worst", ".tiles")
    hurts = quiet.evaluate(
        "[...document.querySelectorAll('.tile')].map(node => parseInt(node.innerText.match(/hurts (\\d+)/)[1]))"
    )
    assert hurts == sorted(hurts, reverse=True) and hurts[0] > 0


@needs_chromium
def test_the_map_shows_an_item_to_who_uses_the_arrow_keys_and_says_in_words_what_it_shows(
    quiet: Browser, served: Served
) -> None:
    work(quiet, served, "/memory/map", "canvas")
    quiet.evaluate("document.querySelector('.scatter').focus()")
    quiet.press("ArrowDown")
    quiet.wait_for("document.querySelectorAll('.pointed .tile').length === 1")
    first = quiet.evaluate("document.querySelector('.pointed').innerText")
    quiet.press("ArrowDown")
    quiet.wait_for(f"document.querySelector('.pointed').innerText !== {first!r}")
    assert len(first_cells(quiet)) == 40
    quiet.click(".legend a")
    quiet.wait_for("location.pathname === '/memory/class'")


@needs_chromium
def test_an_item_is_forgotten_after_a_confirmation_and_the_page_offers_the_way_back(
    quiet: Browser, served: Served, folder: Path
) -> None:
    visit(quiet, served, "/memory/class?label=crimson")
    quiet.click(".tile button")
    for name in ("Forget…", "Forget"):
        quiet.click_button(name)
    quiet.wait_for(f"{STATUS}.includes('no item of this class')")
    assert "crimson" not in VisualMemory.open(folder).stats().labels
    ready(quiet)
    quiet.click_button("Undo the last edit")
    quiet.wait_for("document.querySelectorAll('.tile').length === 1")
    assert VisualMemory.open(folder).stats().labels["crimson"] == 1
    visit(quiet, served, "/memory/versions")
    assert quiet.evaluate(f"{ROWS}.map(row => row.cells[2].innerText)")[:2] == ["checkout", "forget"]


@needs_chromium
@pytest.mark.parametrize("path", ["/memory", "/memory/class?label=red", "/memory/map", "/memory/versions"])
def test_a_phone_needs_no_scrolling_sideways(quiet: Browser, served: Served, path: str) -> None:
    visit(quiet, served, path, width=PHONE)
    assert quiet.evaluate("document.documentElement.scrollWidth") <= PHONE


def test_classes_are_found_by_label_and_by_name() -> None:
    counts = {"n01440764": 3, "dog": 3, "cat": 5}
    assert filter_classes(counts, text="TENCH", by="items", ascending=False) == [("n01440764", 3)]
    assert filter_classes(counts, text="014", by="items", ascending=False) == [("n01440764", 3)]
    assert [label for label, _ in filter_classes(counts, text="", by="items", ascending=False)] == [
        "cat",
        "dog",
        "n01440764",
    ]
    assert [label for label, _ in filter_classes(counts, text="", by="class", ascending=False)] == [
        "n01440764",
        "dog",
        "cat",
    ]


def test_arrows_go_to_the_nearest_item_that_lies_their_way() -> None:
    places = np.array([[0.5, 0.5], [0.6, 0.5], [0.9, 0.5], [0.5, 0.7], [0.52, 0.9]])
    assert next_item(places, 0, (1, 0)) == 1
    assert next_item(places, 0, (0, 1)) == 3
    assert next_item(places, 0, (-1, 0)) == 0


def test_each_class_on_the_map_has_a_look_of_its_own_and_the_others_share_one() -> None:
    series = colour_classes([f"{n:02}" for n in range(12)], most=7)
    chosen = looks(series)
    assert len({colour for colour, _, _ in chosen}) == len({mark for _, _, mark in chosen}) == len(series) == 8
    options = chart_options(np.zeros((12, 2)), series)
    assert sum(len(one["data"]) for one in options["series"]) == 12
    assert len(looks(colour_classes(["a", "b"], most=7))) == 2
