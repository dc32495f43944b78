"""Which index answers for a version: the saved one where it serves, an extended or a new one where that pays."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float, Int, Real

from retrieval.errors import StorageError
from retrieval.indexes import choose_kind
from retrieval.indexes.base import VectorBlocks
from retrieval.indexes.store import Stored, build_stored, extend_stored, load_stored
from retrieval.layers import Layers, Match, is_crowded
from retrieval.rows import Rows
from retrieval.storage.locking import writer_lock
from retrieval.storage.table import ItemTable
from retrieval.vectors import to_unit

_BLOCK: Final = 8_192  # vectors that are read at a time
_logger = logging.getLogger(__name__)
Change = Callable[[Float[np.ndarray, "some dimension"]], Float[np.ndarray, "some dimension"]]


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A version's items as an index is made from them."""

    table: ItemTable
    rows: Rows
    path: Path  # the memory's folder
    name: str  # of the index's folder in it
    stamp: str = ""  # of what the vectors are, where they are not the table's own
    change: Change | None = None  # what is done to stored vectors, of length 1, before they are searched
    saves: bool = True  # whether an index may be kept on disk

    def living(self) -> Int[np.ndarray, " items"]:
        """Return the slots of the items that take part in searches: what was pruned away does not."""
        living = self.rows.living()
        factors = self.rows.reliabilities(living)
        return living if factors is None else living[factors > 0]

    def living_since(self, slot: int) -> Int[np.ndarray, " items"]:
        """Return those of them from a slot on."""
        slots = np.arange(slot, self.rows.slots)
        factors = self.rows.reliabilities(slots)
        return slots if factors is None else slots[factors > 0]

    def blocks(self, slots: Int[np.ndarray, " some"]) -> VectorBlocks:
        """Return the vectors in some slots, read when they are gone through."""
        return _Blocks(self, slots)

    def vectors(self, slots: Int[np.ndarray, " some"]) -> Real[np.ndarray, "some dimension"]:
        """Return the vectors in some slots."""
        return self.changed(self.table.vectors_at(self.rows.addresses(slots)))

    def changed(self, stored: Real[np.ndarray, "some dimension"]) -> Real[np.ndarray, "some dimension"]:
        """Return stored vectors as they are searched."""
        return stored if self.change is None else self.change(to_unit(stored))


@dataclass(frozen=True, slots=True, eq=False)
class _Blocks:
    source: Source
    slots: Int[np.ndarray, " some"]

    @property
    def dimension(self) -> int:
        return self.source.table.dimension

    def __len__(self) -> int:
        return len(self.slots)

    def __iter__(self) -> Iterator[np.ndarray]:
        if len(self.slots) == len(self.source.rows):
            yield from map(self.source.changed, self.source.table)
        else:
            for start in range(0, len(self.slots), _BLOCK):
                yield self.source.vectors(self.slots[start : start + _BLOCK])


def index_layers(source: Source) -> Layers:
    """Return what answers for a version.

    The saved index serves whatever version it was made of. It is extended when many items are not in it, and built anew
    when there is none, when it is damaged, of another kind, or worn.
    """
    living = source.living()
    keys = source.rows.keys(living)
    # No tree is made of nothing.
    kind = choose_kind(source.table.settings.index, items=len(living)) if len(living) else "exact"
    stored = load_stored(source.path / source.name, stamp=source.stamp)
    if stored is None or stored.index.kind != kind:
        stored = _build(source, kind, living, keys)
    match = Match.by_keys(stored.keys, living, keys)
    beside = living[match.position_of[living] < 0]
    if stored.index.worn(skipped=int((match.slot_of < 0).sum())):
        stored, beside = _build(source, kind, living, keys), beside[:0]
        match = Match.by_keys(stored.keys, living, keys)
    elif is_crowded(len(beside), items=len(living)):
        stored, beside = _extend(source, stored, beside), beside[:0]
        match = Match.by_keys(stored.keys, living, keys)
    return Layers.over(stored, match, beside, source.vectors(beside))


def _build(source: Source, kind: str, living: np.ndarray, keys: np.ndarray) -> Stored:
    if kind != "exact":  # which takes no time worth a word
        _logger.info("Building a %s index over %s pictures …", kind, f"{len(living):,}")
    with _place(source) as folder:
        return build_stored(kind, source.blocks(living), keys, folder, stamp=source.stamp)


def _extend(source: Source, stored: Stored, beside: np.ndarray) -> Stored:
    with _place(source) as folder:
        return extend_stored(stored, source.blocks(beside), source.rows.keys(beside), folder)


@contextmanager
def _place(source: Source) -> Iterator[Path | None]:
    """Tell where an index may be kept: nowhere from an old version, which may hold what was erased since."""
    if not source.saves:
        yield None
        return
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(writer_lock(source.path, wait_seconds=0.0))
        except StorageError:  # a disk that can only be read, or another writer: search all the same
            yield None
            return
        yield source.path / source.name if source.table.is_latest() else None
