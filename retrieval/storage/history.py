"""The history of a memory: what each version and each command did, and what lies between two versions."""

import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from retrieval.errors import UnknownVersion
from retrieval.storage.places import UNREADABLE, address_of, reading, shown
from retrieval.storage.table import RELIABILITY, Command, ItemTable, edit_said
from retrieval.storage.versions import (
    dropped_meanwhile,
    expect_sums,
    manifest,
    read_sums,
    tags_of,
    unless_dropped,
    version_numbers,
)

T = TypeVar("T")
_EDITS: Final = {  # what Lance calls the changes that carry no word of ours
    "Append": "add",
    "Delete": "forget",
    "Update": "relabel",
    "Merge": "prune",
    "Project": "prune",
    "Restore": "checkout",
    "Rewrite": "compact",
    "ReserveFragments": "compact",
    "BaseOperation": "compact",  # what pylance 14 makes of ReserveFragments, for which it has no class
    "Overwrite": "create",
    "UpdateConfig": "settings",
}
_CHANGES_NOTHING: Final = ("compact", "settings")  # that a memory holds, so that there is nothing to undo


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a memory."""

    number: int
    when: datetime
    deed: str  # add, replace, forget, relabel, prune, checkout, undo, erase, compact, settings or create
    items: int
    change: int | None  # in the number of items since the version before; None where that is gone
    tags: tuple[str, ...]
    command: Command  # that made it; of versions of before, it is not known which belong together


@dataclass(frozen=True, slots=True)
class Entry:
    """One command that was given to a memory, and the versions that it made."""

    number: int  # of its last version: the memory as the command left it
    versions: tuple[int, ...]  # that it made and that are there, newest first
    when: datetime  # the last one was made
    deed: str  # build, or as of a version
    items: int  # afterwards
    change: int | None  # in the number of items; None where the version before it is gone
    tags: tuple[str, ...]  # of all its versions
    first: int  # the version that it began with, there or not
    to: int  # the version that it went back to, of undo and checkout; otherwise 0


@dataclass(frozen=True, slots=True)
class Difference:
    """What changed between two versions, by id, in order of the ids."""

    added: tuple[str, ...]
    forgotten: tuple[str, ...]
    relabelled: Mapping[str, tuple[str, str]]  # id → label before and after
    replaced: tuple[str, ...]  # another picture or vector under the same id
    reweighted: tuple[str, ...]  # relied on more or less, by a pruning or its end


def list_versions(table: ItemTable, *, limit: int | None = None) -> list[Version]:
    """Return the versions up to the one of the table, newest first; at most ``limit``."""
    return _taken(_versions(table, table.version), limit)


def list_commands(table: ItemTable, *, limit: int | None = None) -> list[Entry]:
    """Return the commands that made the versions up to the one of the table, newest first; at most ``limit``."""
    return _taken(_entries(table, table.version), limit)


def _taken(listed: Iterator[T], limit: int | None) -> list[T]:
    return list(itertools.islice(listed, limit if limit is None else min(limit, sys.maxsize)))


def _versions(table: ItemTable, newest: int) -> Iterator[Version]:
    """Yield the versions up to one, newest first, each read when it is asked for."""
    with reading(table.path):
        tags: dict[int, list[str]] = {}
        for tag, number in tags_of(table.path).items():
            tags.setdefault(number, []).append(tag)
        sums = {} if address_of(table.path) else read_sums(table.path)
        numbers = [number for number in version_numbers(table.path) if number <= newest]
    later: Version | None = None
    for number in reversed(numbers):
        try:
            with unless_dropped(table.path, number):
                expect_sums(table.path, [manifest(number)], sums)
                dataset = table.dataset.checkout_version(number)  # which keeps what it has read at hand
                found = _read_version(dataset, tuple(sorted(tags.get(number, ()))))
        except UnknownVersion:  # dropped by another process since they were listed
            continue
        if later:
            follows = later.number == number + 1
            yield replace(later, change=later.items - found.items if follows else None)
        later = found
    if later is None:
        raise dropped_meanwhile(table.path, newest)
    yield replace(later, change=later.items) if later.number == 1 else later


def _read_version(dataset: Any, tags: tuple[str, ...]) -> Version:  # noqa: ANN401 - Lance is untyped
    number, about = dataset.version, dataset.get_version()
    try:
        change = dataset.read_transaction(number)
    except UNREADABLE:  # of a memory of before, where it lies beside the version
        change = None
    operation = type(change.operation).__name__ if change else "unknown"
    said = edit_said(change) if change else None
    made_by = Command.of(change)
    if said is None and operation == "Project" and f"{RELIABILITY}_{number - 1}" in dataset.schema.names:
        made_by = Command(first=number - 1)  # it ends the pruning that began there: see `set_reliability`
    return Version(
        number=number,
        when=about["timestamp"].astimezone(),
        deed=said or _EDITS.get(operation, operation.lower()),
        items=int(about["metadata"]["total_rows"]),
        change=None,
        tags=tags,
        command=made_by,
    )


def _entries(table: ItemTable, newest: int) -> Iterator[Entry]:
    """Yield the commands that made the versions up to one, newest first."""
    group: list[Version] = []
    for version in _versions(table, newest):
        if group and not _belongs(version, group):
            yield _entry(group)
            group = []
        group.append(version)
    if group:
        yield _entry(group)


def _belongs(version: Version, group: Sequence[Version]) -> bool:
    """Tell whether an earlier version is of the command of later ones; of commands at one time, as of theirs."""
    compacting = version.deed == group[-1].deed == "compact"
    return compacting or version.number >= _first(group)


def _first(group: Sequence[Version]) -> int:
    return min(version.command.first or version.number for version in group)


def _entry(group: Sequence[Version]) -> Entry:
    last, changes = group[0], [version.change for version in group]
    deeds = [version.deed for version in group if version.deed not in _CHANGES_NOTHING]
    return Entry(
        number=last.number,
        versions=tuple(version.number for version in group),
        when=last.when,
        deed=last.command.name or (deeds or [last.deed])[0],
        items=last.items,
        change=None if None in changes else sum(change or 0 for change in changes),
        tags=tuple(sorted(tag for version in group for tag in version.tags)),
        first=_first(group),
        to=last.command.to,
    )


def find_undone(table: ItemTable) -> tuple[Entry, int]:
    """Return the command that `undo` takes back, and the version it goes back to.

    What was undone before is passed over, and so is what changes nothing that the memory holds.

    Raises:
        UnknownVersion: there is none to go back to, or it was dropped; or what was erased would have to come back.
    """
    name, newest = shown(table.path), table.version
    while True:
        if newest not in version_numbers(table.path):
            raise UnknownVersion(
                f"{name} has nothing more to undo: version {newest} was dropped by compacting or erasing; `vmem memory"
                f" history {name}` lists those there are"
            )
        entry = next(_entries(table, newest))
        if entry.deed == "erase":
            raise UnknownVersion(
                f"{name} cannot undo an erasure: what was erased is gone; `vmem memory checkout {name} VERSION`"
                " goes back to a version that is left"
            )
        if entry.first <= 1:
            raise UnknownVersion(
                f"{name} has nothing more to undo: it begins with {entry.deed!r}, versions 1 to {entry.number}"
            )
        if entry.deed == "undo":
            newest = entry.to
        elif entry.deed in _CHANGES_NOTHING:
            newest = entry.first - 1
        else:
            break
    if entry.first - 1 not in version_numbers(table.path):
        raise UnknownVersion(
            f"{name} cannot undo {entry.deed!r} (version {entry.number}): version {entry.first - 1}, before it, was"
            " dropped by compacting or erasing"
        )
    return entry, entry.first - 1


def compare_versions(before: ItemTable, after: ItemTable) -> Difference:
    """Return what changed from one version to another; time and space grow with the items, not with their square."""
    old, new = before.light_columns(), after.light_columns()
    place = pc.index_in(new["id"].combine_chunks(), value_set=old["id"].combine_chunks())
    kept = pc.is_valid(place)
    was = old.take(place.filter(kept))
    now = new.filter(kept)
    moved = pc.not_equal(was["label"], now["label"])
    gone = np.ones(len(old), bool)
    gone[place.filter(kept).to_numpy()] = False
    ids, labels = (
        now["id"].filter(moved).to_pylist(),
        zip(was["label"].filter(moved).to_pylist(), now["label"].filter(moved).to_pylist(), strict=True),
    )
    return Difference(
        added=tuple(sorted(new["id"].filter(pc.invert(kept)).to_pylist())),
        forgotten=tuple(sorted(old["id"].filter(pa.array(gone)).to_pylist())),
        relabelled=dict(sorted(zip(ids, labels, strict=True))),
        replaced=tuple(sorted(now["id"].filter(pc.not_equal(was["key"], now["key"])).to_pylist())),
        reweighted=tuple(sorted(now["id"].filter(pc.not_equal(_reliabilities(was), _reliabilities(now))).to_pylist())),
    )


def _reliabilities(rows: pa.Table) -> pa.ChunkedArray | pa.Array:
    if RELIABILITY not in rows.column_names:
        return pa.array(np.ones(len(rows), np.float32))
    return pc.fill_null(rows[RELIABILITY], 1.0)
