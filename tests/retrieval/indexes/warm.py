"""Imports and compiles what building an index needs, for processes that are forked from one that did so."""

import tempfile
from pathlib import Path

import numpy as np
import scann.scann_ops.py.scann_ops_pybind  # noqa: F401 - a second's work

from retrieval.indexes.base import ArrayBlocks
from retrieval.indexes.fixed_point import FixedPointRows

with tempfile.TemporaryDirectory() as folder:
    vectors = np.eye(4, 16, dtype=np.float32)
    rows = FixedPointRows.write(ArrayBlocks(vectors), Path(folder))
    rows.ranked(vectors, np.zeros((4, 2), np.uint32), np.zeros((4, 2), np.float32), None)
