"""A memory of three colours and queries of two, for tests of runs."""

from pathlib import Path

import pytest

from eval.types import Sample
from retrieval import VisualMemory
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
