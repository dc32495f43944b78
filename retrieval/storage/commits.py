"""What writes to a memory's table: each call is one version, which is there wholly or not at all."""

import struct
from collections.abc import Callable
from dataclasses import replace as changed
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Float, UInt64

from retrieval.embedders.base import Execution
from retrieval.storage.places import address_of, committing
from retrieval.storage.sums import add_sums, data_files, deletion_files, expect_sums, read_sums, renew_sums
from retrieval.storage.table import RELIABILITY, SETTINGS_KEY, ItemTable, with_keys
from retrieval.storage.versions import drop_versions, said_of, tags_of, version_numbers
from retrieval.support.terminal import track

if TYPE_CHECKING:
    import pyarrow


_PLAIN: Final = 12346  # how a bitmap begins
_WITH_RUNS: Final = 12347
_LIST_UP_TO: Final = 4096  # numbers; a container of more is 65,536 bits
_OFFSETS_FROM: Final = 4  # containers, where there are runs


def count_deletions(file: Path) -> int:
    """Return how many rows a file lists.

    Raises:
        ValueError: it is not whole.
        OSError: it cannot be read.
    """
    if file.suffix == ".bin":
        return _count_bits(file.read_bytes())
    import pyarrow as pa

    with pa.ipc.open_file(file) as opened:  # Arrow's errors are ValueErrors
        return int(opened.read_all().num_rows)


def _count_bits(content: bytes) -> int:
    try:
        counts, length = _layout(content)
    except (struct.error, ValueError, IndexError) as error:
        raise ValueError("a bitmap that breaks off") from error
    if length != len(content):
        raise ValueError(f"a bitmap of {len(content)} bytes: {length} expected")
    return int(counts.sum())


