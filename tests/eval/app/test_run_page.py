"""The pages of runs in headless Chromium, with real clicks and keys, served by the real command."""

import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent import ScriptedModel
from agent.classify import prepare
from eval.app.run_pages import Choice, Shelf
from eval.datasets.trees import read_folder
from eval.runs.log import LOG
from eval.runs.runner import run_evaluation
from eval.types import Dataset, Run
from prompts.types import Prompt
from retrieval import VisualMemory
from tests.browser import Browser, needs_chromium
from tests.conftest import COLOURS, draw
from tests.markup import HOSTILE
from tests.serving import Served, serving

PHONE = 390  # pixels
ROWS = "[...document.querySelectorAll('[aria-label=Queries] tbody tr')]"
CELLS = f"{ROWS}.map(row => [...row.cells].map(cell => cell.innerText))"
COUNT = "document.querySelector('p[role=status]')?.innerText"
QUERY = "document.querySelector('.asked')"
ODD = HOSTILE[1]


@dataclass(frozen=True, slots=True)
class Made:
    """A memory, two runs on the same queries, and what they found."""

    memory: Path
    plain: Path  # without a model
    asked: Path  # asked one that contradicts the vote, or makes no sense
    run: Run  # the second one


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Made:
    folder = tmp_path_factory.mktemp("runs")
    memory = VisualMemory.create(folder / "memory", embedder=str(checkpoint))
    memory.add((f"{name}/{n}", name, draw(colour, n)) for name, colour in COLOURS.items() for n in range(6))
    memory.add((f"{ODD} {n}", ODD, draw(COLOURS["green"], 10 + n)) for n in range(4))
    datasets, paths = {}, {}
    for dataset in ("seen", "other"):
        place = folder / dataset
        for name, colour in COLOURS.items():
            (place / name).mkdir(parents=True)
            for n in range(4):
                draw(colour, n + 7).save(place / name / f"<i>{n}.png")
        (place / "red" / "broken.png").write_bytes(b"no picture")
        datasets[dataset], paths[dataset] = Dataset(read_folder(place)), str(place)
    replies = iter(["no <b>JSON</b>\nat all", '{"evidence": [2], "ranking": ["B"], "confidence": 0.4}'] * 100)

    def reply(prompt: Prompt) -> str:
        return next(replies)

    stages = prepare(memory, model=ScriptedModel(reply), neighbors=12)
    options: dict[str, Any] = {"k": 12, "paths": paths, "progress": False}
    run_evaluation(memory, datasets, folder / "plain", **options)
    run = run_evaluation(memory, datasets, folder / "asked", stages=stages, concurrency=1, **options)
    return Made(folder / "memory", folder / "plain", folder / "asked", run)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, made: Made) -> Iterator[Served]:
    runs = ["--run", made.plain, "--run", made.asked]
    with serving(tmp_path_factory.mktemp("server"), made.memory, *runs) as running:
        yield running


def visit(browser: Browser, served: Served, path: str, *, width: int = 1280) -> None:
    browser.open_url(urllib.parse.urljoin(served.url, path), width=width)
    ready(browser)


def ready(browser: Browser) -> None:
    browser.wait_for(f"window.did_handshake === true && ({COUNT}?.includes(' of ') || {QUERY} !== null)")


def show(browser: Browser, expected: str) -> None:
    """Ask for what the filters say, and wait for the address that they make."""
    browser.click(".filters button")
    browser.wait_for(f"location.search.includes({expected!r})")
    ready(browser)


@needs_chromium
def test_a_run_is_filtered_by_data_set_outcome_reason_and_class(quiet: Browser, served: Served, made: Made) -> None:
    visit(quiet, served, "/runs?run=1")
    assert quiet.evaluate(COUNT) == "26 of 26 queries"
    for field, choice in (("dataset", "other"), ("outcome", "asked, but the vote decided")):
        pick(quiet, field, choice)
    show(quiet, "dataset=other")
    assert quiet.evaluate("document.querySelector('select[name=outcome]').value") == "asked, but the vote decided"
    expected = [o.code for o in made.run.results["other"].outcomes or () if o.code == "unusable_reply"]
    assert len(expected) == 6 and quiet.evaluate(COUNT) == "6 of 26 queries"
    assert {tuple(cells)[-1] for cells in quiet.evaluate(CELLS)} == {"unusable reply"}
    pick(quiet, "reason", "unusable_reply")
    quiet.click("input[name=label]")
    quiet.type("green")
    quiet.press("Enter")
    quiet.wait_for("location.search.includes('label=green')")
    ready(quiet)
    assert all(cells[1:3] == ["other", "green"] for cells in quiet.evaluate(CELLS))
    assert "run=1" in quiet.evaluate("location.search") and "reason=unusable_reply" in quiet.evaluate("location.search")
    quiet.evaluate("history.back()")
    quiet.wait_for("!location.search.includes('label=')")
    ready(quiet)
    assert quiet.evaluate(COUNT) == "6 of 26 queries"


def pick(browser: Browser, field: str, choice: str) -> None:
    """Choose from a list of the browser's own, whose menu is no part of the page."""
    list_ = f"document.querySelector('select[name={field}]')"
    browser.evaluate(f"{list_}.value = {choice!r}")
    assert browser.evaluate(f"{list_}.value") == choice


