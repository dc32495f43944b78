"""A memory as it is read: ids, labels and index of one version of the table, each loaded when first needed."""

import contextlib
import logging
import warnings
from collections.abc import Sequence
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float, Int, Shaped

from retrieval.errors import InvalidArgument, VisualMemoryWarning
from retrieval.indexes import build_index, choose_kind, load_index, save_index
from retrieval.indexes.base import Index
from retrieval.table import ItemTable
from retrieval.types import Neighbors
from retrieval.vectors import centre

_INDEX: Final = "index"
_CENTRED_INDEX: Final = "index-centred"
_logger = logging.getLogger(__name__)


class Snapshot:
    """Answers searches from one version; made anew after every change."""

    def __init__(self, table: ItemTable, path: Path, *, centred: bool = False) -> None:
        """Pin a version.

        Args:
            table: the memory's table.
            path: the memory's folder.
            centred: whether the vectors that are searched have their mean taken off.
        """
        self._table = table.pinned()
        self.version = self._table.version_id
        self._centred = centred
        self._index_folder = path / (_CENTRED_INDEX if centred else _INDEX)

    @cached_property
    def ids(self) -> Shaped[np.ndarray, " items"]:
        """Every id, in row order."""
        ids: np.ndarray = self._table.ids().to_numpy()
        return ids

    def rows_of(self, ids: Sequence[str]) -> Int[np.ndarray, " ids"]:
        """Return the rows of some ids, -1 for an id that is not there; looks through every id."""
        import pyarrow as pa
        import pyarrow.compute as pc

        rows = pc.index_in(pa.array(ids, pa.string()), value_set=self._table.ids().combine_chunks())
        return np.asarray(rows.fill_null(-1), np.int64)

    @cached_property
    def labels(self) -> Shaped[np.ndarray, " items"]:
        """Every label, in row order."""
        labels: np.ndarray = self._table.labels().to_numpy()
        return labels

    def vectors(self) -> Float[np.ndarray, "items dimension"]:
        """Return every vector as it is stored, float32, in row order; read anew at each call."""
        return self._table.vectors()

    @cached_property
    def mean(self) -> Float[np.ndarray, " dimension"]:
        """The mean of all vectors, float64."""
        mean: np.ndarray = self._table.vectors().mean(axis=0, dtype=np.float64)
        return mean

    @cached_property
    def index(self) -> Index:
        """The saved index where it is of this version, else a new one, saved where the disk allows."""
        saved = self.saved_index()
        if saved is not None:
            return saved
        kind = choose_kind(self._table.settings.index, items=len(self._table))
        if kind != "exact":  # which takes no time worth a word
            _logger.info("Building a %s index over %s pictures …", kind, f"{len(self._table):,}")
        vectors = self._table.vectors()
        built = build_index(kind, centre(vectors, self.mean) if self._centred else vectors)
        with contextlib.suppress(OSError):  # a memory on a read-only disk can be searched all the same
            save_index(built, self._index_folder, table_version=self.version)
        return built

    def saved_index(self) -> Index | None:
        """Return the index on disk if it is sound and of this version."""
        return load_index(self._index_folder, table_version=self.version)

    def search(self, queries: Float[np.ndarray, "queries dimension"], k: int) -> Neighbors:
        """Return the neighbours of unit vectors, nearest first."""
        check_neighbors(k)
        items = len(self._table)
        if not items:
            raise InvalidArgument("the memory is empty: add pictures with `vmem memory add MEMORY FOLDER`")
        if k > items:
            said = f"k={k} is more than the {items} items in the memory: all {items} are used"
            warnings.warn(said, VisualMemoryWarning, stacklevel=3)
        if not len(queries):
            nothing = np.empty((0, min(k, items)))
            return Neighbors(nothing, nothing, nothing, nothing.astype(np.int64))
        rows, distances = self.index.search(queries, min(k, items))
        return Neighbors(self.ids[rows], self.labels[rows], distances, rows)


def check_neighbors(k: object) -> None:
    """Raise InvalidArgument unless k is a whole number of at least 1."""
    if isinstance(k, bool) or not isinstance(k, Integral) or int(k) < 1:
        raise InvalidArgument(f"k={k!r}: a whole number of neighbours, 1 or more, expected")