def _layout(content: bytes) -> tuple[np.ndarray, int]:
    """Return how many numbers each of a bitmap's containers holds, and how long it is in all."""
    (cookie,) = struct.unpack_from("<I", content)
    if cookie == _PLAIN:
        (containers,) = struct.unpack_from("<I", content, 4)
        at, runs, offsets = 8, np.zeros(containers, bool), True
    elif cookie & 0xFFFF == _WITH_RUNS:
        containers = (cookie >> 16) + 1
        at = 4 + -(-containers // 8)
        bits = np.unpackbits(np.frombuffer(content[4:at], np.uint8), bitorder="little")
        runs, offsets = bits[:containers].astype(bool), containers >= _OFFSETS_FROM
    else:
        raise ValueError("no bitmap")
    counts = np.frombuffer(content, "<u2", 2 * containers, at)[1::2].astype(np.int64) + 1
    at += (8 if offsets else 4) * containers
    for count, run in zip(counts.tolist(), runs.tolist(), strict=True):
        if run:
            at += 2 + 4 * int(struct.unpack_from("<H", content, at)[0])
        else:
            at += 2 * count if count <= _LIST_UP_TO else 8192
    return counts, at


ROWS_PER_FILE: Final = 32_768
BYTES_PER_FILE: Final = 64 * 2**20
"""Erasing an item writes the file that it is in anew, so that none is to be larger: with thumbnails of 13 kB it holds
5,000 rows. Smaller ones would be too many: every version names them all."""


def append(table: ItemTable, rows: "pyarrow.Table") -> "pyarrow.Table":
    """Add items. Return their light columns (`ItemTable.light_columns`).

    Raises:
        StorageError: the disk refuses.
    """
    import lance

    before = _fragment_ids(table)
    with committing(table.path):
        table.move_to(
            lance.write_dataset(
                rows,
                table.uri,
                mode="append",
                max_rows_per_file=_rows_per_file(rows.nbytes, len(rows)),
                transaction_properties=said_of(table.version + 1, "add"),
            )
        )
    new = _new_fragments(table, before)
    add_sums(table.path, data_files(fragment.metadata for fragment in new), versions=[table.version])
    return table.light_columns(fragments=new)


def replace_rows(
    table: ItemTable, addresses: UInt64[np.ndarray, " rows"], rows: "pyarrow.Table | None", *, deed: str
) -> "pyarrow.Table":
    """Take items away, and put others there. Return the light columns of the new ones.

    Nothing of an item's text gets into Lance's record of the change. Time grows with the items, not with the table.

    Raises:
        StorageError: the disk refuses.
    """
    import lance

    before = set() if rows is None else _fragment_ids(table)
    if address_of(table.path):
        return _replace_stored(table, addresses, rows, before)
    with committing(table.path):
        removed, updated = _without(table.dataset, addresses)
        _expect_whole(table, updated)
        new = []
        if rows is not None:
            most = _rows_per_file(rows.nbytes, len(rows))
            new = lance.fragment.write_fragments(rows, table.dataset, max_rows_per_file=most)
        change = lance.LanceOperation.Update(removed_fragment_ids=removed, updated_fragments=updated, new_fragments=new)
        _commit(table, change, deed)
    add_sums(table.path, data_files(new) | deletion_files(updated), versions=[table.version])
    return table.light_columns(fragments=_new_fragments(table, before) if new else [])


def _commit(table: ItemTable, change: Any, deed: str, *, to: int = 0) -> None:  # noqa: ANN401 - Lance is untyped
    """Make the next version by one of Lance's operations, and move on to it."""
    import lance

    said = said_of(table.version + 1, deed, to=to)
    change = lance.Transaction(table.version, change, transaction_properties=said)
    table.move_to(lance.LanceDataset.commit(table.dataset, change))


def _replace_stored(
    table: ItemTable, addresses: UInt64[np.ndarray, " rows"], rows: "pyarrow.Table | None", before: set[int]
) -> "pyarrow.Table":
    """Do the same on an object store, where Lance cannot take rows out of one fragment: it looks through all ids."""
    import lance

    with committing(table.path):
        fresh = lance.dataset(table.uri)  # Lance changes the object that it deletes from or merges into
        if rows is None:
            fresh.delete(f"_rowid in ({','.join(map(str, addresses.tolist()))})")
        else:
            fresh.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(rows)
        table.move_to(fresh)
    return table.light_columns(fragments=[] if rows is None else _new_fragments(table, before))


def _rows_per_file(size: int, rows: int) -> int:
    """Return how many rows may go into a file, where some rows take so many bytes: a power of two.

    So it stays the same as long as rows take about as much, and compacting finds its own files full.
    """
    most = max(1, min(ROWS_PER_FILE, BYTES_PER_FILE * rows // max(size, 1)))
    return 1 << most.bit_length() - 1


def _without(dataset: Any, addresses: UInt64[np.ndarray, " rows"]) -> tuple[list[int], list[Any]]:  # noqa: ANN401
    """Return the fragments that are gone without some rows, and the others that held some of them."""
    removed: list[int] = []
    updated: list[Any] = []
    fragments = addresses >> np.uint64(32)  # Lance's address: the fragment, then the place in it
    for fragment in np.unique(fragments).tolist():
        gone = ",".join(map(str, addresses[fragments == fragment].tolist()))
        left = dataset.get_fragment(fragment).delete(f"_rowid in ({gone})")
        if left is None:
            removed.append(fragment)
        else:
            updated.append(left)
    return removed, updated


def _expect_whole(table: ItemTable, fragments: list[Any]) -> None:
    """Raise OSError where the disk took only a part of what says which rows are gone: Lance does not."""
    if address_of(table.path):  # an object store takes a whole file or none
        return
    for fragment in fragments:
        (name,) = deletion_files([fragment])
        try:
            whole = count_deletions(Path(table.uri) / name) == fragment.deletion_file.num_deleted_rows
        except ValueError:
            whole = False
        if not whole:
            raise OSError(f"No space left, or a failing disk: it took only a part of {name}")


def _fragment_ids(table: ItemTable) -> set[int]:
    return {fragment.fragment_id for fragment in table.dataset.get_fragments()}


def _new_fragments(table: ItemTable, before: set[int]) -> list[Any]:
    return [fragment for fragment in table.dataset.get_fragments() if fragment.fragment_id not in before]


def set_reliability(table: ItemTable, values: Float[np.ndarray, " items"] | None) -> None:
    """Write down how far each item can be relied on, in row order; None takes it back.

    Raises:
        StorageError: the disk refuses.
    """
    import lance
    import pyarrow as pa

    first, before = table.version, _every_data_file(table)
    with committing(table.path):
        fresh = lance.dataset(table.uri)  # Lance changes the object that it adds to; other threads keep theirs
        old = [name for name in fresh.schema.names if name.startswith(f"{RELIABILITY}_")]
        if values is not None:
            column = {f"{RELIABILITY}_{fresh.version + 1}": pa.array(values.astype(np.float32))}
            fresh.add_columns(pa.table(column).to_reader())
        if old:
            fresh.drop_columns(old)
        table.move_to(fresh)
    add_sums(table.path, _every_data_file(table) - before, versions=range(first + 1, table.version + 1))


def _every_data_file(table: ItemTable) -> set[str]:
    return data_files(fragment.metadata for fragment in table.dataset.get_fragments())


def record(table: ItemTable, execution: Execution) -> None:
    """Write down that vectors made in this way are among the items; once is enough.

    Raises:
        StorageError: the disk refuses.
    """
    import lance

    if execution in table.settings.executions:
        return
    settings = changed(table.settings, executions=(*table.settings.executions, execution))
    update = lance.LanceOperation.UpdateMap({SETTINGS_KEY.decode(): settings.to_json()}, replace=False)
    with committing(table.path):
        _commit(table, lance.LanceOperation.UpdateConfig(schema_metadata_updates=update), "settings")
    add_sums(table.path, (), versions=[table.version])
    table.settings = settings


def restore(table: ItemTable, version: int | str, *, deed: str = "checkout") -> None:
    """Make the items of an earlier version those of a new one.

    Raises:
        UnknownVersion: there is none.
        StorageError: the disk refuses.
    """
    import lance

    earlier = table.at(version)
    with committing(table.path):
        _commit(table, lance.LanceOperation.Restore(earlier.version), deed, to=earlier.version)
        table.move_to(with_keys(table.path, table.dataset))
    add_sums(table.path, (), versions=[table.version])
    table.settings = earlier.settings


def compact(table: ItemTable, *, keep: int, before_dropping: Callable[[ItemTable, list[int]], None]) -> int:
    """Write small files together, and drop every version but the last ones and those with a tag; return how many.

    Args:
        table: the memory's.
        keep: how many versions stay.
        before_dropping: called with the table as it then is and the versions that are about to go.

    Raises:
        StorageError: the disk refuses.
    """
    import lance
    from lance.optimize import Compaction

    with committing(table.path):
        tagged = set(tags_of(table.path).values())  # before anything is done: one may be damaged
        fresh = lance.dataset(table.uri)
        sizes = [file.file_size_bytes or 0 for fragment in fresh.get_fragments() for file in fragment.data_files()]
        rows = _rows_per_file(sum(sizes), fresh.count_rows())
        tasks = Compaction.plan(fresh, {"target_rows_per_fragment": rows}).tasks
        if not address_of(table.path):  # or what is damaged would get a sum that says it is not
            files = sorted(data_files(one for task in tasks for one in task.fragments))
            expect_sums(table.path, files, read_sums(table.path))
        parts = track(tasks, "Compacting", total=len(tasks), unit=" files")
        Compaction.commit(fresh, [task.execute(fresh) for task in parts])
        dropped = [number for number in version_numbers(table.path)[:-keep] if number not in tagged]
        table.move_to(fresh)
        if dropped:
            before_dropping(table, dropped)
        drop_versions(table.path, dropped)
        if not address_of(table.path):
            renew_sums(table.path)
    return len(dropped)
