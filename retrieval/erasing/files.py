"""What a memory's table holds of some items in its files, at all its versions, and which versions refer to those."""

import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Bool, Int, Real, UInt8, UInt64

from retrieval.erasing.secrets import LONGEST_WINDOW, Secrets
from retrieval.erasing.traces import Marks, sha256
from retrieval.items import Runs
from retrieval.vectors import to_fixed_point

if TYPE_CHECKING:
    import pyarrow


Group = tuple[str, ...]
"""Names of the files that hold columns of the same rows."""

BLANK: Final = -1  # the key of a row that was erased, of which nothing but its place is left
_NUMBER_BITS: Final = 32  # of Lance's address of a row; those above are its fragment's


@dataclass(frozen=True, slots=True)
class _Facts:
    """What was read of a table in this process, by the names of what never changes."""

    groups: dict[Any, frozenset[Group]] = field(default_factory=dict)  # of a version
    texts: dict[Any, str] = field(default_factory=dict)  # of the command that made a version
    runs: dict[Group, Runs] = field(default_factory=dict)  # of keys
    alive: dict[tuple[Group, str], Bool[np.ndarray, " rows"]] = field(default_factory=dict)
    dead: dict[tuple[Group, str], tuple[Int[np.ndarray, " dead"], "pyarrow.Table"]] = field(default_factory=dict)

    def keep(self, versions: set[Any], states: set[tuple[Group, str]]) -> None:
        """Let go of what belongs to versions and files that are gone."""
        groups = {group for group, _ in states}
        kept: list[tuple[dict[Any, Any], set[Any]]] = [
            (self.groups, versions),
            (self.texts, versions),
            (self.runs, groups),
            (self.alive, states),
            (self.dead, states),
        ]
        for facts, there in kept:
            for name in facts.keys() - there:
                del facts[name]


@lru_cache(maxsize=4)
def _facts_of(uri: str) -> _Facts:
    return _Facts()


