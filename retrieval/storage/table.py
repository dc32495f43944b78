"""The source of truth on disk: a Lance table of items, where every change is one atomic version.

The first half reads a version; the second writes the next: each call is there wholly or not at all.
"""

import copy
import json
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int, Real, Shaped, UInt64

from retrieval.embedders.base import Execution
from retrieval.errors import MemoryExists, UnknownVersion
from retrieval.storage.conditions import Condition
from retrieval.storage.places import (
    ASIDE,
    TABLE,
    UNREADABLE,
    address_of,
    check_free,
    committing,
    expect_memory,
    in_lance,
    is_memory,
    reading,
    shown,
    store_error,
    table_uri,
    writer_lock,
    writing,
)
from retrieval.storage.versions import (
    add_sums,
    count_deletions,
    data_files,
    deletion_files,
    drop_versions,
    expect_data,
    expect_sums,
    manifest,
    newest_version,
    read_sums,
    renew_sums,
    tags_of,
    unless_dropped,
    version_numbers,
)
from retrieval.support.cachedir import folder_bytes
from retrieval.support.parsing import parse_json
from retrieval.support.terminal import track
from retrieval.types import Settings
from retrieval.vectors import to_fixed_point, to_unit

SETTINGS_KEY: Final = b"visual-memory"
RELIABILITY: Final = "reliability"
"""What a pruning multiplies an item's votes by (section 3.6): a column of this name and the number of its version, so
that a new pruning takes the place of an old one by one commit. The newest counts; null is 1."""

ROWS_PER_FILE: Final = 32_768
BYTES_PER_FILE: Final = 64 * 2**20
"""Erasing an item writes the file that it is in anew, so that none is to be larger: with thumbnails of 13 kB it holds
5,000 rows. Smaller ones would be too many: every version names them all."""
_KEY_BITS: Final = 62
_LIGHT: Final = ("id", "label", "key")  # columns that a memory which is searched keeps at hand
_BLOCK: Final = 8_192  # rows that are read at a time


@dataclass(frozen=True, slots=True, eq=False)
class ItemBatch:
    """Items to be written together: columns in any form that `pyarrow.array` takes."""

    ids: Any  # text
    labels: Any  # text
    vectors: Float[np.ndarray, "items dimension"]
    thumbnails: Any  # bytes or None
    sources: Any  # text or None
    digests: Any  # of the pictures they were made of (`content_digest`), or None


def table_schema(settings: Settings) -> pa.Schema:
    """Return the schema of a new table."""
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("label", pa.string(), nullable=False),
            pa.field("vector", pa.list_(pa.int16(), settings.embedder.dimension), nullable=False),
            pa.field("thumbnail", pa.binary()),
            pa.field("source", pa.string()),
            # Tells items apart for ever: an index knows them by it, whatever becomes of rows, ids and versions.
            pa.field("key", pa.int64(), nullable=False),
            pa.field("digest", pa.string()),
        ],
        metadata={SETTINGS_KEY: settings.to_json().encode()},
    )


def to_arrow(batch: ItemBatch, schema: pa.Schema) -> pa.Table:
    """Return items as rows of a table with this schema, each under a new key."""
    items = len(batch.ids)
    kind = schema.field("vector").type
    # Tables of before fixed point go on in float16.
    stored = to_fixed_point(batch.vectors) if kind.value_type == pa.int16() else batch.vectors.astype(np.float16)
    columns = {
        "id": pa.array(batch.ids, pa.string()),
        "label": pa.array(batch.labels, pa.string()),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(stored.ravel()), kind.list_size),
        "thumbnail": pa.array(batch.thumbnails, pa.binary()),
        "source": pa.array(batch.sources, pa.string()),
        "key": pa.array(new_keys(items)),
        "digest": pa.array(batch.digests, pa.string()),
    }
    columns |= {name: pa.nulls(items, pa.float32()) for name in schema.names if name.startswith(f"{RELIABILITY}_")}
    return pa.table([columns[name] for name in schema.names], schema=schema)


def new_keys(items: int) -> np.ndarray:
    """Return keys that no item ever had: a run of numbers from a random one.

    Runs of m commits with n items in all meet with a probability of m n / 2^62: 2e-4 for a million commits and a
    billion items.
    """
    return secrets.randbits(_KEY_BITS) + np.arange(items, dtype=np.int64)


