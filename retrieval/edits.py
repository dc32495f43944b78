"""Adding items to a memory: streamed, committed a batch at a time, so that a run that was cut off can be run again."""

import itertools
import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from retrieval.embedders.base import Execution
from retrieval.embedding import EmbeddedBatch
from retrieval.erasing.dropped import clear_indexes, keep_account
from retrieval.errors import DuplicateId, IndexUnavailable, InvalidArgument, UnknownItem
from retrieval.images import ImageLike
from retrieval.labels import composed, spellings, stored_text, stored_texts
from retrieval.sources import Item
from retrieval.storage.places import writer_lock, writing
from retrieval.storage.table import (
    ItemBatch,
    ItemTable,
    append,
    compact,
    record,
    replace_rows,
    restore,
    set_reliability,
    to_arrow,
)
from retrieval.storage.versions import command
from retrieval.vectors import VectorsLike, as_array, to_unit_vectors
from retrieval.version import Snapshot

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
            self._advance(slots, replace_rows(self.table, addresses, rows, deed=deed))

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


ON_DUPLICATE: Final = ("skip", "replace", "error")

_COMMIT_ITEMS: Final = 1024  # a commit is a file of the table: many small ones make it slow to open
_LOOKED_UP_TOGETHER: Final = 64
_COMMIT_SECONDS: Final = 20.0  # but no more than this much embedding is lost to a crash


@dataclass(slots=True)
class AddReport:
    """What became of the items that were offered."""

    added: int = 0
    replaced: int = 0
    skipped: int = 0  # their ids were there already
    unreadable: list[tuple[str, str]] = field(default_factory=list)  # (id, reason)

    def count(self, put: Put) -> None:
        """Add what became of a batch."""
        self.added += put.added
        self.replaced += put.replaced
        self.skipped += put.skipped


@runtime_checkable
class Embeds(Protocol):
    """Makes vectors and thumbnails of items: here (`Embedding`), or on a cluster."""

    def stream(
        self, items: Iterable[Item], *, image_of: Callable[[Item], ImageLike], thumbnail_pixels: int | None = None
    ) -> Iterator[EmbeddedBatch[Item]]:
        """Yield items in batches with their vectors; see `retrieval.embedding.embed_images`."""
        ...

    def made_how(self) -> Execution:
        """Return how they are made; asked for once the first batch is there."""
        ...


def add_items(editor: Editor, embedding: Embeds, items: Iterable[Item], *, on_duplicate: str) -> AddReport:
    """Embed items and write them to the table; see `VisualMemory.add`."""
    _check_choice(on_duplicate)
    report = AddReport()
    batches = embedding.stream(
        _wanted(items, editor, on_duplicate, report),
        image_of=lambda item: item.image,
        thumbnail_pixels=editor.table.settings.thumbnail_pixels,
    )
    for rows in _commits(batches, report):
        ids, labels, vectors, thumbnails, sources, digests = zip(*rows, strict=True)
        batch = ItemBatch(ids, labels, np.stack(vectors), thumbnails, sources, digests)
        report.count(editor.put(batch, on_duplicate=on_duplicate, made_by=embedding.made_how()))
    return report