class StoredRows:
    """A table's rows, by the files that they are in."""

    def __init__(self, uri: str, *, anew: bool = False) -> None:
        """Look through all versions, as they were read before in this process or anew.

        Raises:
            OSError, ValueError: the table cannot be read.
        """
        import lance

        self.uri = uri
        self.dataset = lance.dataset(uri)
        self._facts = _Facts() if anew else _facts_of(uri)
        self.groups: dict[Group, set[int]] = {}  # with the versions that refer to them
        self._columns: dict[str, list[str]] = {}  # of each file that was opened
        named = {version["version"]: (version["version"], version["timestamp"]) for version in self.dataset.versions()}
        for version, name in named.items():
            for group in _kept(self._facts.groups, name, partial(self._groups_of, version)):
                self.groups.setdefault(group, set()).add(version)
        self._names = named
        self._facts.keep(set(named.values()), {(group, _state(self.fragment(group))) for group in self.groups})

    def _groups_of(self, version: int) -> frozenset[Group]:
        return frozenset(map(files_of, self.dataset.checkout_version(version).get_fragments()))

    def versions(self) -> list[int]:
        """Return the versions there are, oldest first."""
        return list(self._names)

    def predicate(self, version: int) -> str:
        """Return the condition on rows by which a version was made, if there was one."""
        text: str = _kept(self._facts.texts, self._names[version], partial(self._predicate_of, version))
        return text

    def _predicate_of(self, version: int) -> str:
        return str(getattr(self.dataset.read_transaction(version).operation, "predicate", ""))

    def find(self, keys: Int[np.ndarray, " keys"]) -> dict[Group, Int[np.ndarray, " rows"]]:
        """Return where rows under some keys are, living and dead ones: their numbers in the files of each group."""
        found = {}
        for group in self._whole_groups:
            places = self.keys_of(group).find(keys)
            if (places >= 0).any():
                found[group] = np.sort(places[places >= 0])
        return found

    def keys(self, *, without: Collection[int] = ()) -> list[Runs]:
        """Return the keys of all rows, living and dead, of any version, or of any but some."""
        return [self.keys_of(group) for group in self._whole_groups if not self._only_in(without, group)]

    def only_in(self, versions: Collection[int]) -> list[Group]:
        """Return the files that no version but some refers to."""
        return [group for group in self._whole_groups if self._only_in(versions, group)]

    def _only_in(self, versions: Collection[int], group: Group) -> bool:
        return bool(versions) and self._referring[group[0]] <= set(versions)

    def keys_of(self, group: Group) -> Runs:
        """Return the keys of the rows that a group of files holds."""
        runs: Runs = _kept(self._facts.runs, group, partial(self._runs_of, group))
        return runs

    def _runs_of(self, group: Group) -> Runs:
        return Runs.of(self.read(group, None, ("key",))["key"].to_numpy())

    def dead(self) -> Iterator[tuple[Group, Int[np.ndarray, " dead"], "pyarrow.Table"]]:
        """Yield, of the rows that do not live in the latest version, the files, their numbers in these, ids and keys.

        Erased ones, of which nothing is left, are passed over.
        """
        for group in self._whole_groups:
            fragment = self.fragment(group)
            if fragment is None or fragment.metadata.deletion_file:
                numbers, rows = _kept(self._facts.dead, (group, _state(fragment)), partial(self._read_dead, group))
                if len(numbers):
                    yield group, numbers, rows

    def _read_dead(self, group: Group) -> tuple[Int[np.ndarray, " dead"], "pyarrow.Table"]:
        import pyarrow as pa

        numbers = np.flatnonzero(~self._alive(group))
        rows = self.read(group, numbers, ("id", "key"))
        there = rows["key"].to_numpy() != BLANK
        return numbers[there], rows.filter(pa.array(there)).combine_chunks()

    def _alive(self, group: Group) -> Bool[np.ndarray, " rows"]:
        """Tell of each row of some files whether it lives in the latest version."""
        alive: np.ndarray = _kept(
            self._facts.alive, (group, _state(self.fragment(group))), partial(self._read_alive, group)
        )
        return alive

    def _read_alive(self, group: Group) -> Bool[np.ndarray, " rows"]:
        fragment = self.fragment(group)
        if fragment is None:
            return np.zeros(len(self.read(group, None, ("key",))), bool)
        if not fragment.metadata.deletion_file:
            return np.ones(fragment.physical_rows, bool)
        alive = np.zeros(fragment.physical_rows, bool)
        alive[_numbers(fragment.to_table(columns=[], with_row_address=True)["_rowaddr"].to_numpy())] = True
        return alive

    def living(self, keys: Int[np.ndarray, " keys"]) -> Int[np.ndarray, " living"]:
        """Return those of some keys under which rows of the latest version live."""
        parts = [self.read(group, numbers, ("key",))["key"].to_numpy() for group, numbers in self._living_rows(keys)]
        return np.unique(np.concatenate([keys[:0], *parts]))

    def addresses(self, keys: Int[np.ndarray, " keys"]) -> UInt64[np.ndarray, " rows"]:
        """Return Lance's addresses of the living rows under some keys."""
        parts = [
            numbers.astype(np.uint64) + np.uint64(self._living[group[0]].fragment_id << _NUMBER_BITS)
            for group, numbers in self._living_rows(keys)
        ]
        return np.concatenate([*parts, np.empty(0, np.uint64)])

    def _living_rows(self, keys: Int[np.ndarray, " keys"]) -> Iterator[tuple[Group, Int[np.ndarray, " rows"]]]:
        for group, numbers in self.find(keys).items():
            living = numbers[self._alive(group)[numbers]]
            if living.size:
                yield group, living

    def fragment(self, group: Group) -> Any | None:  # noqa: ANN401 - Lance is untyped
        """Return the fragment of the latest version that the rows of some files belong to, if there is one."""
        return self._living.get(group[0])

    def everywhere(self, *columns: str) -> Iterator[tuple[str, Any]]:
        """Yield all rows: where they are, and small columns, a block at a time."""
        for block in self.dataset.to_batches(columns=list(columns)):
            yield "the latest version", block
        for group, numbers, _ in self.dead():
            yield group[0], self.read(group, numbers, columns)

    def read(self, group: Group, numbers: Int[np.ndarray, " rows"] | None, columns: tuple[str, ...]) -> "pyarrow.Table":
        """Return columns of some or all of the rows that a group of files holds."""
        import pyarrow as pa

        readers = filter(None, (self.reader(file, columns) for file in group))
        taken = (each.read_all() if numbers is None else each.take_rows(numbers.tolist()) for each in readers)
        tables = [each.to_table() for each in taken]  # columns that were added later stand in files of their own
        return pa.table({name: table[name] for table in tables for name in table.column_names})

    def reader(self, file: str, columns: tuple[str, ...]) -> Any:  # noqa: ANN401 - Lance is untyped
        """Return Lance's reader of the columns that a file has of some; None where it has none of them."""
        from lance.file import LanceFileReader

        path = f"{self.uri}/data/{file}"
        if file not in self._columns:
            self._columns[file] = LanceFileReader(path).metadata().schema.names
        there = [name for name in self._columns[file] if name in columns]
        return LanceFileReader(path, columns=there) if there else None

    @cached_property
    def _whole_groups(self) -> list[Group]:
        """The groups with all columns of their rows: a later version may have more of them than an earlier one."""
        return list({group[0]: group for group in sorted(self.groups, key=len)}.values())

    @cached_property
    def _referring(self) -> dict[str, set[int]]:
        """The versions that refer to rows, by the first of the files that these are in."""
        found: dict[str, set[int]] = {}
        for group, versions in self.groups.items():
            found.setdefault(group[0], set()).update(versions)
        return found

    @cached_property
    def _living(self) -> dict[str, Any]:
        """The fragments of the latest version, by each of their files."""
        return {file: fragment for fragment in self.dataset.get_fragments() for file in files_of(fragment)}


