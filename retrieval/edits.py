"""What is added to a memory: streamed, a batch at a time, so that a run that was cut off can simply be run again."""

import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

import numpy as np

from retrieval.embedders.base import Execution
from retrieval.embedding import EmbeddedBatch
from retrieval.errors import DuplicateId, InvalidArgument
from retrieval.images import ImageLike
from retrieval.labels import stored_text, stored_texts
from retrieval.sources import Item
from retrieval.storage.places import writing
from retrieval.storage.table import ItemBatch
from retrieval.vectors import VectorsLike, as_array, to_unit_vectors

if TYPE_CHECKING:
    import pyarrow


_NAMED: Final = 3  # of many ids in a message


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

    def count(self, batch: "AddReport") -> None:
        """Add what became of some more."""
        self.added += batch.added
        self.replaced += batch.replaced
        self.skipped += batch.skipped


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


def batch_of_vectors(
    ids: Iterable[object], labels: Iterable[object], vectors: VectorsLike, dimension: int, on_duplicate: str
) -> tuple[ItemBatch | None, int]:
    """Return ready features as a batch without repeated ids, None for no items, and how many were left out of it."""
    import pyarrow as pa

    check_choice(on_duplicate)
    ids, labels = stored_texts(ids, "id"), stored_texts(labels, "label")
    vectors = as_array(vectors)
    count = len(vectors) if vectors.ndim else 0
    if not len(ids) == len(labels) == count:
        raise InvalidArgument(
            f"got {len(ids)} ids, {len(labels)} labels and {count} vectors: one of each per item expected"
        )
    if not len(ids):
        return None, 0
    id_column, label_column = pa.array(ids, pa.string()), pa.array(labels, pa.string())
    unit = to_unit_vectors(vectors, dimension=dimension)
    first = _first_occurrences(id_column)
    if on_duplicate == "error" and not first.all():
        raise duplicate(id_column.filter(pa.array(~first)).to_pylist())
    # Of two to be replaced by one another the later stays, as in a stream.
    last = _first_occurrences(id_column.take(pa.array(np.arange(len(ids))[::-1])))[::-1]
    stays = last if on_duplicate == "replace" else first
    ids_that_stay, their_labels = id_column.filter(pa.array(stays)), label_column.filter(pa.array(stays))
    no_value = pa.nulls(len(ids_that_stay))
    batch = ItemBatch(ids_that_stay.to_pylist(), their_labels, unit[stays], no_value, no_value, no_value)
    return batch, int((~stays).sum())


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


def pick_new(
    items: Iterable[Item], are_there: Callable[[list[str]], np.ndarray], on_duplicate: str, report: AddReport
) -> Iterator[Item]:
    """Yield the items that are to be embedded, and deal with those whose ids are there already."""
    seen: set[str] = set()
    remaining = iter(items)
    while some := [
        replace(item, id=stored_text(item.id, "id"), label=stored_text(item.label, "label"))
        for item in itertools.islice(remaining, _LOOKED_UP_TOGETHER)
    ]:
        for item, there in zip(some, are_there([item.id for item in some]).tolist(), strict=True):
            if on_duplicate == "replace" or not (there or item.id in seen):
                seen.add(item.id)
                yield item
            elif on_duplicate == "skip":
                report.skipped += 1
            else:
                raise duplicate([item.id])


def gather_commits(batches: Iterable[EmbeddedBatch[Item]], report: AddReport) -> Iterator[ItemBatch]:
    """Gather embedded batches until there is enough to commit, or enough time has gone into them."""
    waiting: dict[str, tuple[Any, ...]] = {}  # by id: of two to be replaced by one another, the later stays
    since = time.monotonic()
    for batch in itertools.chain(batches, [None]):
        if batch is not None:
            made = zip(batch.items, batch.vectors, batch.thumbnails, batch.digests, strict=True)
            for item, vector, small, digest in made:
                waiting[item.id] = (item.id, item.label, vector, small, item.source, digest)
            report.unreadable.extend((failure.item.id, str(failure.error)) for failure in batch.failures)
        is_due = batch is None or len(waiting) >= _COMMIT_ITEMS or time.monotonic() - since >= _COMMIT_SECONDS
        if waiting and is_due:
            ids, labels, vectors, thumbnails, sources, digests = zip(*waiting.values(), strict=True)
            yield ItemBatch(ids, labels, np.stack(vectors), thumbnails, sources, digests)
            waiting.clear()
            since = time.monotonic()


def check_choice(on_duplicate: str) -> None:
    """Raise InvalidArgument unless it is one of `ON_DUPLICATE`."""
    if on_duplicate not in ON_DUPLICATE:
        raise InvalidArgument(f"on_duplicate={on_duplicate!r}: choose one of {', '.join(ON_DUPLICATE)}")


def _first_occurrences(ids: "pyarrow.Array") -> np.ndarray:
    """Tell for each id whether it stands there for the first time."""
    codes = ids.dictionary_encode().indices.to_numpy()  # numbered in order of first occurrence
    first = np.ones(len(codes), bool)
    first[1:] = codes[1:] > np.maximum.accumulate(codes)[:-1]
    return first
