"""Adding items to a memory: streamed, committed a batch at a time, so that a run that was cut off can be run again."""

import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

import numpy as np

from retrieval.disk import writing
from retrieval.editing import Editor, Put, duplicate
from retrieval.embedders.execution import Execution
from retrieval.errors import InvalidArgument
from retrieval.folder import Item
from retrieval.images import ImageLike
from retrieval.labels import stored_text, stored_texts
from retrieval.pipeline import EmbeddedBatch
from retrieval.storage.schema import ItemBatch
from retrieval.vectors import VectorsLike, as_array, to_unit_vectors

if TYPE_CHECKING:
    import pyarrow

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
        """Yield items in batches with their vectors; see `retrieval.pipeline.embed_images`."""
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
