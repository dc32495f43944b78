"""The page: hostile labels are text, and headless Chromium, where there is one, sees what was meant."""

import shutil
import subprocess
from pathlib import Path

import pytest

from eval.report import write_report
from eval.runner import run_evaluation
from eval.types import Sample
from retrieval import VisualMemory
from tests.conftest import draw

HOSTILE = "</span><script>document.title = 'owned'</script>\u202e{{ 7 * 7 }}"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def page(tmp_path: Path, checkpoint: Path) -> Path:
    memory = VisualMemory.create(tmp_path / "memory", embedder=str(checkpoint))
    memory.add([(f"{HOSTILE}{n}", HOSTILE, draw((200, 0, 0), n)) for n in range(4)])
    memory.add([(f"plain{n}", "plain", draw((0, 0, 200), n)) for n in range(4)])
    queries = [Sample(HOSTILE, draw((200, 0, 0), 5), frozenset([HOSTILE]))]
    queries += [Sample("odd", draw((0, 0, 200), 5), frozenset(["absent"]))]
    metrics, results = run_evaluation(memory, {"queries": queries}, tmp_path / "run", k=5)
    write_report(tmp_path / "report.html", memory, {"queries": queries}, metrics, results)
    return tmp_path / "report.html"


def test_hostile_labels_are_text_on_the_page(page: Path) -> None:
    text = page.read_text()
    assert "<script" not in text and "&lt;script&gt;" in text and "{{ 7 * 7 }}" in text


def test_the_page_shows_query_neighbours_votes_and_verdict(page: Path) -> None:
    text = page.read_text()
    assert text.count("data:image/jpeg;base64,") == 2 + 2 * 5
    assert "✓ right" in text and "✗ wrong" in text and "but it is absent" in text
    assert "Not in the memory, so never answered" in text


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_runs_nothing_and_lays_the_page_out(page: Path, tmp_path: Path) -> None:
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    quiet += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command = [str(CHROMIUM), *quiet, f"--user-data-dir={tmp_path / 'browser'}", "--dump-dom", page.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "<title>Visual memory: report</title>" in shown and shown.count('class="decision') == 2
