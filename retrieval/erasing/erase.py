"""Erasing items everywhere: the table, its versions, the indexes, the caches, what killed runs left; with a receipt.

A note in the memory's folder says what is under way, so that an erasure which was killed is finished later: from the
first step on, the items take part in nothing any more, and each step may be done twice. The note tells the items by
random keys and keyed digests, as the receipt does: neither holds anything of them.

What a receipt proves: that no file of the memory and of the caches holds any of the searched windows of the items'
vectors, thumbnails and cached features, and that no row of any version has their keys. It proves nothing of copies and
backups, of blocks that the file system gave free, and of what reports, logs of runs and others were given before.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex

import numpy as np
from jaxtyping import Int

from retrieval.erasing.dropped import DROPPED, DroppedRows, clear_indexes, keep_account
from retrieval.erasing.files import Group, Held, TableFiles
from retrieval.erasing.proof import examine, search, still_secret, sweep, without_shared
from retrieval.erasing.receipts import Check, Deed, Known, Note, Receipt, notes, sync_folder
from retrieval.erasing.secrets import Secrets
from retrieval.erasing.traces import Forgotten, Marks, Traces, every_trace, mark
from retrieval.errors import StorageError, UnknownItem
from retrieval.labels import asked_ids, is_text, spellings
from retrieval.storage.places import committing, reading, writer_lock, writing
from retrieval.storage.table import ItemTable, replace_rows
from retrieval.storage.versions import drop_versions, renew_sums, said_of, tags_of, tags_on


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
        replace_rows(table, addresses, None, deed="erase")


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


def erase_items(
    path: Path,
    keys: Int[np.ndarray, " keys"],
    *,
    traces: Sequence[Traces] | None = None,
    prove: bool = True,
    progress: bool = True,
) -> Receipt:
    """Erase the items with some keys, and whatever had their ids before, everywhere.

    Takes the writer's lock. The versions that held them are gone afterwards, and the tags on those; others stay. What
    was cut off before is finished first, as by `finish_pending`.

    Args:
        path: the memory's folder.
        keys: of items, living ones or not; those that are nowhere are passed over.
        traces: where else something of them may be kept; None is every place: the features that all memories
            share, and the models' replies.
        prove: whether to search every file of the memory and of those places, which takes as long as reading them. Not
            to leaves that to `retrieval.erasing.proof.verify`: what held the items is rewritten all the same.
        progress: whether to show a bar while files are searched.

    Raises:
        NotAMemory: there is no memory at the path.
        MemoryBusy: another process is writing to it.
        StorageError: something could not be written, or is still there: `finish_pending` goes on.
    """
    places = every_trace() if traces is None else list(traces)
    with writer_lock(path):
        with reading(path):
            tags_of(path)  # one that is damaged stops this before anything is done
        deed = Deed(ItemTable.open(path).version)
        names = tuple(place.name for place in places)
        before = list(notes(path))
        note = Note.begin(path, token_hex(8), tuple(keys.tolist()), names, deed)
        if before:
            _unlink(path, note)  # whether or not those can be finished
            _finish_notes(path, before, places, progress=progress)
        return _finish(path, note, places, prove=prove, progress=progress)


def finish_pending(
    path: Path, *, traces: Sequence[Traces] | None = None, progress: bool = True
) -> tuple[list[Receipt], int]:
    """Finish what was cut off; return the receipts, and how many erasures wait for traces that are not given here.

    The items of those take part in nothing any more, but are still on disk.

    Raises:
        as `erase_items`.
    """
    places = every_trace() if traces is None else list(traces)
    if not is_pending(path):
        return [], 0
    with writer_lock(path):
        return _finish_notes(path, list(notes(path)), places, progress=progress)


def _finish_notes(
    path: Path, begun: Sequence[Path], places: Sequence[Traces], *, progress: bool
) -> tuple[list[Receipt], int]:
    receipts: list[Receipt] = []
    for note in map(Note.read, begun):
        if note.cleared or set(note.traces) <= {place.name for place in places}:
            receipts.append(_finish(path, note, places, prove=True, progress=progress))
        else:
            _unlink(path, note)
    return receipts, len(begun) - len(receipts)


def unlink_pending(path: Path) -> None:
    """Take the items of erasures that were cut off out of the latest version, where going back brought them there.

    Raises:
        MemoryBusy: another process is writing to it.
        StorageError: the disk refuses.
    """
    if is_pending(path):
        with writer_lock(path):
            for note in notes(path):
                _unlink(path, Note.read(note))


def is_pending(path: Path) -> bool:
    """Tell whether an erasure was cut off and is to be finished."""
    return next(notes(path), None) is not None


def _finish(path: Path, note: Note, places: Sequence[Traces], *, prove: bool, progress: bool) -> Receipt:
    _unlink(path, note)
    note, known, held = _clear_around(path, note, places, prove=prove)
    note = _clear_table(path, note, known, held)
    note = _clear_index(path, note)
    found = search(path, known.secrets, places, progress=progress) if prove else {}
    if found:
        note, known = _without_shared(path, note, known)
        found = still_secret(found, known)
    note = replace(note, deed=replace(note.deed, searched=prove))
    with writing(note.path):
        checks = examine(path, known, note.deed, found, places, anew=prove)
        checks = [check for check in checks if check.what != "under way"]
        _expect_nothing(path, checks)
        receipt = _receipt(path, note, known, checks).write(path)
        note.path.unlink()
        sync_folder(path)
    return receipt


def _without_shared(path: Path, note: Note, known: Known) -> tuple[Note, Known]:
    """Give up what tells the items from nothing but duplicates that stay, which hold the same bytes."""
    kept = without_shared(known, path)
    shared = note.deed.windows_shared + len(known.secrets.windows) - len(kept.secrets.windows)
    note = replace(note, known=kept, deed=replace(note.deed, windows_shared=shared))
    note.write()
    return note, kept


def _unlink(path: Path, note: Note) -> None:
    unlink(ItemTable.open(path), note.key_array)


def _clear_around(path: Path, note: Note, places: Sequence[Traces], *, prove: bool) -> tuple[Note, Known, Held]:
    """Drop what is kept of the items outside the table; return what tells them, and where they are."""
    table = ItemTable.open(path)
    if not (path / DROPPED).exists():
        keep_account(table, ())
    with reading(path):
        files = TableFiles(table.uri)
        dropped = DroppedRows.of(table, files.versions())
        marks, keys = dropped.marks_under(note.key_array), note.key_array
        if note.known and note.known.marks.salt == dropped.salt:
            marks |= note.known.marks.ids
        if marks:  # of ids that stand nowhere else any more: with what has them still, or has come and gone since
            keys = np.union1d(keys, files.dead_keys_under(lambda id_: mark(id_, dropped.salt) in marks))
        held = files.hold(keys)
    dropped = dropped.of_ids(marks | {mark(id_, dropped.salt) for id_ in held.ids})
    pictures, thumbnails = held.digests | dropped.texts("picture"), held.thumbnails | dropped.texts("thumbnail")
    items = Forgotten(held.ids, pictures, thumbnails, cut_off=note.cut_off)
    known = note.known
    if known is None or _came_and_went(known, held, dropped):
        note, known = _with_known(path, note, held, dropped, items, places, prove=prove)
        note.write()
    counts = {} if note.cleared else {place.name: place.drop(items) for place in places}
    counts["lists"] = sweep(path, known.marks)  # each time, since a killed run leaves something
    entries = {name: note.deed.entries_dropped.get(name, 0) + count for name, count in counts.items()}
    note = replace(
        note, cleared=True, deed=replace(note.deed, entries_dropped={**note.deed.entries_dropped, **entries})
    )
    note.write()
    return note, known, held


def _came_and_went(known: Known, held: Held, dropped: DroppedRows) -> bool:
    """Tell whether there were more items of erased ids since a run was cut off, which are not alive any more."""
    return known.marks.salt == dropped.salt and not {*held.keys.tolist(), *dropped.keys.tolist()} <= set(known.keys)


def _with_known(
    path: Path,
    note: Note,
    held: Held,
    dropped: DroppedRows,
    items: Forgotten,
    places: Sequence[Traces],
    *,
    prove: bool,
) -> tuple[Note, Known]:
    keys = np.union1d(held.keys, dropped.keys)
    marks = Marks.of(items, dropped.salt)
    marks = replace(marks, ids=marks.ids | dropped.texts("id"))
    kept_around = [secret for place in places for secret in place.secrets(items)]
    secrets = Secrets.of([*held.secrets, *kept_around], dropped.salt, window=dropped.window)
    known = Known(tuple(keys.tolist()), marks, secrets.joined(dropped.windows, sparsity=dropped.sparsity))
    if note.known:  # what was known when it was cut off may be gone from where it was found
        known = known.joined(note.known)
    data = Path(ItemTable.open(path).uri) / "data"
    with reading(path):  # the search proves something only if it finds what is there
        before = known.secrets.in_files(data / file for file in sorted(held.files)) if prove else {}
    seen = set[str]().union(*before.values())
    found = max(note.deed.windows_before, len(seen))
    deed = replace(note.deed, windows=len(known.secrets.windows), windows_before=found)
    return replace(note, keys=known.keys, items=len(known.marks.ids), known=known, cleared=False, deed=deed), known


def _clear_index(path: Path, note: Note) -> Note:
    written = clear_indexes(ItemTable.open(path))
    return replace(note, deed=replace(note.deed, files_written=_union(note.deed.files_written, written)))


def _clear_table(path: Path, note: Note, known: Known, held: Held) -> Note:
    uri = ItemTable.open(path).uri
    with committing(path):
        written = [f"{Path(uri).name}/data/{file}" for file in rewrite(uri, held.places)]
        files = TableFiles(uri)
        latest = files.dataset.version
        versions = [v for v in sorted({*files.holding(held.files), *files.naming(known.marks)}) if v != latest]
        tags = {**note.deed.dropped_tags, **tags_on(path, versions)}
        deed = replace(
            note.deed,
            version_after=latest,
            dropped_versions=tuple(sorted({*note.deed.dropped_versions, *versions})),
            dropped_tags=tags,
            files_removed=_union(note.deed.files_removed, [f"{Path(uri).name}/data/{file}" for file in held.files]),
            files_written=_union(note.deed.files_written, written),
        )
        note = replace(note, deed=deed)
        note.write()  # before it is done: afterwards nobody could tell
        keep_account(ItemTable.open(path), versions, erased=known.key_array)
        drop_versions(path, versions)
        renew_sums(path)
    return note


def _union(before: tuple[str, ...], now: list[str]) -> tuple[str, ...]:
    return tuple(sorted({*before, *now}))


def _expect_nothing(path: Path, checks: Sequence[Check]) -> None:
    left = [f"{check.what}: {what}" for check in checks for what in check.left]
    if left:
        raise StorageError(
            f"{path} still holds something of what is being erased ({'; '.join(left[:3])}): end other processes that"
            f" use it and run `vmem memory forget {path} --resume`"
        )


def _receipt(path: Path, note: Note, known: Known, checks: Sequence[Check]) -> Receipt:
    memory_id = ItemTable.open(path).settings.memory_id
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Receipt(str(path.absolute()), memory_id, now, note.items, known, note.deed, tuple(checks))
