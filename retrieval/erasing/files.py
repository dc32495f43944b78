"""What a memory's table holds of some items in its files, at all its versions, and which versions refer to those."""

import itertools
import logging
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int, UInt8, UInt64

from retrieval.erasing.secrets import DROPPED, DroppedRows, Marks, Secrets, mark, one_of, secrets_of, sha256
from retrieval.indexes.saved import erase_stored
from retrieval.items import KeyRanges
from retrieval.storage.places import CENTRED_INDEX, INDEX, address_of, reading, writing
from retrieval.storage.table import ItemTable, as_matrix
from retrieval.vectors import to_fixed_point

Group = tuple[str, ...]
"""Names of the files that hold columns of the same rows."""

Rows = Int[np.ndarray, " rows"]  # their numbers in a group of files
Keys = Int[np.ndarray, " keys"]
BLANK: Final = -1  # the key of a row that was erased, of which nothing but its place is left
_NUMBER_BITS: Final = 32  # of Lance's address of a row; those above are its fragment's
_QUOTED: Final = re.compile(r"'((?:[^']|'')*)'")  # a text in SQL
_SEARCHED: Final = ("vector", "thumbnail")  # columns whose bytes a duplicate may share
_BLOCK: Final = 4_096  # rows that are held at a time: with thumbnails, some 50 MB
_NO_KEYS: Final = np.empty(0, np.int64)
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """What a table's files hold of some items, rows that were deleted long since included."""

    rows: Mapping[Group, Rows]
    files: frozenset[str]  # names of the data files, those beside others included
    keys: Keys  # every key that an item of these ids ever had, each once
    ids: frozenset[str]
    secrets: tuple[bytes, ...]  # of vectors as table and index have them and of thumbnails, each once
    thumbnails: frozenset[str]  # SHA-256 of each
    digests: frozenset[str]  # of the pictures they were made of


@lru_cache(maxsize=4)
def _facts_of(uri: str) -> dict[tuple[str, Any], Any]:
    """Return what was read of a table in this process, by what it is and the name of something that never changes."""
    return {}