def add_vectors(
    editor: Editor,
    ids: Iterable[str],
    labels: Iterable[str],
    vectors: VectorsLike,
    *,
    on_duplicate: str,
    made_by: Execution | None = None,
) -> AddReport:
    """Write ready features to the table as one version; see `VisualMemory.add_vectors`."""
    import pyarrow as pa

    _check_choice(on_duplicate)
    ids, labels = stored_texts(ids, "id"), stored_texts(labels, "label")
    vectors = as_array(vectors)
    count = len(vectors) if vectors.ndim else 0
    if not len(ids) == len(labels) == count:
        raise InvalidArgument(
            f"got {len(ids)} ids, {len(labels)} labels and {count} vectors: one of each per item expected"
        )
    if not len(ids):
        return AddReport()
    id_column, label_column = pa.array(ids, pa.string()), pa.array(labels, pa.string())
    unit = to_unit_vectors(vectors, dimension=editor.table.dimension)
    first = _first_occurrences(id_column)
    if on_duplicate == "error" and not first.all():
        raise duplicate(id_column.filter(pa.array(~first)).to_pylist())
    # Of two to be replaced by one another the later stays, as in a stream.
    last = _first_occurrences(id_column.take(pa.array(np.arange(len(ids))[::-1])))[::-1]
    kept = last if on_duplicate == "replace" else first
    kept_ids, kept_labels = id_column.filter(pa.array(kept)), label_column.filter(pa.array(kept))
    no_value = pa.nulls(len(kept_ids))
    batch = ItemBatch(kept_ids.to_pylist(), kept_labels, unit[kept], no_value, no_value, no_value)
    report = AddReport(skipped=int((~kept).sum()))
    report.count(editor.put(batch, on_duplicate=on_duplicate, made_by=made_by))
    return report


def list_unreadable(listing: Path, unreadable: Sequence[tuple[str, str]]) -> None:
    """Write the list of files that were passed over, id and reason of each; none, no list.

    Raises:
        StorageError: the disk refuses.
    """
    lines = (f"{json.dumps(id_)}\t{json.dumps(reason)}\n" for id_, reason in unreadable)
    with writing(listing.parent):
        if unreadable:
            listing.write_text("".join(lines))
        else:
            listing.unlink(missing_ok=True)


def _wanted(items: Iterable[Item], editor: Editor, on_duplicate: str, report: AddReport) -> Iterator[Item]:
    """Yield the items that are to be embedded, and deal with those whose ids are there already."""
    editor.refresh()
    seen: set[str] = set()
    remaining = iter(items)
    while some := list(itertools.islice(remaining, _LOOKED_UP_TOGETHER)):
        some = [_as_stored(item) for item in some]
        known = editor.snapshot.rows.find([item.id for item in some]) >= 0
        for item, there in zip(some, known.tolist(), strict=True):
            if on_duplicate == "replace" or not (there or item.id in seen):
                seen.add(item.id)
                yield item
            elif on_duplicate == "skip":
                report.skipped += 1
            else:
                raise duplicate([item.id])


_Row = tuple[str, str, np.ndarray, bytes | None, str | None, str | None]  # as in ItemBatch


def _commits(batches: Iterable[EmbeddedBatch[Item]], report: AddReport) -> Iterator[list[_Row]]:
    """Gather embedded batches until there is enough to commit, or enough time has gone into them."""
    waiting: dict[str, _Row] = {}  # by id: of two items to be replaced by one another, the later stays
    since = time.monotonic()
    for batch in batches:
        made = zip(batch.items, batch.vectors, batch.thumbnails, batch.digests, strict=True)
        for item, vector, small, digest in made:
            waiting[item.id] = (item.id, item.label, vector, small, item.source, digest)
        report.unreadable.extend((failure.item.id, str(failure.error)) for failure in batch.failures)
        if len(waiting) >= _COMMIT_ITEMS or (waiting and time.monotonic() - since >= _COMMIT_SECONDS):
            yield list(waiting.values())
            waiting.clear()
            since = time.monotonic()
    if waiting:
        yield list(waiting.values())


def _as_stored(item: Item) -> Item:
    id_, label = stored_text(item.id, "id"), stored_text(item.label, "label")
    return item if (id_, label) == (item.id, item.label) else replace(item, id=id_, label=label)


def _check_choice(on_duplicate: str) -> None:
    if on_duplicate not in ON_DUPLICATE:
        raise InvalidArgument(f"on_duplicate={on_duplicate!r}: choose one of {', '.join(ON_DUPLICATE)}")


def _first_occurrences(ids: "pyarrow.Array") -> np.ndarray:
    """Tell for each id whether it stands there for the first time."""
    codes = ids.dictionary_encode().indices.to_numpy()  # numbered in order of first occurrence
    first = np.ones(len(codes), bool)
    first[1:] = codes[1:] > np.maximum.accumulate(codes)[:-1]
    return first
