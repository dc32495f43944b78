"""The rows in a table's data files at all its versions, those that were deleted long since included.

A row that was deleted, relabelled or replaced stays in its file until that is rewritten, and the file stays until the
last version that refers to it is dropped. Such dead rows are read file by file. There are as many as were edited; those
that live in the latest version are gone through as Lance does that: 10 ms for the keys of a million.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Bool, Int, UInt64

if TYPE_CHECKING:
    import pyarrow

Group = tuple[str, ...]
"""Names of the files that hold columns of the same rows."""

_NUMBER_BITS: Final = 32  # of Lance's address of a row; those above are its fragment's


class StoredRows:
    """A table's rows, by the files that they are in."""

    def __init__(self, uri: str) -> None:
        """Look through all versions.

        Raises:
            OSError, ValueError: the table cannot be read.
        """
        import lance

        self.uri = uri
        self.dataset = lance.dataset(uri)
        self.groups: dict[Group, set[int]] = {}  # with the versions that refer to them
        self._columns: dict[str, list[str]] = {}  # of each file that was opened
        for version in self.versions():
            for fragment in self.dataset.checkout_version(version).get_fragments():
                self.groups.setdefault(_group(fragment), set()).add(version)

    def versions(self) -> list[int]:
        """Return the versions there are, oldest first."""
        return [found["version"] for found in self.dataset.versions()]

    def everywhere(self, *columns: str) -> Iterator[tuple[str, Any]]:
        """Yield all rows: where they are, and their keys and other small columns, a block at a time."""
        for block in self.dataset.to_batches(columns=["key", *columns]):
            yield "the latest version", block
        for group, _, rows in self.dead(*columns):
            yield group[0], rows

    def dead(self, *columns: str) -> Iterator[tuple[Group, Int[np.ndarray, " dead"], "pyarrow.Table"]]:
        """Yield, of the rows that do not live in the latest version, the files, their numbers in these, and columns."""
        for group, numbers in self._dead_numbers.items():
            rows = self.read(group, numbers, ("key", *columns))
            yield group, np.arange(len(rows)) if numbers is None else numbers, rows

    @cached_property
    def _dead_numbers(self) -> dict[Group, Int[np.ndarray, " dead"] | None]:
        """The numbers, in their files, of rows that do not live in the latest version; None where all do not."""
        living = {file: one for one in self.dataset.get_fragments() for file in _group(one)}
        found: dict[Group, np.ndarray | None] = {}
        for group in {group[0]: group for group in sorted(self.groups, key=len)}.values():  # with all columns
            fragment = next((living[file] for file in group if file in living), None)
            if fragment is None:
                found[group] = None
            elif fragment.metadata.deletion_file:
                dead = np.ones(fragment.physical_rows, bool)
                dead[_numbers(fragment.to_table(columns=[], with_row_address=True)["_rowaddr"].to_numpy())] = False
                found[group] = np.flatnonzero(dead)
        return found

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

    def places(self, addresses: UInt64[np.ndarray, " found"]) -> dict[Group, Int[np.ndarray, " rows"]]:
        """Return where the rows of the latest version at some of Lance's addresses are."""
        fragments, numbers = addresses >> _NUMBER_BITS, _numbers(addresses)
        return {
            _group(self.dataset.get_fragment(fragment)): numbers[fragments == fragment]
            for fragment in np.unique(fragments).tolist()
        }


def _group(fragment: Any) -> Group:  # noqa: ANN401 - Lance is untyped
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
