"""A memory of three colours, queries of two, and the browser that tests of pages share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from eval.types import Sample
from retrieval import VisualMemory
from tests.browser import Browser
from tests.conftest import draw


@pytest.fixture(scope="module")
def memory(built: Path) -> VisualMemory:
    return VisualMemory.open(built)


@pytest.fixture
def queries() -> list[Sample]:
    colours = {"red": (190, 40, 40), "blue": (50, 60, 190)}
    return [
        Sample(f"{label}/{number}", draw(colour, number), frozenset([label]))
        for label, colour in colours.items()
        for number in range(12)
    ]


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Return the browser that all tests of pages share."""
    with Browser(tmp_path_factory.mktemp("browser") / "profile") as running:
        yield running


@pytest.fixture
def quiet(browser: Browser) -> Iterator[Browser]:
    """Return the browser, and see that no page complains or asks for anything elsewhere."""
    browser.open_url("about:blank")  # away from the page of a server that has ended
    browser.troubles.clear()
    yield browser
    assert browser.troubles == []
