"""The rows in a table's data files at all its versions, those that were deleted long since included.

A row that was deleted, relabelled or replaced stays in its file until that is rewritten, and the file stays until the
last version that refers to it is dropped. What a file holds never changes, though: which keys, and of its dead rows
which ids, is read once in a process. From then on an item is found in steps that grow with the logarithm of the table.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Bool, Int, UInt64

from retrieval.runs import Runs

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