def reliability_column(schema: pa.Schema) -> str | None:
    """Return the name of the column that the newest pruning wrote; None where nothing is pruned."""
    prefix = f"{RELIABILITY}_"
    versions = [int(name.removeprefix(prefix)) for name in schema.names if name.startswith(prefix)]
    return f"{prefix}{max(versions)}" if versions else None


def with_keys(path: Path, dataset: Any) -> Any:  # noqa: ANN401 - Lance is untyped
    """Return a memory's table as it is, or one of the first release, which had no keys, with those columns added."""
    if "key" in dataset.schema.names:
        return dataset
    import lance

    with writer_lock(path), committing(path):
        fresh = lance.dataset(dataset.uri)
        if "key" not in fresh.schema.names:  # another process may have been faster
            items = fresh.count_rows()
            columns = {"key": pa.array(new_keys(items)), "digest": pa.nulls(items, pa.string())}
            fresh.add_columns(pa.table(columns).to_reader())
        return fresh


class ItemTable:
    """The items of a memory at one version, read; `retrieval.storage.table` writes the next.

    Vectors are stored in 16-bit fixed point: half the space of float32. Among 2,000 pictures with 1,280 dimensions a
    cosine moves by 1.2e-6 on average, 1e-5 at most; in float16, as large, by 6.6e-6 and 6e-5.
    """

    def __init__(self, dataset: Any, path: Path) -> None:  # noqa: ANN401 - Lance is untyped
        self.path = path
        self.move_to(dataset)
        self.settings = Settings.from_json(dataset.schema.metadata[SETTINGS_KEY].decode())

    def move_to(self, dataset: Any) -> None:  # noqa: ANN401 - Lance is untyped
        """Read another of its versions from now on."""
        # One assignment, so that a reading thread never sees one version's data under another's name.
        self._at = (dataset, _name(dataset))

    @property
    def dataset(self) -> Any:  # noqa: ANN401 - Lance is untyped
        """Lance's own object at this version."""
        return self._at[0]

    @property
    def version_id(self) -> str:
        """A name of this version that no other has, not even one of the same number in a restored copy."""
        return self._at[1]

    @property
    def uri(self) -> str:
        """Where Lance keeps it."""
        return table_uri(self.path)

    @classmethod
    def create(cls, path: Path, settings: Settings) -> "ItemTable":
        """Make an empty table inside a memory's folder.

        Raises:
            MemoryExists: there is one already.
            StorageError: the folder cannot be written.
        """
        import lance

        check_free(path)
        empty, said = table_schema(settings).empty_table(), _said_of(1, "create")
        if address := address_of(path):
            try:  # one request makes it there or does not
                lance.write_dataset(empty, table_uri(path), mode="create", transaction_properties=said)
            except (OSError, ValueError) as error:
                if "already exists" in str(error):
                    raise MemoryExists(f"{address} holds a memory already: choose another address") from error
                raise store_error(address, error) from error
            return cls.open(path)
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
        with writer_lock(path), committing(path):  # of two that make it at once, the second finds it made
            check_free(path)
            for left_over in path.glob(f"{ASIDE}*"):
                shutil.rmtree(left_over, ignore_errors=True)
            # Made aside and moved into place, so that a crash leaves a memory or nothing.
            aside = Path(tempfile.mkdtemp(prefix=ASIDE, dir=path))
            lance.write_dataset(empty, str(aside.absolute() / TABLE), mode="create", transaction_properties=said)
            (aside / TABLE).rename(path / TABLE)
            aside.rmdir()
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> "ItemTable":
        """Open the latest version.

        Raises:
            NotAMemory: there is no memory at the path.
        """
        expect_memory(path)
        with reading(path):
            tried = None
            while True:
                number = 0 if address_of(path) else newest_version(path, read_sums(path))
                try:
                    return cls(with_keys(path, open_version(path, number)), path)
                except UNREADABLE:
                    if number in (0, tried):
                        raise
                    tried = number  # once more: another process may have written the next one and dropped this one

    def at(self, version: int | str) -> "ItemTable":
        """Return the table as it was at a version, by number or by tag.

        Raises:
            UnknownVersion: there is none, or none any more.
        """
        with reading(self.path):
            number = tags_of(self.path).get(version) if isinstance(version, str) else version
            if number is None or number not in version_numbers(self.path):
                raise UnknownVersion(
                    f"{shown(self.path)} has no version {version!r}:"
                    f" `vmem memory history {shown(self.path)}` lists those there are"
                )
        with unless_dropped(self.path, number):
            return ItemTable(open_version(self.path, number), self.path)

    def refresh(self) -> bool:
        """Move on to the latest version, which another process may have written; tell whether there was one."""
        import lance

        with suppress(*UNREADABLE), in_lance():  # else it is damaged or is being dropped, and to open it tells which
            if _name(lance.dataset(self.uri)) == self.version_id:
                return False
        latest = ItemTable.open(self.path)
        self.move_to(latest.dataset)
        self.settings = latest.settings
        return True

    def is_latest(self) -> bool:
        """Tell whether no later version was written."""
        with reading(self.path):
            return bool(self.dataset.latest_version == self.version)

    def pinned(self) -> "ItemTable":
        """Return a table that stays at this version whatever is written through this one."""
        return copy.copy(self)

    @property
    def version(self) -> int:
        """The version that is read."""
        return int(self.dataset.version)

    def _reading(self) -> AbstractContextManager[None]:
        return unless_dropped(self.path, self.version)

    def _expect(self, columns: Iterable[str] | None, fragments: Iterable[Any] | None = None) -> None:
        """Compare what is about to be read with its sums; of all fragments where none are given."""
        if not address_of(self.path):
            read = self.dataset.get_fragments() if fragments is None else fragments
            expect_data(self.path, [fragment.metadata for fragment in read if fragment], columns)

    def __len__(self) -> int:
        with self._reading():
            return int(self.dataset.count_rows())

    def light_columns(self, *, fragments: list[Any] | None = None) -> pa.Table:
        """Return id, label, key, reliability and Lance's row address of every item, or of some fragments', in order."""
        column = reliability_column(self.dataset.schema)
        columns = {name: name for name in _LIGHT} | ({RELIABILITY: column} if column else {})
        limit = 0 if fragments == [] else None  # to Lance, no fragments are all
        with self._reading():
            self._expect(columns.values(), fragments)
            return self.dataset.scanner(columns=columns, with_row_id=True, fragments=fragments, limit=limit).to_table()

    def digests(self) -> Shaped[np.ndarray, " items"]:
        """Return the digest of every item's picture, in row order."""
        with self._reading():
            self._expect(["digest"])
            column = self.dataset.to_table(columns=["digest"])["digest"]
        digests: np.ndarray = column.to_numpy()
        return digests

    def label_counts(self) -> dict[str, int]:
        """Return how many items each label has, most frequent first."""
        with self._reading():
            self._expect(["label"])
            counts = self.dataset.to_table(columns=["label"])["label"].value_counts().to_pylist()
        return {c["values"]: c["counts"] for c in sorted(counts, key=lambda c: (-c["counts"], c["values"]))}

    def vectors(self) -> Float[np.ndarray, "items dimension"]:
        """Return every vector as float32 of length 1, in row order, block by block into one array."""
        vectors = np.empty((len(self), self.dimension), np.float32)
        start = 0
        for block in self:
            vectors[start : start + len(block)] = to_unit(block)
            start += len(block)
        return vectors

    def vectors_at(self, addresses: UInt64[np.ndarray, " rows"]) -> Real[np.ndarray, "rows dimension"]:
        """Return the vectors of rows at some of Lance's addresses as they are stored, in the order asked for."""
        column = self.take_at(addresses, ["vector"])["vector"].combine_chunks()
        return as_matrix(column)

    @property
    def dimension(self) -> int:
        """Of the vectors."""
        return self.settings.embedder.dimension

    def __iter__(self) -> Iterator[Real[np.ndarray, "some dimension"]]:
        with self._reading():
            self._expect(["vector"])
            for block in self.dataset.to_batches(columns=["vector"], batch_size=_BLOCK):
                yield as_matrix(block["vector"])

    def take(self, rows: Int[np.ndarray, " rows"], columns: list[str] | None = None) -> pa.Table:
        """Return some rows, in the order asked for; every column where none is named."""
        with self._reading():
            self._expect(columns)
            return self.dataset.take(rows.tolist(), columns=columns)

    def take_at(self, addresses: UInt64[np.ndarray, " rows"], columns: list[str] | None = None) -> pa.Table:
        """Return rows at some of Lance's addresses, in the order asked for; every column where none is named.

        2,000 of 57,000 rows take 2 ms so. By their numbers they take 1,000, as Lance counts past deleted ones.
        """
        with self._reading():
            touched = np.unique(addresses >> np.uint64(32)).tolist()  # Lance's address: the fragment, then the place
            self._expect(columns, [self.dataset.get_fragment(fragment) for fragment in touched])
            return self.dataset._take_rows(addresses.tolist(), columns=columns)

    def select(self, where: str) -> UInt64[np.ndarray, " found"]:
        """Return the row addresses of the items for which a condition on id, label and source holds.

        Raises:
            InvalidArgument: it is none; see `retrieval.storage.conditions`.
        """
        condition = Condition(where)
        found = [np.empty(0, np.uint64)]
        with self._reading():
            self._expect(condition.columns)
            scanner = self.dataset.scanner(columns=sorted(condition.columns), with_row_id=True, batch_size=_BLOCK)
            for block in scanner.to_batches():
                found.append(block.filter(condition.holds(block))["_rowid"].to_numpy())
        return np.concatenate(found)

    def bytes_on_disk(self) -> int:
        """Return the size of all of the memory's files, and of those that hold its items on an object store."""
        stored = self.dataset.get_fragments() if address_of(self.path) else ()
        away = sum(file.file_size_bytes or 0 for fragment in stored for file in fragment.data_files())
        return folder_bytes(self.path) + away