def _kept(facts: dict[Any, Any], name: Any, read: Callable[[], Any]) -> Any:  # noqa: ANN401 - of any kind
    if name not in facts:
        facts[name] = read()
    return facts[name]


def _state(fragment: Any | None) -> str:  # noqa: ANN401 - Lance is untyped
    """Return what tells which rows of a fragment live: the name of the file that says which do not."""
    if fragment is None:
        return "none"
    return str(fragment.metadata.deletion_file.path(fragment.fragment_id)) if fragment.metadata.deletion_file else "all"


def files_of(fragment: Any) -> Group:  # noqa: ANN401 - Lance is untyped
    """Return the names of the files that hold a fragment's rows."""
    return tuple(file.path for file in fragment.metadata.files)


def _numbers(addresses: UInt64[np.ndarray, " rows"]) -> Int[np.ndarray, " rows"]:
    """Return the numbers, in their fragments, of the rows at Lance's addresses."""
    return (addresses & (1 << _NUMBER_BITS) - 1).astype(np.int64)


def one_of(
    column: "pyarrow.ChunkedArray | pyarrow.Array",
    values: Any,  # noqa: ANN401 - ids or keys
) -> Bool[np.ndarray, " rows"]:
    """Tell of each row of a column whether it is one of some values."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found: np.ndarray = pc.is_in(column, value_set=pa.array(values, column.type)).to_numpy(zero_copy_only=False)
    return found


_BLANKED_AT_A_TIME: Final = 4_096  # rows that are held at a time: with thumbnails, some 50 MB


def write_blanked(rows: StoredRows, fragment: Any, numbers: Int[np.ndarray, " rows"]) -> Any:  # noqa: ANN401
    """Write a fragment's rows into one file, those of some numbers blank; return the fragment as it then is.

    Args:
        rows: the table's.
        fragment: Lance's.
        numbers: of rows that are dead.
    """
    import lance
    import pyarrow as pa

    blocks = pa.RecordBatchReader.from_batches(rows.dataset.schema, _blanked(rows, fragment, numbers))
    (written,) = lance.fragment.write_fragments(blocks, rows.dataset, max_rows_per_file=fragment.physical_rows)
    before = fragment.metadata
    return lance.fragment.FragmentMetadata(
        id=before.id,
        files=written.files,
        physical_rows=before.physical_rows,
        deletion_file=before.deletion_file,
        row_id_meta=before.row_id_meta,
    )


def _blanked(
    rows: StoredRows,
    fragment: Any,  # noqa: ANN401
    numbers: Int[np.ndarray, " rows"],
) -> Iterator["pyarrow.RecordBatch"]:
    import pyarrow as pa

    schema = rows.dataset.schema
    readers = filter(None, (rows.reader(file, tuple(schema.names)) for file in files_of(fragment)))
    first = 0
    for parts in zip(*(reader.read_all(batch_size=_BLANKED_AT_A_TIME).to_batches() for reader in readers), strict=True):
        columns = {name: part[name] for part in parts for name in part.schema.names}
        length = len(parts[0])
        blank = np.zeros(length, bool)
        blank[numbers[(first <= numbers) & (numbers < first + length)] - first] = True
        first += length
        yield pa.record_batch([_without(columns.get(field.name), field, blank) for field in schema], schema=schema)


def _without(
    column: "pyarrow.Array | None", field: "pyarrow.Field", blank: Bool[np.ndarray, " rows"]
) -> "pyarrow.Array":
    """Return a column with nothing in some rows; one that the file lacks is null throughout."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if column is None:
        return pa.nulls(len(blank), field.type)
    if not blank.any():
        return column
    if field.name == "vector":
        matrix = column.flatten().to_numpy().reshape(len(blank), -1).copy()
        matrix[blank] = 0
        return pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), field.type.list_size)
    # Taken one by one: to put nulls over values leaves their bytes where they were, and Lance would write these.
    kept = column.take(pa.array(np.arange(len(blank)), mask=blank))
    return kept if field.nullable else pc.fill_null(kept, BLANK if field.name == "key" else "")