@needs_chromium
def test_a_query_tells_what_the_run_saw_and_what_the_model_said(quiet: Browser, served: Served) -> None:
    visit(quiet, served, "/runs?run=1&outcome=asked%2C+but+the+vote+decided")
    quiet.click("[aria-label=Queries] tbody a")
    quiet.wait_for("location.pathname === '/runs/query'")
    ready(quiet)
    quiet.wait_for("document.querySelectorAll('.neighbors li').length >= 10")
    text = quiet.evaluate("document.querySelector('.page').innerText")
    assert "no <b>JSON</b>\nat all" in text and "unusable_reply" in text and "<i>" in text
    assert ODD in text or "blue" in text
    quiet.wait_for("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert quiet.evaluate("document.querySelectorAll('[onerror], .page b, .page i').length") == 0
    query = quiet.evaluate("document.querySelector('.asked .id').innerText")
    quiet.evaluate("[...document.querySelectorAll('.pager a')].find(a => a.innerText.includes('next')).id = 'next'")
    quiet.click("#next")
    quiet.wait_for(f"![undefined, {query!r}].includes(document.querySelector('.asked .id')?.innerText)")
    assert "outcome=asked" in quiet.evaluate("location.search")


@needs_chromium
def test_evidence_is_marked_in_words(quiet: Browser, served: Served) -> None:
    visit(quiet, served, "/runs?run=1&reason=reranked")
    quiet.click("[aria-label=Queries] tbody a")
    quiet.wait_for("document.querySelectorAll('.neighbors .evidence').length === 1")
    shown = quiet.evaluate("document.querySelector('.neighbors .evidence').innerText")
    assert "#2 · " in shown and "★ evidence" in shown


@needs_chromium
def test_two_runs_stand_side_by_side(quiet: Browser, served: Served) -> None:
    visit(quiet, served, "/runs")
    pick(quiet, "against", "1")
    pick(quiet, "run", "0")
    show(quiet, "against=1")
    assert quiet.evaluate(COUNT) == "24 of 24 queries"
    assert "plain" in quiet.evaluate("document.querySelector('.conclusion').innerText")
    pick(quiet, "outcome", "another answer")
    show(quiet, "outcome=another")
    cells = quiet.evaluate(CELLS)
    assert cells and all(row[3] != row[4] for row in cells)
    quiet.click("[aria-label=Queries] tbody a")
    quiet.wait_for("document.querySelectorAll('.decision .view').length === 2")
    assert quiet.evaluate("[...document.querySelectorAll('.decision .view h3')].map(node => node.innerText)") == [
        "plain",
        "asked",
    ]


@needs_chromium
def test_a_picture_that_could_not_be_read_says_why(quiet: Browser, served: Served) -> None:
    visit(quiet, served, "/runs?run=0&outcome=unreadable+pictures")
    assert quiet.evaluate(COUNT) == "2 of 26 queries"
    quiet.click("[aria-label=Queries] tbody a")
    quiet.wait_for("document.querySelector('.facts') !== null")
    assert "is not a picture" in quiet.evaluate("document.querySelector('.facts').innerText")
    assert quiet.evaluate("document.querySelector('.query .nothing').ariaLabel") == "the query: no picture"


@needs_chromium
@pytest.mark.parametrize("path", ["/runs?run=1", "/runs?run=0&against=1", "/runs/query?run=1&in=seen&id=none"])
def test_a_phone_needs_no_scrolling_sideways(quiet: Browser, served: Served, path: str) -> None:
    browser_url = urllib.parse.urljoin(served.url, path)
    quiet.open_url(browser_url, width=PHONE)
    quiet.wait_for("document.querySelector('[aria-label=Queries], .pager') !== null")
    assert quiet.evaluate("document.documentElement.scrollWidth") <= PHONE


@needs_chromium
def test_nonsense_in_an_address_is_answered_with_what_there_is(quiet: Browser, served: Served) -> None:
    visit(quiet, served, "/runs?run=99&against=x&page=-3&dataset=%3Cb%3E")
    assert quiet.evaluate(COUNT) == "0 of 26 queries"
    quiet.open_url(urllib.parse.urljoin(served.url, "/runs/query?run=1&in=seen&id=none"))
    quiet.wait_for("document.querySelector('[role=alert]') !== null")
    assert quiet.evaluate("document.querySelector('[role=alert]').innerText") == "The run has no such query."


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    assert Shelf([tmp_path / "a" / "run", tmp_path / "b" / "other"]).names == ["run", "other"]
    one, other = tmp_path / "a" / "run", tmp_path / "b" / "run"
    assert Shelf([one, other]).names == [str(one), str(other)]


def test_a_run_is_read_again_when_its_log_has_grown(made: Made, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    lines = (made.plain / LOG).read_bytes().splitlines(keepends=True)
    (folder / LOG).write_bytes(b"".join(lines[:5]))
    shelf, choice = Shelf([folder]), Choice(0)
    before = shelf.version(choice)
    assert len(shelf.look(choice).table) == 4
    (folder / LOG).write_bytes(b"".join(lines))
    assert shelf.version(choice) != before and len(shelf.look(choice).table) == 26


@pytest.mark.parametrize(
    ("asked", "choice"),
    [
        ({}, Choice(0)),
        ({"run": "1"}, Choice(1)),
        ({"run": "1", "against": "0"}, Choice(1, 0)),
        ({"run": "1", "against": "1"}, Choice(1)),
        ({"run": "2"}, Choice(0)),
        ({"run": "-1", "against": "01"}, Choice(0)),
    ],
)
def test_a_choice_that_cannot_be_followed_falls_back_to_the_first_run(asked: dict[str, str], choice: Choice) -> None:
    assert Choice.of(asked, runs=2) == choice