def open_version(path: Path, number: int) -> Any:  # noqa: ANN401 - Lance is untyped
    """Return Lance's object of a version, after its small files were compared with their sums.

    On an object store, 0 is the newest.

    Raises:
        OSError, ValueError, RuntimeError: the version is gone, or damaged.
    """
    import lance

    uri = table_uri(path)
    if address_of(path):
        return lance.dataset(uri, version=number or None)
    sums = read_sums(path)
    with in_lance():
        expect_sums(path, [manifest(number)], sums)
        dataset = lance.dataset(uri, version=number)
        expect_sums(path, deletion_files(fragment.metadata for fragment in dataset.get_fragments()), sums)
    return dataset


def _name(dataset: Any) -> str:  # noqa: ANN401 - Lance is untyped
    return f"{dataset.version}-{dataset.read_transaction(dataset.version).uuid}"


def as_matrix(vectors: pa.FixedSizeListArray) -> Real[np.ndarray, "some dimension"]:
    """Return a column of vectors as it is stored."""
    matrix: np.ndarray = vectors.flatten().to_numpy().reshape(-1, vectors.type.list_size)
    return matrix


_MESSAGE: Final = "__lance_commit_message"
_COMMAND: Final = "visual-memory-command"
_NOTE: Final = ".command"  # in the memory's folder while a command runs that may be run again where it is cut off