class TableFiles:
    """A table's data files at all its versions, and the rows in them."""

    def __init__(self, uri: str, *, anew: bool = False) -> None:
        """Look through all versions, as they were read before in this process or anew.

        Raises:
            OSError, ValueError: the table cannot be read.
        """
        import lance

        self.uri = uri
        self.dataset = lance.dataset(uri)
        self._facts = {} if anew else _facts_of(uri)
        self._groups: dict[Group, set[int]] = {}  # with the versions that refer to them
        self._columns: dict[str, list[str]] = {}  # of each file that was opened
        self._names = {about["version"]: (about["version"], about["timestamp"]) for about in self.dataset.versions()}
        for version, name in self._names.items():
            for group in self._once("groups", name, partial(self._groups_of, version)):
                self._groups.setdefault(group, set()).add(version)
        there = {*self._names.values(), *self._groups, *map(self._state, self._groups)}
        for fact in [fact for fact in self._facts if fact[1] not in there]:
            del self._facts[fact]

    @property
    def versions(self) -> list[int]:
        """The versions there are, oldest first."""
        return list(self._names)

    def _once(self, what: str, name: Any, read: Callable[[], Any]) -> Any:  # noqa: ANN401 - facts of any kind
        if (what, name) not in self._facts:
            self._facts[what, name] = read()
        return self._facts[what, name]

    def _groups_of(self, version: int) -> frozenset[Group]:
        return frozenset(map(_files_of, self.dataset.checkout_version(version).get_fragments()))

    @cached_property
    def _whole_groups(self) -> list[Group]:
        """The groups with all columns of their rows: a later version may have more of them than an earlier one."""
        return list({group[0]: group for group in sorted(self._groups, key=len)}.values())

    @cached_property
    def _living(self) -> dict[str, Any]:
        """The fragments of the latest version, by each of their files."""
        return {file: fragment for fragment in self.dataset.get_fragments() for file in _files_of(fragment)}

    def _state(self, group: Group) -> tuple[Group, str]:
        """Return what tells which rows of a group live: the name of the file that says which do not."""
        fragment = self._living.get(group[0])
        if fragment is None:
            return group, "none"
        deletions = fragment.metadata.deletion_file
        return group, str(deletions.path(fragment.fragment_id)) if deletions else "all"

    # Reading rows

    def _read(self, group: Group, rows: Rows | None, columns: tuple[str, ...]) -> pa.Table:
        """Return columns of some or all of the rows that a group of files holds."""
        readers = filter(None, (self._reader(file, columns) for file in group))
        taken = (each.read_all() if rows is None else each.take_rows(rows.tolist()) for each in readers)
        tables = [each.to_table() for each in taken]  # columns that were added later stand in files of their own
        return pa.table({name: table[name] for table in tables for name in table.column_names})

    def _reader(self, file: str, columns: tuple[str, ...]) -> Any:  # noqa: ANN401 - Lance is untyped
        """Return Lance's reader of the columns that a file has of some; None where it has none of them."""
        from lance.file import LanceFileReader

        path = f"{self.uri}/data/{file}"
        if file not in self._columns:
            self._columns[file] = LanceFileReader(path).metadata().schema.names
        there = [name for name in self._columns[file] if name in columns]
        return LanceFileReader(path, columns=there) if there else None

    def _keys_in(self, group: Group) -> KeyRanges:
        runs: KeyRanges = self._once(
            "keys", group, lambda: KeyRanges.of(self._read(group, None, ("key",))["key"].to_numpy())
        )
        return runs

    def _alive(self, group: Group) -> Bool[np.ndarray, " rows"]:
        """Tell of each row of some files whether it lives in the latest version."""
        alive: np.ndarray = self._once("alive", self._state(group), lambda: self._read_alive(group))
        return alive

    def _read_alive(self, group: Group) -> Bool[np.ndarray, " rows"]:
        fragment = self._living.get(group[0])
        if fragment is None:
            return np.zeros(len(self._read(group, None, ("key",))), bool)
        if not fragment.metadata.deletion_file:
            return np.ones(fragment.physical_rows, bool)
        alive = np.zeros(fragment.physical_rows, bool)
        addresses = fragment.to_table(columns=[], with_row_address=True)["_rowaddr"].to_numpy()
        alive[(addresses & (1 << _NUMBER_BITS) - 1).astype(np.int64)] = True
        return alive

    def _dead(self) -> Iterator[tuple[Group, Rows, pa.Table]]:
        """Yield the rows that do not live in the latest version, with ids and keys; erased ones are passed over."""
        for group in self._whole_groups:
            state = self._state(group)
            if state[1] != "all":
                rows, texts = self._once("dead", state, partial(self._read_dead, group))
                if len(rows):
                    yield group, rows, texts

    def _read_dead(self, group: Group) -> tuple[Rows, pa.Table]:
        rows = np.flatnonzero(~self._alive(group))
        texts = self._read(group, rows, ("id", "key"))
        there = texts["key"].to_numpy() != BLANK
        return rows[there], texts.filter(pa.array(there)).combine_chunks()

    def _find(self, keys: Keys) -> dict[Group, Rows]:
        """Return where rows under some keys are, living and dead ones."""
        found = {}
        for group in self._whole_groups:
            rows = self._keys_in(group).find(keys)
            if (rows >= 0).any():
                found[group] = np.sort(rows[rows >= 0])
        return found

    def _find_living(self, keys: Keys) -> Iterator[tuple[Group, Rows]]:
        for group, rows in self._find(keys).items():
            living = rows[self._alive(group)[rows]]
            if living.size:
                yield group, living

    def _living_keys(self, keys: Keys) -> Int[np.ndarray, " living"]:
        """Return those of some keys under which rows of the latest version live."""
        parts = [self._read(group, rows, ("key",))["key"].to_numpy() for group, rows in self._find_living(keys)]
        return np.unique(np.concatenate([keys[:0], *parts]))

    # Keys, ids and addresses

    def keys(self, *, without: Collection[int] = ()) -> list[KeyRanges]:
        """Return the keys of all rows, living and dead, of any version, or of any but some."""
        return [self._keys_in(group) for group in self._whole_groups if not self._only_in(without, group)]

    def _only_in(self, versions: Collection[int], group: Group) -> bool:
        return bool(versions) and self._referring[group[0]] <= set(versions)

    @cached_property
    def _referring(self) -> dict[str, set[int]]:
        """The versions that refer to rows, by the first of the files that these are in."""
        found: dict[str, set[int]] = {}
        for group, versions in self._groups.items():
            found.setdefault(group[0], set()).update(versions)
        return found

    def addresses(self, keys: Keys) -> UInt64[np.ndarray, " rows"]:
        """Return Lance's addresses of the living rows under some keys."""
        parts = [
            rows.astype(np.uint64) + np.uint64(self._living[group[0]].fragment_id << _NUMBER_BITS)
            for group, rows in self._find_living(keys)
        ]
        return np.concatenate([*parts, np.empty(0, np.uint64)])

    def keys_of(self, ids: set[str], *, living: bool = True) -> dict[str, set[int]]:
        """Return the keys that items of some ids have or had, for those with any; of dead rows alone if so asked."""
        alive = self.dataset.to_batches(columns=["id", "key"]) if living else ()
        found: dict[str, set[int]] = {}
        for rows in itertools.chain((texts for _, _, texts in self._dead()), alive):
            theirs = rows.filter(pa.array(one_of(rows["id"], sorted(ids))))
            for id_, key in zip(theirs["id"].to_pylist(), theirs["key"].to_pylist(), strict=True):
                found.setdefault(id_, set()).add(key)
        return found

    def dead_keys_under(self, is_id: Callable[[str], bool]) -> Keys:
        """Return the keys of rows that do not live any more, under no key of one that does, whose ids are some."""
        found = [_NO_KEYS]
        for _, _, rows in self._dead():
            found.append(rows["key"].to_numpy()[[row for row, id_ in enumerate(rows["id"].to_pylist()) if is_id(id_)]])
        keys = np.unique(np.concatenate(found))
        return np.setdiff1d(keys, self._living_keys(keys))

    # What is held of items that are erased

    def under(self, keys: Keys) -> frozenset[str]:
        """Return the files that hold something of the items with some keys, and of all that had their ids before."""
        return self._beside(self._rows_of(keys)[1])

    def hold(self, keys: Keys) -> Held:
        """Return what the files hold of items that are unlinked, by their keys, and of all that had their ids before.

        An item that lives is none of them, though it may have got the id of one since.
        """
        ids, held = self._rows_of(keys)
        every, digests, thumbnails = [keys], set[str](), set[str]()
        secrets: dict[bytes, None] = {}
        for group, found in held.items():
            rows = self._read(group, found, ("key", "digest", *_SEARCHED))
            every.append(rows["key"].to_numpy())
            digests.update(rows["digest"].drop_null().to_pylist())
            thumbnails.update(map(sha256, rows["thumbnail"].drop_null().to_pylist()))
            secrets |= dict.fromkeys(secret for some in secrets_of(rows) for secret in some)
        return Held(
            held,
            self._beside(held),
            np.unique(np.concatenate(every)),
            frozenset(ids),
            tuple(secrets),
            frozenset(thumbnails),
            frozenset(digests),
        )

    def _rows_of(self, keys: Keys) -> tuple[set[str], dict[Group, Rows]]:
        """Return the ids of items, and where rows of these ids are, but for other items that live under them now."""
        held = self._find(keys)
        ids = {id_ for group, rows in held.items() for id_ in self._read(group, rows, ("id",))["id"].to_pylist()}
        theirs = {}
        for group, rows, texts in self._dead():
            found = np.flatnonzero(one_of(texts["id"], sorted(ids)))
            if found.size:
                theirs[group] = rows[found], texts["key"].to_numpy()[found]
        under = np.concatenate([keys[:0], *(under for _, under in theirs.values())])
        others = np.setdiff1d(self._living_keys(under), keys)
        for group, (rows, under) in theirs.items():
            erased = rows[~np.isin(under, others)]
            if erased.size:
                held[group] = np.union1d(held.get(group, erased), erased)
        return ids, held

    def _beside(self, groups: Iterable[Group]) -> frozenset[str]:
        """Return all files of some rows: a pruning's column stands in a file of its own beside the others."""
        holding = set[str]().union(*groups)
        return frozenset(file for group in self._groups if holding & set(group) for file in group)

    def holding(self, files: frozenset[str]) -> list[int]:
        """Return the versions that refer to one of some files."""
        found = (versions for group, versions in self._groups.items() if files & set(group))
        return sorted(set[int]().union(*found))

    def going_with(self, versions: Collection[int], *, but: Keys) -> Iterator[pa.Table]:
        """Yield rows whose keys are in some versions alone, each key once, but for some keys; a block at a time."""
        left = [*self.keys(without=versions), KeyRanges.of(np.unique(but))]
        for group in self._whole_groups:
            if self._only_in(versions, group):
                keys = self._keys_in(group)
                rows = np.sort(keys.find(keys.without(left)))
                for start in range(0, len(rows), _BLOCK):
                    yield self._read(group, rows[start : start + _BLOCK], ("id", "key", "digest", *_SEARCHED))
                left.append(keys)

    # Looking for what is left of erased items

    def naming(self, marks: Marks) -> list[int]:
        """Return the versions that a command made whose text names a forgotten id."""
        found = []
        for version, name in self._names.items():
            predicate = self._once("predicate", name, partial(self._predicate_of, version))
            if any(marks.is_id(text.replace("''", "'")) for text in _QUOTED.findall(predicate)):
                found.append(version)
        return found

    def _predicate_of(self, version: int) -> str:
        """Return the condition on rows by which a version was made, if there was one."""
        return str(getattr(self.dataset.read_transaction(version).operation, "predicate", ""))

    def remaining(self, keys: Keys) -> list[str]:
        """Return in which files there are rows under some keys, dead rows and those of all versions included."""
        return [f"{len(rows)} rows under an erased key in {group[0]}" for group, rows in self._find(keys).items()]

    def again(self, marks: Marks) -> list[str]:
        """Return in which files there are rows of a forgotten id or made of a forgotten picture: added since."""
        ids, pictures = Counter[str](), Counter[str]()
        for where, rows in self._everywhere("id", "digest"):
            ids[where] += sum(map(marks.is_id, rows["id"].to_pylist()))
            pictures[where] += sum(map(marks.is_picture, rows["digest"].drop_null().to_pylist()))
        return [
            f"{count} rows of a forgotten id and {pictures[where]} of a forgotten picture in {where}"
            for where, count in ids.items()
            if count or pictures[where]
        ]

    def _everywhere(self, *columns: str) -> Iterator[tuple[str, Any]]:
        """Yield all rows: where they are, and small columns, a block at a time."""
        for block in self.dataset.to_batches(columns=list(columns)):
            yield "the latest version", block
        for group, rows, _ in self._dead():
            yield group[0], self._read(group, rows, columns)

    def shared(self, secrets: Secrets, marks: Marks) -> tuple[Secrets, Marks]:
        """Return what is left to tell the items by without what rows of others hold too: duplicates, which stay."""
        windows, thumbnails, pictures = set[str](), set[str](), set[str]()
        files = set[str]().union(*self._groups)
        readers = filter(None, (self._reader(file, (*_SEARCHED, "digest")) for file in files))
        for block in (block for reader in readers for block in reader.read_all(batch_size=_BLOCK).to_batches()):
            for name in block.schema.names:
                if name == "digest":
                    pictures.update(filter(marks.is_picture, block[name].drop_null().to_pylist()))
                    continue
                found = secrets.in_bytes(_bytes_of(block[name]))
                windows |= found
                if found and name == "thumbnail":
                    thumbnails.update(filter(marks.is_thumbnail, map(sha256, block[name].drop_null().to_pylist())))
        marks = replace(
            marks,
            pictures=marks.pictures - {mark(digest, marks.salt) for digest in pictures},
            thumbnails=marks.thumbnails - {mark(digest, marks.salt) for digest in thumbnails},
        )
        return secrets.without(windows), marks

    # Writing files anew

    def blanked(self, held: Mapping[Group, Rows]) -> list[Any]:
        """Return the fragments of the latest version that hold some dead rows, written anew with those rows blank."""
        fragments = [(self._living.get(group[0]), rows) for group, rows in held.items()]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(lambda one: self._write_blanked(*one), (one for one in fragments if one[0])))

    def _write_blanked(self, fragment: Any, dead: Rows) -> Any:  # noqa: ANN401 - Lance is untyped
        """Write a fragment's rows into one file, the dead ones blank; return the fragment as it then is."""
        import lance

        blocks = pa.RecordBatchReader.from_batches(self.dataset.schema, self._blank_blocks(fragment, dead))
        before = fragment.metadata
        (fresh,) = lance.fragment.write_fragments(blocks, self.dataset, max_rows_per_file=before.physical_rows)
        return lance.fragment.FragmentMetadata(
            id=before.id,
            files=fresh.files,
            physical_rows=before.physical_rows,
            deletion_file=before.deletion_file,
            row_id_meta=before.row_id_meta,
        )

    def _blank_blocks(self, fragment: Any, dead: Rows) -> Iterator[pa.RecordBatch]:  # noqa: ANN401 - Lance is untyped
        schema = self.dataset.schema
        readers = filter(None, (self._reader(file, tuple(schema.names)) for file in _files_of(fragment)))
        first = 0
        for parts in zip(*(reader.read_all(batch_size=_BLOCK).to_batches() for reader in readers), strict=True):
            columns = {name: part[name] for part in parts for name in part.schema.names}
            blank = np.zeros(len(parts[0]), bool)
            blank[dead[(first <= dead) & (dead < first + len(blank))] - first] = True
            first += len(blank)
            yield pa.record_batch([_blanked(columns.get(field.name), field, blank) for field in schema], schema=schema)


