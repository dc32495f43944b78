"""Erasing items everywhere: the table, its versions, the indexes, the caches, what killed runs left; with a receipt.

A note in the memory's folder says what is under way, so that an erasure which was killed is finished later: from the
first step on, the items take part in nothing any more, and each step may be done twice. The note tells the items by
random keys and keyed digests, as the receipt does: neither holds anything of them.

What a receipt proves: that no file of the memory and of the caches holds any of the searched windows of the items'
vectors, thumbnails and cached features, and that no row of any version has their keys. It proves nothing of copies and
backups, of blocks that the file system gave free, and of what reports, logs of runs and others were given before.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex

import numpy as np
from jaxtyping import Int

from retrieval.erasing.files import Held, TableFiles, clear_indexes, keep_account
from retrieval.erasing.receipts import Changes, Note, Receipt, examine, search, still_secret, sweep, without_shared
from retrieval.erasing.secrets import DROPPED, DroppedRows, Forgotten, Known, Marks, Secrets, mark
from retrieval.erasing.traces import Traces, every_trace
from retrieval.errors import StorageError, UnknownItem
from retrieval.labels import asked_ids, is_text, spellings
from retrieval.storage.places import committing, erasure_notes, reading, sync_folder, writer_lock, writing
from retrieval.storage.table import ItemTable, commit, replace_rows
from retrieval.storage.versions import drop_versions, renew_sums, tags_of, tags_on


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


def keys_of_ids(path: Path, ids: Collection[str], *, living: bool = True) -> Int[np.ndarray, " keys"]:
    """Return every key that items of some ids have or had, in any version that is left or was dropped.

    Args:
        path: the memory's folder.
        ids: of items.
        living: whether to look in the latest version, too.

    Raises:
        NotAMemory: there is no memory at the path.
        InvalidArgument: an id that is no text.
        UnknownItem: no version holds or held an item of one of the ids.
    """
    asked = {id_: spellings(id_) if is_text(id_) else [] for id_ in asked_ids(ids)}
    every = {spelling for forms in asked.values() for spelling in forms}
    table = ItemTable.open(path)
    with reading(path):
        files = TableFiles(table.uri)
        found = files.keys_of(every, living=living)
    dropped = DroppedRows.of(table, files.versions).keys_of(every)
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
            to leaves that to `retrieval.erasing.receipts.verify`: what held the items is rewritten all the same.
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
        changes = Changes(ItemTable.open(path).version)
        names = tuple(place.name for place in places)
        before = erasure_notes(path)
        note = Note.begin(path, token_hex(8), tuple(keys.tolist()), names, changes)
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
    if not erasure_notes(path):
        return [], 0
    with writer_lock(path):
        return _finish_notes(path, erasure_notes(path), places, progress=progress)


def unlink_pending(path: Path) -> None:
    """Take the items of erasures that were cut off out of the latest version, where going back brought them there.

    Raises:
        MemoryBusy: another process is writing to it.
        StorageError: the disk refuses.
    """
    if erasure_notes(path):
        with writer_lock(path):
            for note in erasure_notes(path):
                _unlink(path, Note.read(note))


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


def _finish(path: Path, note: Note, places: Sequence[Traces], *, prove: bool, progress: bool) -> Receipt:
    """Do all steps of an erasure, one after the other; each may have been done before."""
    _unlink(path, note)
    note, known, held = _clear_around(path, note, places, prove=prove)
    note = _clear_table(path, note, known, held)
    written = clear_indexes(ItemTable.open(path))
    note = note.having(files_written=_union(note.changes.files_written, written))
    found = search(path, known.secrets, places, progress=progress) if prove else {}
    if found:  # give up what tells the items from nothing but duplicates that stay, which hold the same bytes
        own = without_shared(known, path)
        shared = note.changes.windows_shared + len(known.secrets.windows) - len(own.secrets.windows)
        note, known = replace(note, known=own).having(windows_shared=shared).written(), own
        found = still_secret(found, known)
    note = note.having(searched=prove)
    with writing(note.path):
        checks = examine(path, known, note.changes, found, places, anew=prove)
        checks = [check for check in checks if check.what != "under way"]
        if left := [f"{check.what}: {what}" for check in checks for what in check.left]:
            raise StorageError(
                f"{path} still holds something of what is being erased ({'; '.join(left[:3])}): end other processes"
                f" that use it and run `vmem memory forget {path} --resume`"
            )
        memory_id, now = ItemTable.open(path).settings.memory_id, datetime.now(UTC).isoformat(timespec="seconds")
        receipt = Receipt(str(path.absolute()), memory_id, now, note.items, known, note.changes, tuple(checks))
        receipt = receipt.write(path)
        note.path.unlink()
        sync_folder(path)
    return receipt


def _unlink(path: Path, note: Note) -> None:
    """Take the items out of the latest version, where they are in it: the first step, one version."""
    table = ItemTable.open(path)
    with reading(path):
        addresses = TableFiles(table.uri).addresses(note.key_array)
    if len(addresses):
        replace_rows(table, addresses, None, edit="erase")


def _clear_around(path: Path, note: Note, places: Sequence[Traces], *, prove: bool) -> tuple[Note, Known, Held]:
    """Drop what is kept of the items outside the table; return what tells them, and where they are."""
    table = ItemTable.open(path)
    if not (path / DROPPED).exists():
        keep_account(table, ())
    with reading(path):
        files = TableFiles(table.uri)
        dropped = DroppedRows.of(table, files.versions)
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
        known = _learn(note, held, dropped, items, places)
        before = set[str]()
        if prove:  # the search proves something only if it finds what is there
            with reading(path):
                data = Path(table.uri) / "data"
                before = before.union(*known.secrets.in_files(data / file for file in sorted(held.files)).values())
        note = replace(note, keys=known.keys, items=len(known.marks.ids), known=known, cleared=False).having(
            windows=len(known.secrets.windows), windows_before=max(note.changes.windows_before, len(before))
        )
        note.written()
    counts = {} if note.cleared else {place.name: place.drop(items) for place in places}
    counts["lists"] = sweep(path, known.marks)  # each time, since a killed run leaves something
    entries = note.changes.entries_dropped
    entries = {**entries, **{name: entries.get(name, 0) + count for name, count in counts.items()}}
    return replace(note, cleared=True).having(entries_dropped=entries).written(), known, held


def _came_and_went(known: Known, held: Held, dropped: DroppedRows) -> bool:
    """Tell whether there were more items of erased ids since a run was cut off, which are not alive any more."""
    return known.marks.salt == dropped.salt and not {*held.keys.tolist(), *dropped.keys.tolist()} <= set(known.keys)


def _learn(note: Note, held: Held, dropped: DroppedRows, items: Forgotten, places: Sequence[Traces]) -> Known:
    """Return what tells the items, from all that is kept of them anywhere."""
    marks = Marks.of(items, dropped.salt)
    marks = replace(marks, ids=marks.ids | dropped.texts("id"))
    beside = [secret for place in places for secret in place.secrets(items)]
    secrets = Secrets.of([*held.secrets, *beside], dropped.salt, window=dropped.window)
    secrets = secrets.joined(dropped.windows, sparsity=dropped.sparsity)
    known = Known(tuple(np.union1d(held.keys, dropped.keys).tolist()), marks, secrets)
    # What was known when it was cut off may be gone from where it was found.
    return known.joined(note.known) if note.known else known


def _clear_table(path: Path, note: Note, known: Known, held: Held) -> Note:
    """Write the files that hold the items anew without them, and drop every version that needs the old ones."""
    import lance

    table = ItemTable.open(path)
    data = f"{Path(table.uri).name}/data"
    with committing(path):
        fragments = TableFiles(table.uri).blanked(held.rows)
        if fragments:
            commit(table, lance.LanceOperation.Update(updated_fragments=fragments), "erase")
        files = TableFiles(table.uri)
        latest = files.dataset.version
        versions = [v for v in sorted({*files.holding(held.files), *files.naming(known.marks)}) if v != latest]
        changes = note.changes
        note = note.having(
            version_after=latest,
            dropped_versions=tuple(sorted({*changes.dropped_versions, *versions})),
            dropped_tags={**changes.dropped_tags, **tags_on(path, versions)},
            files_removed=_union(changes.files_removed, [f"{data}/{file}" for file in held.files]),
            files_written=_union(
                changes.files_written, [f"{data}/{file.path}" for fragment in fragments for file in fragment.files]
            ),
        )
        note.written()  # before it is done: afterwards nobody could tell
        keep_account(ItemTable.open(path), versions, erased=known.key_array)
        drop_versions(path, versions)
        renew_sums(path)
    return note


def _union(before: tuple[str, ...], now: list[str]) -> tuple[str, ...]:
    return tuple(sorted({*before, *now}))
