"""Pages of runs and comparisons in headless Chromium: real clicks and keys, hostile labels, a phone, many queries."""

from pathlib import Path

import pytest

from agent import ScriptedModel
from agent.classify import prepare
from eval.comparing import compare_runs, compare_with_vote
from eval.metrics.rerank import sum_spending
from eval.metrics.votes import measure
from eval.report.comparison_page import write_comparison
from eval.report.page import write_report
from eval.runs.runner import run_evaluation
from eval.types import Dataset, Run, Sample, Summary
from retrieval import VisualMemory
from tests.browser import Browser, needs_chromium
from tests.conftest import draw
from tests.eval.made_runs import made_run
from tests.markup import HOSTILE

pytestmark = needs_chromium
PHONE = 390  # pixels
COUNT = "document.getElementById('count').textContent"
ARTICLES = "[...document.querySelectorAll('#gallery article')]"
SHOWN = f"{ARTICLES}.map(node => node.innerText)"


def write(path: Path, run: Run, **options: object) -> Path:
    spending = {name: sum_spending(results.outcomes) for name, results in run.results.items() if results.outcomes}
    given = {"memory": None, "datasets": {}, "folder": path.parent} | options
    write_report(path, run, Summary(measure(run), spending), **given)  # type: ignore[arg-type]
    return path


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of 50,000 queries in two data sets."""
    labels = [f"n{1_440_764 + number:08}" for number in range(1000)]
    run = made_run({"val": 40_000, "sketch": 10_000}, rerank=True, labels=labels)
    return write(tmp_path_factory.mktemp("many") / "report.html", run)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> tuple[Path, Run]:
    """Return the folder of a real run over hostile labels and ids, whose model replies no better."""
    folder = tmp_path_factory.mktemp("hostile")
    memory = VisualMemory.create(folder / "memory", embedder=str(checkpoint))
    colours = [(200, 0, 0), (0, 0, 200), (0, 200, 0), (90, 90, 90), (200, 200, 0), (200, 0, 200), (0, 0, 0), (9, 99, 0)]
    for label, colour in zip(HOSTILE, colours, strict=True):
        memory.add([(f"{label[:50]}{number}", label, draw(colour, number)) for number in range(3)])
    samples = [
        Sample(f"{label[:50]}-query", draw(colour, 5), frozenset([HOSTILE[0], label]))
        for label, colour in zip(HOSTILE, colours, strict=True)
    ]
    replies = iter([HOSTILE[0], HOSTILE[1]] * 2)
    model = ScriptedModel(lambda prompt: next(replies, '{"evidence": [1], "ranking": ["B"]}'))
    stages = prepare(memory, model=model, neighbors=12)
    sets = {"q": Dataset(samples)}
    run = run_evaluation(memory, sets, folder / "run", k=12, stages=stages, concurrency=1, progress=False)
    write(folder / "run" / "report.html", run, memory=memory, datasets=sets, folder=folder / "run")
    return folder / "run", run


def open_page(browser: Browser, page: Path, *, width: int = 1280) -> None:
    browser.open(page, width=width)
    browser.wait_for(f"{COUNT} !== ''")


def choose(browser: Browser, name: str, *, down: int) -> None:
    """Choose in a list by keys, as a person without a mouse does."""
    before = browser.evaluate(COUNT)
    browser.evaluate(f"document.querySelector('#filters [name={name}]').focus()")
    for _ in range(down):
        browser.press("ArrowDown")
    browser.wait_for(f"{COUNT} !== {before!r}")


def show_all(browser: Browser) -> None:
    before = browser.evaluate(COUNT)
    browser.click("#filters [name=pictured]")
    browser.wait_for(f"{COUNT} !== {before!r}")


def test_hostile_labels_and_replies_run_nothing_and_are_text(quiet: Browser, hostile: tuple[Path, Run]) -> None:
    folder, _ = hostile
    open_page(quiet, folder / "report.html")
    assert quiet.evaluate("document.title") == "Visual memory: report"
    assert quiet.evaluate("document.querySelectorAll('[onerror]').length") == 0
    assert quiet.evaluate("document.querySelectorAll('script').length") == 4
    shown = "\n".join(quiet.evaluate(SHOWN))
    assert "</script><script>document.title = 'owned'</script>" in shown and "<img src=x onerror" in shown
    assert "\u202e" not in quiet.evaluate("document.body.innerText") and "�gnp.exe" in shown


def test_a_reply_and_its_prompt_unfold_as_text(quiet: Browser, hostile: tuple[Path, Run]) -> None:
    open_page(quiet, hostile[0] / "report.html")
    quiet.click("#gallery details:nth-of-type(1) summary")
    assert "Neighbour 1, labelled" in quiet.evaluate("document.querySelector('#gallery details[open] pre').innerText")
    quiet.click("#gallery details:nth-of-type(2) summary")
    assert '"ranking"' in quiet.evaluate("document.querySelectorAll('#gallery details[open] pre')[1].innerText")
    replies = quiet.evaluate("[...document.querySelectorAll('#gallery pre')].map((pre) => pre.textContent).join()")
    assert HOSTILE[0] in replies


def test_pictures_of_queries_and_neighbours_are_decoded(quiet: Browser, hostile: tuple[Path, Run]) -> None:
    open_page(quiet, hostile[0] / "report.html")
    pictures = "[...document.images]"
    quiet.wait_for(f"{pictures}.every(image => image.complete)")
    assert quiet.evaluate(f"{pictures}.filter(image => image.naturalWidth === 0).length") == 0
    assert quiet.evaluate("document.querySelectorAll('#gallery img').length") == 8 * (1 + 10)
    widths = "[...document.querySelectorAll('.neighbors li')].map(node => node.offsetWidth)"
    assert set(quiet.evaluate(widths)) == {80}  # however long the label is


@pytest.mark.parametrize("width", [PHONE, 1280])
def test_nothing_sticks_out_of_the_window(
    quiet: Browser, hostile: tuple[Path, Run], many: Path, tmp_path: Path, width: int
) -> None:
    folder, run = hostile
    write_comparison(tmp_path / "comparison.html", compare_with_vote(HOSTILE[3], run), [(folder, run)])
    for page in (folder / "report.html", many, tmp_path / "comparison.html"):
        open_page(quiet, page, width=width)
        quiet.evaluate("document.querySelectorAll('details').forEach(node => { node.open = true; })")
        assert quiet.evaluate("document.documentElement.scrollWidth") <= width


def test_filters_by_data_set_outcome_reason_and_class(quiet: Browser, many: Path) -> None:
    open_page(quiet, many)
    assert quiet.evaluate(COUNT) == "200 of 50,002 queries; page 1 of 10"
    show_all(quiet)
    assert quiet.evaluate(COUNT) == "50,002 of 50,002 queries; page 1 of 2,501"
    choose(quiet, "group", down=2)
    assert quiet.evaluate(COUNT).startswith("10,001 of 50,002")
    assert all("sketch: " in text for text in quiet.evaluate(SHOWN))
    choose(quiet, "outcome", down=3)  # fixed
    assert all("vote: ✗" in text and "with the model: ✓" in text for text in quiet.evaluate(SHOWN))
    choose(quiet, "reason", down=3)
    assert all("reranked: " in text for text in quiet.evaluate(SHOWN))
    quiet.click("#filters [name=label]")
    before = quiet.evaluate(COUNT)
    quiet.type('"n01440764"')
    quiet.wait_for(f"{COUNT} !== {before!r}")
    found = quiet.evaluate(SHOWN)
    assert found and all("tench" in text for text in found)


def test_unreadable_pictures_are_found_with_the_reason(quiet: Browser, many: Path) -> None:
    open_page(quiet, many)
    show_all(quiet)
    choose(quiet, "outcome", down=6)
    assert quiet.evaluate(COUNT).startswith("2 of 50,002")
    assert "it breaks off or is damaged" in quiet.evaluate(SHOWN)[0]


def test_fifty_thousand_queries_are_paged_and_filtered(quiet: Browser, many: Path) -> None:
    open_page(quiet, many)
    show_all(quiet)
    for selector, page in (("[aria-label='next page']", "2"), ("[aria-label='last page']", "2,501")):
        quiet.click(f"nav.pages {selector}")
        quiet.wait_for(f"{COUNT}.includes('page {page} of')")
    assert quiet.evaluate(f"{ARTICLES}.length") == 2
    choose(quiet, "outcome", down=2)
    assert many.stat().st_size < 10_000_000


def test_the_count_is_announced_and_every_control_has_a_name(quiet: Browser, many: Path) -> None:
    open_page(quiet, many)
    assert quiet.evaluate("document.getElementById('count').getAttribute('role')") == "status"
    controls = "[...document.querySelectorAll('input, select, button')].filter(node => node.offsetParent)"
    unnamed = f"{controls}.filter(node => !node.ariaLabel && !(node.labels || []).length && !node.textContent.trim())"
    assert quiet.evaluate(f"{unnamed}.length") == 0


def test_the_keyboard_alone_turns_pages(quiet: Browser, many: Path) -> None:
    open_page(quiet, many)
    quiet.evaluate("document.querySelector('#filters [name=pictured]').focus()")
    quiet.press("Space")
    quiet.wait_for(f"{COUNT}.startsWith('50,002')")
    quiet.press("Tab")
    quiet.press("Tab")
    assert quiet.evaluate("document.activeElement.getAttribute('aria-label')") == "next page"
    quiet.press("Enter")
    quiet.wait_for(f"{COUNT}.includes('page 2 of')")


def test_classes_sort_grow_and_lead_to_their_queries(quiet: Browser, many: Path) -> None:
    open_page(quiet, many)
    rows = "[...document.querySelectorAll('details.classes tbody')][0].rows"
    quiet.click("details.classes summary")
    quiet.wait_for(f"{rows}.length === 200")
    last = f"[...{rows}].map(row => parseFloat(row.cells[row.cells.length - 1].innerText))"
    assert quiet.evaluate(last) == sorted(quiet.evaluate(last))
    quiet.click("details.classes thead th:nth-child(2) button")
    counts = quiet.evaluate(f"[...{rows}].map(row => parseFloat(row.cells[1].innerText))")
    assert counts == sorted(counts)
    quiet.click("details.classes > button")
    quiet.wait_for(f"{rows}.length === 400")
    name = quiet.evaluate(f"{rows}[0].cells[0].innerText")
    quiet.click("details.classes tbody th button")
    quiet.wait_for(f"!{COUNT}.startsWith('200 of')")
    assert all(name in text and text.startswith(("✓", "✗")) for text in quiet.evaluate(SHOWN))


def test_a_comparison_shows_both_answers_and_filters_by_what_became_of_them(quiet: Browser, tmp_path: Path) -> None:
    before = made_run({"val": 500}, rerank=False)
    after = made_run({"val": 500}, rerank=True, centre="queries")
    write_comparison(
        tmp_path / "comparison.html",
        compare_runs([("<b>plain</b>", before), ("asked", after)]),
        [(tmp_path, before), (tmp_path, after)],
    )
    open_page(quiet, tmp_path / "comparison.html")
    text = quiet.evaluate("document.body.innerText")
    assert "Runs compared with <b>plain</b>" in text and "transductive" in text
    choose(quiet, "outcome", down=1)
    shown = quiet.evaluate(SHOWN)
    assert shown and all("<b>plain</b>: ✗" in text and "asked: ✓" in text for text in shown)
