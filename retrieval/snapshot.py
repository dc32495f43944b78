"""A memory as it is read: ids, labels and index of one version of the table, each loaded when first needed."""

import copy
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import Float, Int, Shaped

from retrieval.errors import InvalidArgument, UnknownItem, VisualMemoryWarning
from retrieval.indexes.base import DEFAULT_RECALL, MOST_RECALL
from retrieval.indexing import Source, index_layers
from retrieval.labels import asked_ids, composed
from retrieval.layers import Layers
from retrieval.rows import Rows
from retrieval.storage.layout import CENTRED_INDEX, INDEX
from retrieval.storage.table import ItemTable
from retrieval.types import Neighbors
from retrieval.vectors import centre, to_unit

if TYPE_CHECKING:
    import pyarrow

_NAMED: Final = 3  # of many ids in a message


class Snapshot:
    """Answers searches from one version; an edit makes another from it."""

    def __init__(self, table: ItemTable, path: Path, *, centred: bool = False, saves: bool = True) -> None:
        """Pin a version.

        Args:
            table: the memory's table.
            path: the memory's folder.
            centred: whether the vectors that are searched have their mean taken off.
            saves: whether an index that has to be built is kept on disk.
        """
        self._table = table.pinned()
        self.version = self._table.version_id
        self._path = path
        self._centred = centred
        self._saves = saves
        self._hidden = np.empty(0, np.int64)  # slots of the items that this one answers without

    @cached_property
    def rows(self) -> Rows:
        """The columns at hand, by slot."""
        return Rows.of(self._table)

    @cached_property
    def _layers(self) -> Layers:
        return index_layers(self._source)

    @property
    def _source(self) -> Source:
        if not self._centred:
            return Source(self._table, self.rows, self._path, INDEX, saves=self._saves)
        # A mean is one version's: an index without it serves no other.
        return Source(
            self._table,
            self.rows,
            self._path,
            CENTRED_INDEX,
            stamp=self.version,
            change=lambda vectors: centre(vectors, self.mean),
            saves=self._saves,
        )

    def __len__(self) -> int:
        return len(self.rows) - len(self._hidden)

    @property
    def hidden_ids(self) -> list[str]:
        """The ids of the items that this one answers without."""
        return self.rows.ids(self._hidden).tolist() if len(self._hidden) else []

    @cached_property
    def ids(self) -> Shaped[np.ndarray, " items"]:
        """Every id, in row order."""
        return self.rows.ids(self.rows.living())

    @cached_property
    def labels(self) -> Shaped[np.ndarray, " items"]:
        """Every label, in row order."""
        return self.rows.labels(self.rows.living())

    @cached_property
    def digests(self) -> Shaped[np.ndarray, " items"]:
        """The digest of every picture (`content_digest`), in row order; None where it is not known."""
        return self._table.digests()

    def unpruned(self) -> "Snapshot":
        """Return the same version with every item counting fully."""
        if self.reliabilities is None:
            return self
        whole = Snapshot(self._table, self._path, centred=self._centred, saves=False)
        whole.rows = Rows.of(self._table, pruned=False)
        return whole._hiding_those_of(self)

    @property
    def reliabilities(self) -> Float[np.ndarray, " items"] | None:
        """How far every item can be relied on, in row order; None where nothing is pruned (section 3.6)."""
        return self.rows.reliabilities(self.rows.living())

    def label_counts(self) -> dict[str, int]:
        """Return how many items each label has, most frequent first."""
        left = Counter[str]()
        for label, count in self._table.label_counts().items():  # which the first memories may spell in two ways
            left[composed(label)] += count
        left.subtract(self.rows.labels(self._hidden).tolist())
        return {label: left[label] for label in sorted(left, key=lambda label: (-left[label], label)) if left[label]}

    def rows_of(self, ids: Sequence[str]) -> Int[np.ndarray, " ids"]:
        """Return the rows of some ids, -1 for an id that is not there."""
        slots = self.rows.find(list(ids))
        return np.where(slots < 0, -1, self.rows.numbers_of(slots))

    def vectors(self) -> Float[np.ndarray, "items dimension"]:
        """Return every vector as it is stored, float32, in row order; read anew at each call."""
        return self._table.vectors()

    def pictures(self, rows: Int[np.ndarray, " rows"]) -> tuple[list[str], list[bytes | None]]:
        """Return the ids and thumbnails of some rows."""
        addresses = self.rows.addresses(self.rows.slots_of(rows))
        taken = self._table.take_at(addresses, ["id", "thumbnail"])
        return taken["id"].to_pylist(), taken["thumbnail"].to_pylist()

    @cached_property
    def mean(self) -> Float[np.ndarray, " dimension"]:
        """The mean of all vectors, float64."""
        total = np.zeros(self._table.dimension)
        for block in self._table:
            total += to_unit(block).sum(axis=0, dtype=np.float64)
        mean: np.ndarray = total / len(self.rows)
        return mean

    @property
    def index_kind(self) -> str:
        """The kind of index that answers, built now if need be."""
        return self._layers.stored.index.kind

    @property
    def findable(self) -> int:
        """How many items a search can find: what was pruned away takes no part."""
        return len(self._layers)

    def search(
        self, queries: Float[np.ndarray, "queries dimension"], k: int, *, recall: float = DEFAULT_RECALL
    ) -> Neighbors:
        """Return the neighbours of unit vectors, nearest first."""
        check_neighbors(k)
        if not 0 < recall <= MOST_RECALL:
            raise InvalidArgument(
                f"recall={recall}: a share above 0, up to {MOST_RECALL}, expected; index exact finds all"
            )
        items = self.findable
        if k > items:
            self._expect_items()
            said = f"k={k} is more than the {items} items in the memory: all {items} are used"
            warnings.warn(said, VisualMemoryWarning, stacklevel=3)
            k = items
        if not len(queries):
            nothing = np.empty((0, k))
            return Neighbors(nothing, nothing, nothing.astype(np.int64), lambda: nothing)
        slots, distances = self._layers.search(queries, k, recall=recall)
        rows = self.rows
        places = rows.numbers_of(slots)
        return Neighbors(rows.labels(slots), distances, places, lambda: rows.ids(slots), self._factors(slots))

    def _expect_items(self) -> None:
        if not len(self.rows):
            raise InvalidArgument("the memory is empty: add pictures with `vmem memory add MEMORY FOLDER`")
        if not self.findable:
            raise InvalidArgument("no item of the memory takes part in decisions: undo the pruning, or add pictures")

    def _factors(self, slots: np.ndarray) -> np.ndarray | None:
        factors = self.rows.reliabilities(slots)
        return factors if factors is not None and (factors != 1).any() else None

    def centred(self) -> "Snapshot":
        """Return the same version without the mean of its vectors."""
        return Snapshot(self._table, self._path, centred=True, saves=self._saves)._hiding_those_of(self)

    def _hiding_those_of(self, view: "Snapshot") -> "Snapshot":
        return self.without(view.rows.ids(view._hidden).tolist()) if len(view._hidden) else self

    def slots_of(self, ids: Iterable[object]) -> Int[np.ndarray, " ids"]:
        """Return the slots of some ids, in their order.

        Raises:
            InvalidArgument: one text in place of several.
            UnknownItem: ids that are not there.
        """
        ids = asked_ids(ids)
        slots = self.rows.find(ids)
        missing = np.flatnonzero((slots < 0) | np.isin(slots, self._hidden))
        if missing.size:
            some = tuple(ids[place] for place in missing[:_NAMED])
            which = f"item {some[0]!r}" if missing.size == 1 else f"items {', '.join(map(repr, some))}"
            which += f" and {missing.size - len(some):,} more" if missing.size > len(some) else ""
            raise UnknownItem(
                f"{self._path} has no {which}: nothing was changed; `vmem memory search` shows ids",
                ids=some,
            )
        return slots

    def without(self, ids: Iterable[object]) -> "Snapshot":
        """Return what answers as if some items were gone.

        Raises:
            UnknownItem: ids that are not there.
        """
        slots = np.unique(self.slots_of(ids))
        view = copy.copy(self)
        view._layers = self._layers.without(slots)
        view._hidden = np.union1d(self._hidden, slots)
        return view

    def changed(self, table: ItemTable, dead: Int[np.ndarray, " dead"], new: "pyarrow.Table") -> "Snapshot":
        """Return the snapshot of the version that an edit made from this one, without reading it all.

        Args:
            table: at the new version.
            dead: slots of items that are gone, or have gone to another slot.
            new: light columns of the items that came, in other slots or for the first time.
        """
        after = Snapshot(table, self._path, saves=self._saves)
        if "rows" not in vars(self) or self.rows.crowded:
            return after
        after.rows = self.rows.changed(dead, new)
        if "_layers" in vars(self):
            layers = self._relayered(after._source, dead)
            if not layers.crowded:
                after._layers = layers
        return after

    def _relayered(self, source: Source, dead: np.ndarray) -> Layers:
        before, came = self._layers, source.living_since(self.rows.slots)
        left = dict(zip(self.rows.keys(dead).tolist(), dead.tolist(), strict=True))
        pairs = (
            (left.get(key, -1), slot) for key, slot in zip(source.rows.keys(came).tolist(), came.tolist(), strict=True)
        )
        moves = {old: new for old, new in pairs if old >= 0 and before.position(old) is not None}
        gone = np.setdiff1d(dead, np.fromiter(moves, np.int64, len(moves)))
        came = np.setdiff1d(came, np.fromiter(moves.values(), np.int64, len(moves)))
        layers = before.without(gone).moving(moves)
        return layers.adding(came, source.vectors(came)) if len(came) else layers


def check_neighbors(k: object) -> None:
    """Raise InvalidArgument unless k is a whole number of at least 1."""
    if type(k) is int and k > 0:  # asked first, since asking for an Integral takes as long as finding a label
        return
    if isinstance(k, bool) or not isinstance(k, Integral) or int(k) < 1:
        raise InvalidArgument(f"k={k!r}: a whole number of neighbours, 1 or more, expected")
