"""The versions of a memory: what each edit did, names for them, and what lies between two."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from retrieval.disk import writing
from retrieval.errors import InvalidArgument, UnknownVersion
from retrieval.storage.schema import RELIABILITY
from retrieval.storage.table import ItemTable

if TYPE_CHECKING:
    import pyarrow

_DEEDS: Final = {  # what Lance calls the changes that carry no word of ours
    "Append": "add",
    "Delete": "forget",
    "Update": "relabel",
    "Merge": "prune",
    "Project": "prune",
    "Restore": "checkout",
    "Rewrite": "compact",
    "Overwrite": "create",
    "UpdateConfig": "settings",
}
_TAG: Final = re.compile(r"[A-Za-z]([A-Za-z0-9_-]|\.(?=[A-Za-z0-9_-])){0,63}")
"""Begins with a letter, so that it is no version's number; Lance takes no dot at the end or beside another."""


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a memory."""

    number: int
    when: datetime
    deed: str  # add, replace, forget, relabel, prune, checkout, erase, compact, settings or create
    items: int
    change: int | None  # in the number of items since the version before; None where that is gone
    tags: tuple[str, ...]


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
    dataset = table.dataset
    tags: dict[int, list[str]] = {}
    for tag, kept in dataset.tags.list().items():
        tags.setdefault(kept["version"], []).append(tag)
    found = [version for version in dataset.versions() if version["version"] <= table.version]
    sizes = {version["version"]: int(version["metadata"]["total_rows"]) for version in found}
    return [
        Version(
            number=number,
            when=version["timestamp"].astimezone(),
            deed=_deed(dataset, number),
            items=sizes[number],
            change=sizes[number] - sizes[number - 1] if number - 1 in sizes else None,
            tags=tuple(sorted(tags.get(number, ()))),
        )
        for version in reversed(found[-limit:] if limit else found)
        for number in (version["version"],)
    ]


def _deed(dataset: Any, version: int) -> str:  # noqa: ANN401 - Lance is untyped
    try:
        change = dataset.read_transaction(version)
    except (OSError, ValueError):
        return "unknown"
    operation = type(change.operation).__name__
    said = (change.transaction_properties or {}).get("__lance_commit_message")
    return str(said or _DEEDS.get(operation, operation.lower()))


def compare_versions(before: ItemTable, after: ItemTable) -> Difference:
    """Return what changed from one version to another; time and space grow with the items, not with their square."""
    import pyarrow as pa
    import pyarrow.compute as pc

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


def _reliabilities(rows: "pyarrow.Table") -> "pyarrow.ChunkedArray | pyarrow.Array":
    import pyarrow as pa
    import pyarrow.compute as pc

    if RELIABILITY not in rows.column_names:
        return pa.array(np.ones(len(rows), np.float32))
    return pc.fill_null(rows[RELIABILITY], 1.0)


def set_tag(table: ItemTable, name: str, version: int) -> None:
    """Give a version a name; see `VisualMemory.tag`."""
    if not _TAG.fullmatch(name) or name.endswith(".lock"):
        raise InvalidArgument(
            f"{name!r} is no tag: letters, digits, dashes and single dots, beginning with a letter, expected"
        )
    tags = table.dataset.tags.list()
    if name in tags:
        raise InvalidArgument(f"tag {name!r} is version {tags[name]['version']}'s: untag it first, or choose another")
    table.at(version)
    with writing(table.path):
        table.dataset.tags.create(name, version)


def remove_tag(table: ItemTable, name: str) -> None:
    """Take a name from its version; see `VisualMemory.untag`."""
    if name not in table.dataset.tags.list():
        raise UnknownVersion(f"{table.path} has no tag {name!r}: `vmem memory history` lists them")
    with writing(table.path):
        table.dataset.tags.delete(name)
