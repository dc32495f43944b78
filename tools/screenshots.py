"""Make the two pictures of the documentation anew, from scanned digits: the page of a query, and a report's cards.

Run by ``make screenshots``; it needs a Chromium on the PATH.
"""

import sys
import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image

from agent.classify import prepare
from eval.datasets.trees import read_folder
from eval.demo import run_demo
from eval.report.page import REPORT, write_pages
from eval.runs.finished import summarise
from eval.runs.runner import run_evaluation
from eval.types import Dataset
from eval.workbench import model_or_stand_in
from retrieval import VisualMemory

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the tests' own browser and server

from tests.browser import Browser  # noqa: E402
from tests.serving import serving  # noqa: E402

WIDTH, HEIGHT = 1280, 800
COLOURS = 128  # of a PNG, which keeps it below 200 KB


def main() -> None:
    """Build a memory, look twice at shifted digits, and take the pictures."""
    images = ROOT / "docs" / "images"
    images.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        run_demo(folder / "demo", queries=60, limit=600)
        memory = VisualMemory.open(folder / "demo" / "memory")
        datasets = {name: Dataset(read_folder(folder / "demo" / "queries" / name)) for name in ("original", "noisy")}
        stages = prepare(memory, model=model_or_stand_in("none"), k=20, when="always")
        run = run_evaluation(memory, datasets, folder / "run", k=20, stages=stages)
        write_pages(run, summarise(run, folder / "run"), folder / "run", memory=memory, datasets=datasets)
        item = min(item for item in memory.snapshot().ids.tolist() if item.startswith("4/"))
        options = ("--k", 24, "--model", "scripted", "--no-cache")
        with Browser(folder / "profile") as browser, serving(folder / "served", memory.path, *options) as served:
            browser.prefer(dark=False)
            browser.open_url(f"{served.url}?item={item}", width=WIDTH, height=HEIGHT)
            browser.wait_for("document.querySelectorAll('.neighbors img').length === 24")
            browser.evaluate(
                "[...document.querySelectorAll('button')].find(b => b.innerText.startsWith('Ask')).click()"
            )
            browser.wait_for("document.querySelector('.decision') !== null")
            save(browser, images / "page.png", top=0, height=1300)
            browser.open(folder / "run" / REPORT, width=WIDTH, height=HEIGHT)
            browser.evaluate("document.querySelector('#gallery details').open = false")
            top = browser.evaluate("document.getElementById('queries').getBoundingClientRect().top + scrollY")
            save(browser, images / "report.png", top=int(top) - 16, height=1000)


def save(browser: Browser, path: Path, *, top: int, height: int) -> None:
    """Write a part of the page as a small PNG."""
    browser.wait_for("[...document.images].filter(image => image.loading !== 'lazy').every(image => image.complete)")
    browser.screenshot(path)
    whole = Image.open(BytesIO(path.read_bytes())).convert("RGB")
    part = whole.crop((0, top, WIDTH, min(top + height, whole.height)))
    part.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()
