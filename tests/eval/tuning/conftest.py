"""Held-out queries for races."""

import pytest

from eval.types import Dataset, Sample
from tests.conftest import COLOURS, draw


@pytest.fixture
def held_out() -> dict[str, Dataset]:
    """Return two data sets with 24 queries each, no two of them alike."""
    samples = [
        Sample(f"{label}/{number}", draw(tuple(c + number for c in colour), number % 12), frozenset([label]))  # type: ignore[arg-type]
        for label, colour in COLOURS.items()
        for number in range(16)
    ]
    return {"a": Dataset(samples[::2]), "b": Dataset(samples[1::2])}
