"""The memory that items are erased from."""

from pathlib import Path

import pytest

from retrieval.embedders.base import foreign_vectors
from retrieval.memory import VisualMemory
from tests.retrieval.erasing.erasures import DIMENSION, put


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    """Return a memory of three versions with 30 items each: a/0, …, b/0, …, c/0, …."""
    path = tmp_path / "memory"
    VisualMemory.create(path, embedder=foreign_vectors("made", DIMENSION))
    for seed, name in enumerate("abc"):
        put(path, [f"{name}/{number}" for number in range(30)], seed)
    return path
