"""The page of a query in headless Chromium, with real clicks and keys, served by the real command."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from retrieval import VisualMemory
from tests.browser import Browser, needs_chromium
from tests.conftest import COLOURS, draw
from tests.markup import HOSTILE
from tests.serving import Served, serving

pytestmark = needs_chromium
ODD = HOSTILE[1]  # the label of one item that is more like the query than any other
TWIN = "a <b>twin</b>"
VERDICT = "document.querySelector('.verdict').innerText"
NEIGHBORS = "document.querySelectorAll('[aria-label=Neighbours] > .pictures:first-of-type li')"
FIRST = "[aria-label=Neighbours] .pictures li:first-child button"


@pytest.fixture(scope="module")
def query(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("query") / "red.png"
    draw(COLOURS["red"], 3).save(path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, query: Path) -> Path:
    """Return a memory of three colours, hostile labels, and a twin of the query under a wrong label."""
    path = tmp_path_factory.mktemp("served") / "memory"
    memory = VisualMemory.create(path, embedder=str(checkpoint))
    memory.add((f"{name}/{n}", name, draw(colour, n)) for name, colour in COLOURS.items() for n in (0, 1, 2, 4, 5))
    memory.add((f"hostile {n}", label, draw((n, n, n), n)) for n, label in enumerate(HOSTILE))
    memory.add([(TWIN, ODD, query)])
    return path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("server"), folder, "--k", 1, "--model", "scripted", "--no-cache") as running:
        yield running


@pytest.fixture
def page(quiet: Browser, served: Served, query: Path) -> Browser:
    """Return the page with its first answer."""
    ask(quiet, served.url, query)
    return quiet


def ask(browser: Browser, url: str, query: Path, *, width: int = 1280) -> None:
    browser.open_url(url, width=width)
    browser.wait_for("document.querySelector('input[type=file]') !== null && window.did_handshake")
    browser.upload("input[type=file]", query)
    browser.wait_for(f"{VERDICT}.includes('vote')")


def open_first(browser: Browser) -> None:
    browser.click(FIRST)
    browser.wait_for("document.querySelector('.dialog') !== null")
    browser.settle(".dialog")


def closed(browser: Browser) -> None:
    browser.wait_for("document.querySelector('.dialog') === null")


def test_a_picture_gets_neighbours_and_a_decision(page: Browser) -> None:
    assert page.evaluate(f"{VERDICT}") == f"{ODD}: 100 % of the vote, 1 neighbour by rank voting"
    assert page.evaluate(f"{NEIGHBORS}.length") == 1
    page.wait_for("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert page.evaluate(f"document.querySelector({FIRST!r}).ariaLabel") == f"Neighbour 1, {ODD}, distance 0.00"


def test_hostile_labels_are_text(page: Browser) -> None:
    slide(page, "End")
    page.wait_for(f"{NEIGHBORS}.length === {16 + len(HOSTILE)}")
    shown = page.evaluate("document.body.innerText")
    assert "<img src=x onerror" in shown and "{{ 7 * 7 }}" in shown and "<!--" in shown
    assert "\u202e" not in shown and "�gnp.exe" in shown
    assert page.evaluate("document.querySelectorAll('[onerror]').length") == 0
    assert page.evaluate("document.title").startswith("Query · memory")
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280


def test_leaving_the_nearest_out_changes_the_decision_until_it_is_put_back(page: Browser, folder: Path) -> None:
    before = VisualMemory.open(folder).version
    open_first(page)
    page.click_button("Leave out of this question")
    page.wait_for(f"{VERDICT}.startsWith('red: 100 %')")
    assert page.evaluate("document.querySelector('.change').innerText") == f"The decision changed: {ODD} → red"
    closed(page)
    page.click(".pictures:last-of-type li button")
    page.click_button("Put back")
    page.wait_for(f"{VERDICT}.startsWith({ODD!r})")
    assert VisualMemory.open(folder).version == before


def test_an_edit_is_confirmed_changes_the_decision_and_is_undone(page: Browser, folder: Path) -> None:
    open_first(page)
    page.click(".dialog input")
    page.evaluate("document.querySelector('.dialog input').select()")
    page.type("red")
    page.click_button("Relabel…")
    page.wait_for("document.querySelector('.dialog h2').innerText.startsWith('Relabel a <b>twin</b> from')")
    page.click_button("Relabel")
    page.wait_for(f"{VERDICT}.startsWith('red: 100 %')")
    assert label_of(folder, TWIN) == "red"
    closed(page)
    page.click_button("Undo the last edit")
    page.wait_for(f"{VERDICT}.startsWith({ODD!r})")
    assert label_of(folder, TWIN) == ODD


def test_forgetting_is_undone_by_going_back_a_version(page: Browser, folder: Path) -> None:
    open_first(page)
    page.click_button("Forget…")
    page.click_button("Forget")
    page.wait_for(f"{VERDICT}.startsWith('red: 100 %')")
    assert label_of(folder, TWIN) is None
    closed(page)
    page.click_button("Undo the last edit")
    page.wait_for(f"{VERDICT}.startsWith({ODD!r})")
    assert label_of(folder, TWIN) == ODD


def test_a_cancelled_edit_changes_nothing(page: Browser, folder: Path) -> None:
    before = VisualMemory.open(folder).version
    open_first(page)
    page.click_button("Forget…")
    page.click_button("Cancel")
    closed(page)
    assert VisualMemory.open(folder).version == before


def test_the_keyboard_opens_a_neighbour_and_escape_goes_back_to_it(page: Browser) -> None:
    page.evaluate(f"document.querySelector({FIRST!r}).focus()")
    page.press("Enter")
    page.wait_for("document.querySelector('.dialog') !== null")
    page.wait_for("document.querySelector('.q-dialog').contains(document.activeElement)")
    page.press("Escape")
    closed(page)
    page.wait_for(f"document.activeElement === document.querySelector({FIRST!r})")


def slide(page: Browser, key: str) -> None:
    page.evaluate("document.querySelector('input[type=range]').focus()")
    page.press(key)


def test_the_slider_and_the_voting_method_count_anew(page: Browser) -> None:
    slide(page, "ArrowRight")
    page.wait_for(f"{VERDICT}.includes('2 neighbours by rank voting')")
    page.evaluate("document.querySelector('.side select').focus()")
    page.press("ArrowDown")
    page.wait_for(f"{VERDICT}.includes('50 % of the vote, 2 neighbours by plurality voting')")
    assert page.evaluate("document.querySelectorAll('.votes progress').length") == 2


def test_the_prompt_is_shown_with_its_cost_and_the_model_asked(page: Browser) -> None:
    slide(page, "ArrowRight")
    page.click_button("Show the prompt")
    page.wait_for("document.querySelectorAll('.prompt pre').length > 0")
    assert "\n3 pictures, " in page.evaluate("document.body.innerText")
    page.wait_for("[...document.querySelectorAll('.prompt img')].length === 3")
    page.click_button("Ask scripted")
    page.wait_for("document.body.innerText.includes('reranked: scripted chose among 2 candidates')")
    assert page.evaluate("document.querySelectorAll('.pictures .evidence').length") == 1


def test_a_picture_can_be_pasted(page: Browser) -> None:
    page.evaluate(
        """(async () => {
            const canvas = document.createElement("canvas"), paint = canvas.getContext("2d"), data = new DataTransfer();
            paint.fillStyle = "rgb(40, 60, 200)";
            paint.fillRect(0, 0, canvas.width, canvas.height);
            const blob = await new Promise(resolve => canvas.toBlob(resolve));
            data.items.add(new File([blob], "pasted.png", { type: "image/png" }));
            document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data }));
        })()"""
    )
    page.wait_for(f"!{VERDICT}.startsWith({ODD!r})")
    assert page.evaluate("document.querySelector('.change').innerText") == ""  # another picture is no change


def test_an_example_of_the_memory_is_left_out_of_its_own_neighbours(page: Browser) -> None:
    page.open_url(page.evaluate("location.origin") + "/?item=red/0")
    page.wait_for(f"{VERDICT}.includes('vote')")
    slide(page, "End")
    page.wait_for(f"{NEIGHBORS}.length === {15 + len(HOSTILE)}")


def test_edits_of_another_process_are_noticed(page: Browser, folder: Path) -> None:
    other = VisualMemory.open(folder)
    other.relabel("from elsewhere", ids=[TWIN])
    page.wait_for(f"{VERDICT}.startsWith('from elsewhere: 100 %')")
    other.checkout(other.version - 1)
    page.wait_for(f"{VERDICT}.startsWith({ODD!r})")


def test_a_phone_has_room_for_all_and_every_control_has_a_name(browser: Browser, served: Served, query: Path) -> None:
    ask(browser, served.url, query, width=390)
    slide(browser, "End")
    browser.wait_for(f"{NEIGHBORS}.length > 9")
    assert browser.evaluate("document.documentElement.scrollWidth") <= 390
    controls = "[...document.querySelectorAll('input, select, button, progress')]"
    unnamed = f"{controls}.filter(node => !node.ariaLabel && !(node.labels || []).length && !node.textContent.trim())"
    assert browser.evaluate(f"{unnamed}.length") == 0
    assert browser.evaluate("[...document.querySelectorAll('main, nav, header, h1')].length") == 4


def test_a_file_that_is_no_picture_is_told_in_a_sentence(browser: Browser, served: Served, tmp_path: Path) -> None:
    browser.open_url(served.url)
    browser.wait_for("document.querySelector('input[type=file]') !== null && window.did_handshake")
    (tmp_path / "text.png").write_text("no picture")
    browser.upload("input[type=file]", tmp_path / "text.png")
    browser.wait_for("document.body.innerText.includes('the picture is not a picture: JPEG, PNG')")


def label_of(folder: Path, item: str) -> str | None:
    snapshot = VisualMemory.open(folder).snapshot()
    return dict(zip(snapshot.ids.tolist(), snapshot.labels.tolist(), strict=True)).get(item)