@dataclass(frozen=True, slots=True)
class Command:
    """What the versions of one command have in common."""

    name: str = ""  # build, add; empty for one that is called by what its versions did
    first: int = 0  # its first version; 0 before there is one, and for versions of before
    to: int = 0  # the version that it went back to, where it did

    @classmethod
    def of(cls, change: Any) -> "Command":  # noqa: ANN401 - Lance is untyped
        """Return the command that a version says it belongs to, by Lance's record of its change."""
        with suppress(ValueError, TypeError, KeyError, AttributeError):
            return cls(**parse_json(change.transaction_properties[_COMMAND]))
        return cls()


@dataclass(slots=True)
class _Running:
    command: Command
    what: str = ""  # it does, where the same command may go on
    note: Path | None = None  # to be written


_running: ContextVar[_Running | None] = ContextVar("running", default=None)


@contextmanager
def command(name: str = "", *, folder: Path | None = None, what: str = "") -> Iterator[None]:
    """Let all versions that are made within belong together; within another command they belong to that.

    Args:
        name: of the command.
        folder: the memory's, where the same command goes on after it was cut off, if nothing else was done since.
        what: the command does then: only the same goes on.

    Raises:
        StorageError: the memory cannot be read, or the disk refuses.
    """
    if _running.get():
        yield
        return
    running = _Running(Command(name))
    if folder:
        newest = _newest_command(folder)
        going_on = newest.first > 0 and newest.name == name and _noted(folder) == [what, newest.first]
        running = _Running(newest if going_on else Command(name), what, folder / _NOTE)
    before = _running.set(running)
    try:
        yield
    finally:
        _running.reset(before)
    if folder:
        (folder / _NOTE).unlink(missing_ok=True)


