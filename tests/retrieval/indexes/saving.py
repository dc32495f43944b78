"""Saving an index in a test, and looking at what lies on the disk."""

import multiprocessing
import shutil
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path

import numpy as np

from retrieval.indexes.base import ArrayBlocks
from retrieval.indexes.saved import Stored, build_stored
from retrieval.indexes.scann import BRUTE_FORCE_BELOW

Vectors = Callable[..., np.ndarray]
TREE = BRUTE_FORCE_BELOW + 500


def keys_of(items: int, *, first: int = 10**12) -> np.ndarray:
    return np.arange(first, first + items)


def save(vectors: np.ndarray, folder: Path, *, stamp: str = "") -> Stored:
    return build_stored("scann", ArrayBlocks(vectors), keys_of(len(vectors)), folder, stamp=stamp)


def live(folder: Path) -> Path:
    return folder / (folder / "current").read_text()


def copied(index: Path, folder: Path) -> Path:
    """Return a copy of a saved index, to be changed by one test."""
    return shutil.copytree(index, folder / "index")


def processes() -> ForkServerContext:
    """Return what starts processes that have imported already what saves an index."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "tests.retrieval.indexes.warm"])
    return context
