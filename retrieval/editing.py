"""Edits of a memory, one at a time: each waits for its turn, is one version, and carries the snapshot along."""

import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import Float, Int

from retrieval.embedders.execution import Execution
from retrieval.errors import DuplicateId, IndexUnavailable, InvalidArgument, UnknownItem
from retrieval.forgetting.dropped import clear_indexes, keep_account
from retrieval.labels import composed, spellings, stored_text
from retrieval.snapshot import Snapshot
from retrieval.storage.commands import command
from retrieval.storage.commits import append, compact, record, replace, restore, set_reliability
from retrieval.storage.locking import writer_lock
from retrieval.storage.schema import ItemBatch, to_arrow
from retrieval.storage.table import ItemTable

if TYPE_CHECKING:
    import pyarrow

_logger = logging.getLogger(__name__)
_NAMED: Final = 3  # of many ids in a message


@dataclass(frozen=True, slots=True)
class Put:
    """What became of a batch."""

    added: int = 0
    replaced: int = 0
    skipped: int = 0


class Editor:
    """Writes the versions of a memory; its snapshot is of the one opened or written last."""

    def __init__(self, table: ItemTable, path: Path) -> None:
        """Take over a table, and the memory's folder."""
        self.table = table
        self.path = path
        self._advancing = threading.RLock()  # held while table and snapshot are not of the same version
        self._snapshot = Snapshot(table, path)

    @property
    def snapshot(self) -> Snapshot:
        """The version that is read."""
        return self._snapshot

    @contextmanager
    def turn(self) -> Iterator[Snapshot]:
        """Wait for the right to write, and move on to the latest version; what is written then is one command.

        Raises:
            MemoryBusy: another writer holds it for long.
            StorageError: the folder cannot be written.
        """
        with writer_lock(self.path), self._advancing, command():
            self.refresh()
            yield self._snapshot

    def refresh(self) -> bool:
        """Move on to the latest version; tell whether another one had been written."""
        with self._advancing:
            moved = self.table.refresh()
            if moved:
                self._snapshot = Snapshot(self.table, self.path)
        return moved

    def follow(self, gone: Int[np.ndarray, " gone"]) -> None:
        """Move on to the latest version, which this process made from that of the snapshot by erasing some slots."""
        with self._advancing:
            living = len(self.table) - len(gone)
            if self.table.refresh() and len(self.table) == living:
                self._advance(gone, self.table.light_columns(fragments=[]))
            else:  # others, whose erasure had been cut off, went with them
                self._snapshot = Snapshot(self.table, self.path)

    def put(self, batch: ItemBatch, *, on_duplicate: str, made_by: Execution | None = None) -> Put:
        """Add items whose ids differ from one another; see `VisualMemory.add` for those that are there already."""
        with self.turn() as snapshot:
            slots = snapshot.rows.find(list(batch.ids))
            there = slots >= 0
            rows = to_arrow(batch, self.table.dataset.schema)
            if on_duplicate == "error" and there.any():
                raise duplicate([id_ for id_, known in zip(batch.ids, there, strict=True) if known])
            if on_duplicate == "skip":
                rows, slots = rows.filter(~there), slots[:0]
            if made_by and len(rows):
                self._record(made_by)
            dead = slots[slots >= 0]
            if len(dead):
                self._replace(snapshot, dead, rows, deed="replace")
            elif len(rows):
                self._advance(dead, append(self.table, rows))
        return Put(len(rows) - len(dead), len(dead), len(there) - len(rows))

    def forget(self, slots: Int[np.ndarray, " gone"]) -> None:
        """Take items away from the version that `turn` gave."""
        self._replace(self._snapshot, slots, None, deed="forget")

    def relabel(self, slots: Int[np.ndarray, " items"], labels: Sequence[str]) -> None:
        """Give items of the version that `turn` gave other labels."""
        import pyarrow as pa

        rows = self.table.take_at(self._snapshot.rows.addresses(slots))
        place = rows.column_names.index("label")
        rows = rows.set_column(place, rows.schema.field(place), pa.array(labels, pa.string()))
        self._replace(self._snapshot, slots, rows, deed="relabel")

    def _replace(
        self, snapshot: Snapshot, slots: Int[np.ndarray, " gone"], rows: "pyarrow.Table | None", *, deed: str
    ) -> None:
        """Replace the items in some slots of a snapshot; the present one may have others since `record`."""
        if len(slots):
            addresses = snapshot.rows.addresses(slots)
            self._advance(slots, replace(self.table, addresses, rows, deed=deed))

    def _advance(self, dead: Int[np.ndarray, " dead"], new: "pyarrow.Table") -> None:
        self._snapshot = self._snapshot.changed(self.table, dead, new)

    def _record(self, execution: Execution) -> None:
        if execution not in self.table.settings.executions:
            record(self.table, execution)
            self._advance(np.empty(0, np.int64), self.table.light_columns(fragments=[]))

    def set_reliability(self, values: Float[np.ndarray, " items"] | None) -> None:
        """Write down how far the items of the version that `turn` gave can be relied on, in row order."""
        set_reliability(self.table, values)
        self._snapshot = Snapshot(self.table, self.path)

    def restore(self, version: int | str, *, deed: str = "checkout") -> None:
        """Make the items of an earlier version those of a new one."""
        with self.turn():
            restore(self.table, version, deed=deed)
            self._snapshot = Snapshot(self.table, self.path)

    def compact(self, *, keep: int) -> int:
        """Write small files together and drop old versions; return how many.

        What the index holds of items that no version has any more goes too.
        """
        with self.turn():
            dropped = compact(self.table, keep=keep, before_dropping=keep_account)
            try:
                clear_indexes(self.table)
            except IndexUnavailable as error:  # an erasure, or the next time, finds the same by their keys
                _logger.warning("Items that are in no version any more stay in the index: %s", error)
            self._snapshot = Snapshot(self.table, self.path)
        return dropped

    def select(
        self, *, ids: Iterable[object] | None = None, label: str | None = None, where: str | None = None
    ) -> Int[np.ndarray, " found"]:
        """Return the slots of the items that one of three ways of choosing means.

        Raises:
            InvalidArgument: none or several ways, or a condition that is none.
            UnknownItem: ids that are not there, or a label or a condition that nothing has.
        """
        if sum(choice is not None for choice in (ids, label, where)) != 1:
            raise InvalidArgument("say which items: give one of ids, label and where")
        rows = self._snapshot.rows
        if ids is not None:
            return np.unique(self._snapshot.slots_of(ids))
        if label is not None:
            slots = rows.with_label(composed(label) if isinstance(label, str) else stored_text(label, "label"))
        else:  # written by hand, its texts may be spelt otherwise than those that are kept
            tries = dict.fromkeys([composed(str(where)), *spellings(str(where))])
            slots = rows.at_addresses(next(filter(len, map(self.table.select, tries)), np.empty(0, np.uint64)))
        if not len(slots):
            wanted = f"with the label {label!r}" if label is not None else f"where {where}"
            raise UnknownItem(f"{self.path} has no item {wanted}: nothing was changed", ids=())
        return slots


def duplicate(ids: Sequence[str]) -> DuplicateId:
    """Return the error about ids that are there already."""
    named = tuple(ids[:_NAMED])
    return DuplicateId(
        f"these ids are there already or come twice: {', '.join(named)}; skip or replace them, or choose other ids",
        ids=named,
    )
