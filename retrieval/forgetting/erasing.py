"""Erasing items from a memory's table: which versions go with them, and the steps by which they go.

Only the files that hold the items are written anew, with their rows blank: all others stay where they are, so that
neither what is known of them in memory nor the order of the table changes. What it takes grows with those files, and
with the rows that edits left dead; with the table only when a process first looks through it.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from retrieval.disk import reading
from retrieval.errors import UnknownItem
from retrieval.forgetting.dropped import DroppedRows
from retrieval.forgetting.stored_rows import Group
from retrieval.forgetting.table_files import TableFiles
from retrieval.labels import asked_ids, is_text, spellings
from retrieval.storage.commands import said_of
from retrieval.storage.commits import replace
from retrieval.storage.table import ItemTable
from retrieval.storage.versions import tags_on


@dataclass(frozen=True, slots=True)
class Erasure:
    """What erasing some items would take along."""

    versions: list[int]  # of the table, that hold them
    tags: dict[str, int]  # on those, with their versions


def plan_erasure(path: Path, keys: Int[np.ndarray, " keys"]) -> Erasure:
    """Return which versions hold some items, the latest one among them, and the tags on them: erasing drops both.

    Raises:
        NotAMemory: there is no memory at the path.
    """
    table = ItemTable.open(path)
    with reading(path):
        files = TableFiles(table.uri)
        versions = files.holding(files.under(keys))
        return Erasure(versions, tags_on(path, versions))


def keys_of_ids(path: Path, ids: Collection[str]) -> Int[np.ndarray, " keys"]:
    """Return every key that items of some ids have or had, in any version that is left or was dropped.

    Raises:
        NotAMemory: there is no memory at the path.
        InvalidArgument: an id that is no text.
        UnknownItem: no version holds or held an item of one of the ids.
    """
    return _keys_of_ids(path, ids, TableFiles.keys_of)


def dead_keys_of_ids(path: Path, ids: Collection[str]) -> Int[np.ndarray, " keys"]:
    """Return every key that items of some ids had which are not in the latest version.

    Raises:
        as `keys_of_ids`.
    """
    return _keys_of_ids(path, ids, TableFiles.dead_keys_of)


def _keys_of_ids(
    path: Path, ids: Collection[str], look: Callable[[TableFiles, set[str]], dict[str, set[int]]]
) -> Int[np.ndarray, " keys"]:
    asked = {id_: spellings(id_) if is_text(id_) else [] for id_ in asked_ids(ids)}
    every = {spelling for forms in asked.values() for spelling in forms}
    table = ItemTable.open(path)
    with reading(path):
        files = TableFiles(table.uri)
        found = look(files, every)
    dropped = DroppedRows.of(table, files.versions()).keys_of(every)
    there = found.keys() | dropped.keys()
    missing = [id_ for id_, forms in asked.items() if there.isdisjoint(forms)]
    if missing:
        named = "item " if len(missing) == 1 else "items "
        named += ", ".join(map(repr, missing[:3]))
        named += f" and {len(missing) - 3:,} more" if len(missing) > 3 else ""
        raise UnknownItem(
            f"no version of {path} holds {named}: nothing was changed; `vmem memory search` shows ids",
            ids=tuple(missing[:3]),
        )
    keys = [key for theirs in (*found.values(), *dropped.values()) for key in theirs]
    return np.unique(np.array(keys, np.int64))


def unlink(table: ItemTable, keys: Int[np.ndarray, " keys"]) -> None:
    """Take the items with some keys out of the latest version, where they are in it: the first step, one version.

    Raises:
        StorageError: the disk refuses.
    """
    with reading(table.path):
        addresses = TableFiles(table.uri).addresses(keys)
    if len(addresses):
        replace(table, addresses, None, deed="erase")


def rewrite(uri: str, places: Mapping[Group, Int[np.ndarray, " rows"]]) -> list[str]:
    """Write the files of the latest version that hold some dead rows anew, without them; return their names."""
    import lance

    files = TableFiles(uri)
    fragments = files.blanked(places)
    if fragments:
        change = lance.LanceOperation.Update(updated_fragments=fragments)
        version = files.dataset.version
        change = lance.Transaction(version, change, transaction_properties=said_of(version + 1, "erase"))
        lance.LanceDataset.commit(files.dataset, change)
    return sorted(file.path for fragment in fragments for file in fragment.files)
