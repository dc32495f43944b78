"""What a memory's table has in its files, at all its versions: rows that were deleted long since included.

A row that was deleted, relabelled or replaced stays in its file until that is rewritten, and the file stays until the
last version that refers to it is dropped.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Bool, Int, Real, UInt8

from retrieval.forgetting.rawsearch import Secrets
from retrieval.forgetting.traces import Marks, sha256
from retrieval.vectors import to_fixed_point

if TYPE_CHECKING:
    import pyarrow

_QUOTED: Final = re.compile(r"'((?:[^']|'')*)'")  # a text in SQL
_SEARCHED: Final = ("vector", "thumbnail")  # columns whose bytes a duplicate may share
_BLOCK: Final = 4_096  # rows that are decoded at a time: with thumbnails, some 40 MB


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """What a table's files hold of some items, rows that were deleted long since included."""

    files: frozenset[str]  # names of the data files
    keys: Int[np.ndarray, " keys"]  # every key that an item of these ids ever had, each once
    ids: frozenset[str]
    vectors: tuple[bytes, ...]  # as table and index have them, each once
    thumbnails: tuple[bytes, ...]
    digests: frozenset[str]  # of the pictures they were made of


class TableFiles:
    """A table's data files at all its versions."""

    def __init__(self, uri: str) -> None:
        """Look through all versions.

        Raises:
            OSError, ValueError: the table cannot be read.
        """
        import lance

        self.uri = uri
        self.dataset = lance.dataset(uri)
        self._groups: dict[tuple[str, ...], set[int]] = {}  # files that hold columns of the same rows → versions
        for version in self.versions():
            for fragment in self.dataset.checkout_version(version).get_fragments():
                group = tuple(file.path for file in fragment.metadata.files)
                self._groups.setdefault(group, set()).add(version)

    def versions(self) -> list[int]:
        """Return the versions there are, oldest first."""
        return [found["version"] for found in self.dataset.versions()]

    def names(self) -> frozenset[str]:
        """Return the names of the files that any version refers to."""
        return frozenset().union(*self._groups)

    def under(self, keys: Int[np.ndarray, " keys"]) -> frozenset[str]:
        """Return the files that hold something of the items with some keys, and of all that had their ids before."""
        return self._beside(self._rows_of(keys)[1])

    def keys_of(self, ids: set[str]) -> dict[str, set[int]]:
        """Return the keys of the items of some ids, dead ones included, for the ids that have any."""
        found: dict[str, set[int]] = {}
        for _, rows in self._light("id"):
            theirs = rows.filter(one_of(rows["id"], sorted(ids)))
            for id_, key in zip(theirs["id"].to_pylist(), theirs["key"].to_pylist(), strict=True):
                found.setdefault(id_, set()).add(key)
        return found

    def hold(self, keys: Int[np.ndarray, " keys"]) -> Held:
        """Return what the files hold of items that are unlinked, by their keys, and of all that had their ids before.

        An item that lives is none of them, though it may have got the id of one since.
        """
        ids, places = self._rows_of(keys)
        taken: dict[str, list[Any]] = {name: [] for name in ("key", "digest", *_SEARCHED)}
        for group, found in places.items():
            for name, values in self._take(group, found, tuple(taken)):
                taken[name].extend(values)
        return Held(
            self._beside(places),
            np.unique(np.array([*keys.tolist(), *taken["key"]], np.int64)),
            frozenset(ids),
            tuple(dict.fromkeys(taken["vector"])),
            tuple(dict.fromkeys(value for value in taken["thumbnail"] if value is not None)),
            frozenset(value for value in taken["digest"] if value is not None),
        )

    def _rows_of(
        self, keys: Int[np.ndarray, " keys"]
    ) -> tuple[set[str], dict[tuple[str, ...], Int[np.ndarray, " rows"]]]:
        """Return the ids of items, and where rows of these ids are, but for other items that live under them now."""
        ids: set[str] = set()
        for _, rows in self._light("id"):
            ids.update(rows["id"].filter(one_of(rows["key"], keys)).to_pylist())
        now = self.dataset.to_table(columns=["key"])["key"]
        living = np.sort(now.filter(~one_of(now, keys)).to_numpy())
        places = {}
        for group, rows in self._light("id"):
            theirs = np.flatnonzero(one_of(rows["id"], sorted(ids)))
            under = rows["key"].take(theirs).to_numpy()
            dead = theirs[np.append(living, -1)[np.searchsorted(living, under)] != under]
            if dead.size:
                places[group] = dead
        return ids, places

    def _beside(self, groups: Iterable[tuple[str, ...]]) -> frozenset[str]:
        """Return all files of some rows: a pruning's column stands in a file of its own beside the others."""
        holding = set[str]().union(*groups)
        return frozenset(file for group in self._groups if holding & set(group) for file in group)

    def holding(self, files: frozenset[str]) -> list[int]:
        """Return the versions that refer to one of some files."""
        found = (versions for group, versions in self._groups.items() if files & set(group))
        return sorted(set[int]().union(*found))

    def naming(self, marks: Marks) -> list[int]:
        """Return the versions that a command made whose text names a forgotten id."""
        found = []
        for version in self.versions():
            operation = self.dataset.read_transaction(version).operation
            texts = _QUOTED.findall(str(getattr(operation, "predicate", "")))
            if any(marks.is_id(text.replace("''", "'")) for text in texts):
                found.append(version)
        return found

    def remaining(self, keys: Int[np.ndarray, " keys"]) -> list[str]:
        """Return in which files there are rows under some keys, dead rows and those of all versions included."""
        counts = ((group, int(one_of(rows["key"], keys).sum())) for group, rows in self._light())
        return [f"{count} rows under an erased key in {group[0]}" for group, count in counts if count]

    def again(self, marks: Marks) -> list[str]:
        """Return in which files there are rows of a forgotten id or made of a forgotten picture: added since."""
        found = []
        for group, rows in self._light("id", "digest"):
            ids = sum(map(marks.is_id, rows["id"].to_pylist()))
            pictures = sum(map(marks.is_picture, rows["digest"].drop_null().to_pylist()))
            if ids or pictures:
                found.append(f"{ids} rows of a forgotten id and {pictures} of a forgotten picture in {group[0]}")
        return found

    def shared(self, secrets: Secrets, marks: Marks) -> tuple[Secrets, Marks]:
        """Return what is left to tell the items by without what rows of others hold too: duplicates, which stay."""
        windows: set[str] = set()
        thumbnails: set[str] = set()
        pictures: set[str] = set()
        for block in (block for file in self.names() for block in self._decoded(file, (*_SEARCHED, "digest"))):
            for name in block.schema.names:
                if name == "digest":
                    pictures.update(filter(marks.is_picture, block[name].drop_null().to_pylist()))
                    continue
                found = secrets.in_bytes(_searched(block[name]))
                windows |= found
                if found and name == "thumbnail":
                    thumbnails.update(filter(marks.is_thumbnail, map(sha256, block[name].drop_null().to_pylist())))
        return secrets.without(windows), marks.without(pictures=pictures, thumbnails=thumbnails)

    def _light(self, *columns: str) -> Iterator[tuple[tuple[str, ...], "pyarrow.Table"]]:
        """Yield the keys, and other small columns, of all rows, with the files that these rows are in."""
        import pyarrow as pa

        for group in self._groups:
            read = [list(self._decoded(file, ("key", *columns))) for file in group]
            tables = [pa.Table.from_batches(blocks) for blocks in read if blocks]
            if tables:  # columns that were added later stand in files of their own
                yield group, pa.table({name: table[name] for table in tables for name in table.column_names})

    def _decoded(self, file: str, columns: tuple[str, ...]) -> Iterator["pyarrow.RecordBatch"]:
        """Yield columns of all rows of a file, those that it has."""
        reader = self._reader(file, columns)
        if reader is not None:
            yield from reader.read_all(batch_size=_BLOCK).to_batches()

    def _take(
        self, group: tuple[str, ...], rows: Int[np.ndarray, " rows"], columns: tuple[str, ...]
    ) -> Iterator[tuple[str, list[Any]]]:
        for file in group:
            reader = self._reader(file, columns)
            if reader is None:
                continue
            for block in reader.take_rows(rows.tolist()).to_batches():
                for name in block.schema.names:
                    yield name, _as_bytes(block[name]) if name == "vector" else block[name].to_pylist()

    def _reader(self, file: str, columns: tuple[str, ...]) -> Any:  # noqa: ANN401 - Lance is untyped
        from lance.file import LanceFileReader

        path = f"{self.uri}/data/{file}"
        there = [name for name in LanceFileReader(path).metadata().schema.names if name in columns]
        return LanceFileReader(path, columns=there) if there else None


def one_of(column: "pyarrow.ChunkedArray", values: Any) -> Bool[np.ndarray, " rows"]:  # noqa: ANN401 - ids or keys
    """Tell of each row of a column whether it is one of some values."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found: np.ndarray = pc.is_in(column, value_set=pa.array(values, column.type)).to_numpy()
    return found


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


def _as_bytes(vectors: "pyarrow.FixedSizeListArray") -> list[bytes]:
    """Return vectors as the table has them, and as an index has them: the same, but in tables of before fixed point."""
    matrix = _as_matrix(vectors)
    return [row.tobytes() for kept in (matrix, to_fixed_point(matrix)) for row in kept]
