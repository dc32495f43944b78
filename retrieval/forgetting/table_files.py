"""What a memory's table holds of some items in its files, at all its versions, and which versions refer to those."""

import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Int, Real, UInt8, UInt64

from retrieval.forgetting.blanking import write_blanked
from retrieval.forgetting.rawsearch import LONGEST_WINDOW, Secrets
from retrieval.forgetting.stored_rows import Group, StoredRows, one_of
from retrieval.forgetting.traces import Marks, sha256
from retrieval.runs import Runs
from retrieval.vectors import to_fixed_point

if TYPE_CHECKING:
    import pyarrow

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