def _files_of(fragment: Any) -> Group:  # noqa: ANN401 - Lance is untyped
    return tuple(file.path for file in fragment.metadata.files)


def _blanked(column: pa.Array | None, field: pa.Field, blank: Bool[np.ndarray, " rows"]) -> pa.Array:
    """Return a column with nothing in some rows; one that the file lacks is null throughout."""
    if column is None:
        return pa.nulls(len(blank), field.type)
    if not blank.any():
        return column
    if field.name == "vector":
        matrix = as_matrix(column).copy()
        matrix[blank] = 0
        return pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), field.type.list_size)
    # Taken one by one: to put nulls over values leaves their bytes where they were, and Lance would write these.
    taken = column.take(pa.array(np.arange(len(blank)), mask=blank))
    return taken if field.nullable else pc.fill_null(taken, BLANK if field.name == "key" else "")


def _bytes_of(column: pa.Array) -> Iterator[UInt8[np.ndarray, " bytes"]]:
    """Yield the bytes that a column has in the table's files and, of vectors, those that an index has for them."""
    for buffer in filter(None, column.buffers()):
        yield np.frombuffer(buffer, np.uint8)
    if pa.types.is_fixed_size_list(column.type) and column.type.value_type != pa.int16():
        yield to_fixed_point(as_matrix(column)).view(np.uint8).ravel()