_QUOTED: Final = re.compile(r"'((?:[^']|'')*)'")  # a text in SQL
_SEARCHED: Final = ("vector", "thumbnail")  # columns whose bytes a duplicate may share
_BLOCK: Final = 4_096  # rows that are decoded at a time: with thumbnails, some 40 MB


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """What a table's files hold of some items, rows that were deleted long since included."""

    places: Mapping[Group, Int[np.ndarray, " rows"]]  # numbers of the rows, by the files that these are in
    files: frozenset[str]  # names of the data files, those beside others included
    keys: Int[np.ndarray, " keys"]  # every key that an item of these ids ever had, each once
    ids: frozenset[str]
    secrets: tuple[bytes, ...]  # of vectors as table and index have them and of thumbnails, each once
    thumbnails: frozenset[str]  # SHA-256 of each
    digests: frozenset[str]  # of the pictures they were made of


class TableFiles:
    """A table's data files at all its versions."""

    def __init__(self, uri: str, *, anew: bool = False) -> None:
        """Look through all versions, as they were read before in this process or anew.

        Raises:
            OSError, ValueError: the table cannot be read.
        """
        self._rows = StoredRows(uri, anew=anew)
        self.dataset = self._rows.dataset

    def versions(self) -> list[int]:
        """Return the versions there are, oldest first."""
        return self._rows.versions()

    def names(self) -> frozenset[str]:
        """Return the names of the files that any version refers to."""
        return frozenset().union(*self._rows.groups)

    def under(self, keys: Int[np.ndarray, " keys"]) -> frozenset[str]:
        """Return the files that hold something of the items with some keys, and of all that had their ids before."""
        return self._beside(self._rows_of(keys)[1])

    def keys_of(self, ids: set[str]) -> dict[str, set[int]]:
        """Return the keys of the items of some ids, dead ones included, for the ids that have any."""
        found = self.dead_keys_of(ids)
        for rows in self.dataset.to_batches(columns=["id", "key"]):
            _put_keys(found, rows, ids)
        return found

    def dead_keys_of(self, ids: set[str]) -> dict[str, set[int]]:
        """Return the keys that items of some ids had in rows that do not live any more, for the ids that had any."""
        found: dict[str, set[int]] = {}
        for _, _, rows in self._rows.dead():
            _put_keys(found, rows, ids)
        return found

    def dead_keys_under(self, is_id: Callable[[str], bool]) -> Int[np.ndarray, " keys"]:
        """Return the keys of rows that do not live any more, under no key of one that does, whose ids are some."""
        found = [np.empty(0, np.int64)]
        for _, _, rows in self._rows.dead():
            found.append(
                rows["key"].to_numpy()[[number for number, id_ in enumerate(rows["id"].to_pylist()) if is_id(id_)]]
            )
        keys = np.unique(np.concatenate(found))
        return np.setdiff1d(keys, self._rows.living(keys))

    def addresses(self, keys: Int[np.ndarray, " keys"]) -> UInt64[np.ndarray, " rows"]:
        """Return Lance's addresses of the living rows under some keys."""
        return self._rows.addresses(keys)

    def blanked(self, places: Mapping[Group, Int[np.ndarray, " rows"]]) -> list[Any]:
        """Return the fragments of the latest version that hold some dead rows, written anew with those rows blank."""
        held = [(self._rows.fragment(group), numbers) for group, numbers in places.items()]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            written = pool.map(lambda one: write_blanked(self._rows, *one), (one for one in held if one[0]))
            return list(written)

    def hold(self, keys: Int[np.ndarray, " keys"]) -> Held:
        """Return what the files hold of items that are unlinked, by their keys, and of all that had their ids before.

        An item that lives is none of them, though it may have got the id of one since.
        """
        ids, places = self._rows_of(keys)
        every, digests, thumbnails = [keys], set[str](), set[str]()
        secrets: dict[bytes, None] = {}
        for group, found in places.items():
            rows = self._rows.read(group, found, ("key", "digest", *_SEARCHED))
            every.append(rows["key"].to_numpy())
            digests.update(rows["digest"].drop_null().to_pylist())
            thumbnails.update(map(sha256, rows["thumbnail"].drop_null().to_pylist()))
            secrets |= dict.fromkeys(secret for some in secrets_of(rows) for secret in some)
        return Held(
            places,
            self._beside(places),
            np.unique(np.concatenate(every)),
            frozenset(ids),
            tuple(secrets),
            frozenset(thumbnails),
            frozenset(digests),
        )

    def keys(self) -> list[Runs]:
        """Return the keys of all rows of all versions, living and dead."""
        return self._rows.keys()

    def going_with(self, versions: Collection[int], *, but: Int[np.ndarray, " keys"]) -> Iterator["pyarrow.Table"]:
        """Yield rows whose keys are in some versions alone, each key once, but for some keys; a block at a time."""
        left = [*self._rows.keys(without=versions), Runs.of(np.unique(but))]
        for group in self._rows.only_in(versions):
            held = self._rows.keys_of(group)
            numbers = np.sort(held.find(held.without(left)))
            for start in range(0, len(numbers), _BLOCK):
                some = numbers[start : start + _BLOCK]
                yield self._rows.read(group, some, ("id", "key", "digest", *_SEARCHED))
            left.append(held)

    def _rows_of(self, keys: Int[np.ndarray, " keys"]) -> tuple[set[str], dict[Group, Int[np.ndarray, " rows"]]]:
        """Return the ids of items, and where rows of these ids are, but for other items that live under them now."""
        places = self._rows.find(keys)
        ids = {
            id_
            for group, numbers in places.items()
            for id_ in self._rows.read(group, numbers, ("id",))["id"].to_pylist()
        }
        theirs = {}
        for group, numbers, rows in self._rows.dead():
            found = np.flatnonzero(one_of(rows["id"], sorted(ids)))
            if found.size:
                theirs[group] = numbers[found], rows["key"].to_numpy()[found]
        under = np.concatenate([keys[:0], *(under for _, under in theirs.values())])
        others = np.setdiff1d(self._rows.living(under), keys)
        for group, (numbers, under) in theirs.items():
            erased = numbers[~np.isin(under, others)]
            if erased.size:
                places[group] = np.union1d(places.get(group, erased), erased)
        return ids, places

    def _beside(self, groups: Iterable[Group]) -> frozenset[str]:
        """Return all files of some rows: a pruning's column stands in a file of its own beside the others."""
        holding = set[str]().union(*groups)
        return frozenset(file for group in self._rows.groups if holding & set(group) for file in group)

    def holding(self, files: frozenset[str]) -> list[int]:
        """Return the versions that refer to one of some files."""
        found = (versions for group, versions in self._rows.groups.items() if files & set(group))
        return sorted(set[int]().union(*found))

    def naming(self, marks: Marks) -> list[int]:
        """Return the versions that a command made whose text names a forgotten id."""
        found = []
        for version in self.versions():
            texts = _QUOTED.findall(self._rows.predicate(version))
            if any(marks.is_id(text.replace("''", "'")) for text in texts):
                found.append(version)
        return found

    def remaining(self, keys: Int[np.ndarray, " keys"]) -> list[str]:
        """Return in which files there are rows under some keys, dead rows and those of all versions included."""
        found = self._rows.find(keys)
        return [f"{len(numbers)} rows under an erased key in {group[0]}" for group, numbers in found.items()]

    def again(self, marks: Marks) -> list[str]:
        """Return in which files there are rows of a forgotten id or made of a forgotten picture: added since."""
        ids, pictures = Counter[str](), Counter[str]()
        for where, rows in self._rows.everywhere("id", "digest"):
            ids[where] += sum(map(marks.is_id, rows["id"].to_pylist()))
            pictures[where] += sum(map(marks.is_picture, rows["digest"].drop_null().to_pylist()))
        return [
            f"{count} rows of a forgotten id and {pictures[where]} of a forgotten picture in {where}"
            for where, count in ids.items()
            if count or pictures[where]
        ]

    def shared(self, secrets: Secrets, marks: Marks) -> tuple[Secrets, Marks]:
        """Return what is left to tell the items by without what rows of others hold too: duplicates, which stay."""
        windows: set[str] = set()
        thumbnails: set[str] = set()
        pictures: set[str] = set()
        readers = filter(None, (self._rows.reader(file, (*_SEARCHED, "digest")) for file in self.names()))
        for block in (block for reader in readers for block in reader.read_all(batch_size=_BLOCK).to_batches()):
            for name in block.schema.names:
                if name == "digest":
                    pictures.update(filter(marks.is_picture, block[name].drop_null().to_pylist()))
                    continue
                found = secrets.in_bytes(_searched(block[name]))
                windows |= found
                if found and name == "thumbnail":
                    thumbnails.update(filter(marks.is_thumbnail, map(sha256, block[name].drop_null().to_pylist())))
        return secrets.without(windows), marks.without(pictures=pictures, thumbnails=thumbnails)