def _newest_command(folder: Path) -> Command:
    if is_memory(folder):
        table = ItemTable.open(folder)
        with suppress(*UNREADABLE):  # of a memory of before, where the record lies beside the version
            return Command.of(table.dataset.read_transaction(table.version))
    return Command()


def _noted(folder: Path) -> Any:  # noqa: ANN401 - JSON
    with suppress(OSError, ValueError, RecursionError):
        return parse_json((folder / _NOTE).read_bytes())
    return None


def _said_of(version: int, edit: str, *, to: int = 0) -> dict[str, str]:
    """Return what Lance's record of a change is to say: the version, what it does, and where it goes back to."""
    running = _running.get()
    if running is None:
        return {_MESSAGE: edit}
    if not running.command.first:
        running.command = replace(running.command, first=version)
    if running.note and version > 1:  # a new memory's folder is to be empty
        running.note.write_text(json.dumps([running.what, running.command.first]), encoding="utf-8")
        running.note = None
    return {_MESSAGE: edit, _COMMAND: json.dumps(asdict(replace(running.command, to=to)))}


def edit_said(change: Any) -> str | None:  # noqa: ANN401 - Lance is untyped
    """Return what a change says that it does; None where Lance made it by itself."""
    said = (change.transaction_properties or {}).get(_MESSAGE)
    return None if said is None else str(said)


def commit(table: ItemTable, change: Any, edit: str, *, to: int = 0) -> None:  # noqa: ANN401 - Lance is untyped
    """Make the next version by one of Lance's operations, and move on to it."""
    import lance

    said = _said_of(table.version + 1, edit, to=to)
    change = lance.Transaction(table.version, change, transaction_properties=said)
    table.move_to(lance.LanceDataset.commit(table.dataset, change))


def append(table: ItemTable, rows: pa.Table) -> pa.Table:
    """Add items. Return their light columns (`ItemTable.light_columns`)."""
    import lance

    before = _fragment_ids(table)
    with committing(table.path):
        table.move_to(
            lance.write_dataset(
                rows,
                table.uri,
                mode="append",
                max_rows_per_file=_rows_per_file(rows.nbytes, len(rows)),
                transaction_properties=_said_of(table.version + 1, "add"),
            )
        )
    new = _new_fragments(table, before)
    add_sums(table.path, data_files(fragment.metadata for fragment in new), versions=[table.version])
    return table.light_columns(fragments=new)


def replace_rows(
    table: ItemTable, addresses: UInt64[np.ndarray, " rows"], rows: pa.Table | None, *, edit: str
) -> pa.Table:
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
        commit(table, change, edit)
    add_sums(table.path, data_files(new) | deletion_files(updated), versions=[table.version])
    return table.light_columns(fragments=_new_fragments(table, before) if new else [])


def _replace_stored(
    table: ItemTable, addresses: UInt64[np.ndarray, " rows"], rows: pa.Table | None, before: set[int]
) -> pa.Table:
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
    """Write down how far each item can be relied on, in row order; None takes it back."""
    import lance

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
    """Write down that vectors made in this way are among the items; once is enough."""
    import lance

    if execution in table.settings.executions:
        return
    settings = replace(table.settings, executions=(*table.settings.executions, execution))
    update = lance.LanceOperation.UpdateMap({SETTINGS_KEY.decode(): settings.to_json()}, replace=False)
    with committing(table.path):
        commit(table, lance.LanceOperation.UpdateConfig(schema_metadata_updates=update), "settings")
    add_sums(table.path, (), versions=[table.version])
    table.settings = settings


def restore(table: ItemTable, version: int | str, *, edit: str = "checkout") -> None:
    """Make the items of an earlier version those of a new one.

    Raises:
        UnknownVersion: there is none.
        StorageError: the disk refuses.
    """
    import lance

    earlier = table.at(version)
    with committing(table.path):
        commit(table, lance.LanceOperation.Restore(earlier.version), edit, to=earlier.version)
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