def keep_account(table: ItemTable, versions: Collection[int], *, erased: Keys = _NO_KEYS) -> None:
    """Write down what tells the rows that go with some versions, before these are dropped; leave out erased items.

    Of a memory that has none yet, this begins the account, and chooses its salt. The caller holds the writer's lock.

    Raises:
        StorageError: the disk refuses, or what tells earlier ones is damaged.
    """
    if address_of(table.path):  # nothing can be erased from there
        return
    files = TableFiles(table.uri)
    before = DroppedRows.of(table, files.versions)
    after = before.without(erased)
    try:
        after = after.joined(files.going_with(versions, but=np.concatenate([erased, after.keys])))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        _logger.warning("Rows of old versions of %s cannot be read, and go without account: %s", table.path, error)
        after = replace(after, complete=False)
    if not np.array_equal(after.keys, before.keys) or not (table.path / DROPPED).exists():
        after.write(table.path)


def clear_indexes(table: ItemTable) -> list[str]:
    """Overwrite what the index holds of items that no version has; return the files written, in the memory's folder.

    That of a centred version is removed, and made again when it is asked for. The caller holds the writer's lock.

    Raises:
        IndexUnavailable: it is on another machine that does not answer.
        StorageError: the disk refuses.
    """
    if address_of(table.path):
        return []
    with reading(table.path):
        known = TableFiles(table.uri).keys()
    with writing(table.path):
        written = erase_stored(table.path / INDEX, but=known) if (table.path / INDEX).exists() else []
        if (table.path / CENTRED_INDEX).exists():
            shutil.rmtree(table.path / CENTRED_INDEX)
    return [f"{INDEX}/{name}" for name in written]