def _put_keys(found: dict[str, set[int]], rows: Any, ids: set[str]) -> None:  # noqa: ANN401 - pyarrow's are untyped
    """Add the keys of those rows that have some ids."""
    import pyarrow as pa

    theirs = rows.filter(pa.array(one_of(rows["id"], sorted(ids))))
    for id_, key in zip(theirs["id"].to_pylist(), theirs["key"].to_pylist(), strict=True):
        found.setdefault(id_, set()).add(key)


def _searched(column: "pyarrow.Array") -> Iterator[UInt8[np.ndarray, " bytes"]]:
    """Yield the bytes that a column has in the table's files and, of vectors, those that an index has for them."""
    import pyarrow as pa

    for buffer in filter(None, column.buffers()):
        yield np.frombuffer(buffer, np.uint8)
    if pa.types.is_fixed_size_list(column.type) and column.type.value_type != pa.int16():
        yield to_fixed_point(_as_matrix(column)).view(np.uint8).ravel()


def _as_matrix(vectors: "pyarrow.FixedSizeListArray") -> Real[np.ndarray, "rows dimension"]:
    matrix: np.ndarray = vectors.flatten().to_numpy().reshape(len(vectors), -1)
    return matrix


def secrets_of(rows: "pyarrow.Table") -> list[list[bytes]]:
    """Return what of each row's bytes must not be anywhere once it is erased.

    That is its vector as the table has it and as an index has it (the same, but in tables of before fixed point), and
    its thumbnail.
    """
    matrix = _as_matrix(rows["vector"].combine_chunks())
    kept = [matrix] if matrix.dtype == np.int16 else [matrix, to_fixed_point(matrix)]
    return [
        [*(vectors[row].tobytes() for vectors in kept), *([] if thumbnail is None else [_own_part(thumbnail)])]
        for row, thumbnail in enumerate(rows["thumbnail"].to_pylist())
    ]


def _own_part(thumbnail: bytes) -> bytes:
    """Return a JPEG without its header, whose tables many pictures share; all of it where little else is there."""
    scan = thumbnail.find(b"\xff\xda")  # start of scan
    return thumbnail[scan:] if 0 <= scan < len(thumbnail) - 4 * LONGEST_WINDOW else thumbnail
