"""Rows that no version of the table holds any more, kept account of until their items are erased.

When versions are dropped, rows that were replaced or forgotten go with them. The features of their pictures may still
be in the cache that memories share, and kept replies may have shown their thumbnails. So each row leaves its key, the
digests of its picture and its thumbnail, and, by digests under a salt of the memory's own, its id and some windows of
its bytes (`retrieval.erasing.secrets`), for which the proof of an erasure searches every file.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from secrets import token_bytes
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import Int

from retrieval.erasing.files import TableFiles, one_of, secrets_of
from retrieval.erasing.receipts import Known, write_whole
from retrieval.erasing.secrets import LONGEST_WINDOW, SHORTEST_WINDOW, SPARSEST, Secrets
from retrieval.erasing.traces import SALT_BYTES, mark, sha256
from retrieval.errors import StorageError
from retrieval.indexes.saved import erase_stored
from retrieval.storage.places import CENTRED_INDEX, INDEX, address_of, reading, writing
from retrieval.storage.table import ItemTable
from retrieval.support.outside import parse_json

if TYPE_CHECKING:
    import pyarrow

DROPPED: Final = "dropped.rows"  # in a memory's folder: the SHA-256 of the rest, which is a stream of Arrow's
_DIGEST_BYTES: Final = 32
_ABOUT: Final = b"about"
_NONE: Final = np.empty(0, np.int64)
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class DroppedRows:
    """What tells a memory's dropped rows: one of each key."""

    memory_id: str
    salt: bytes
    window: int  # bytes
    sparsity: int
    complete: bool  # whether account was kept of all rows that were ever dropped
    rows: "pyarrow.Table"

    @classmethod
    def of(cls, table: ItemTable, versions: Collection[int]) -> "DroppedRows":
        """Return those of a memory with some versions.

        Raises:
            StorageError: the file that tells them is damaged, or another memory's.
        """
        import pyarrow as pa

        memory_id, file = table.settings.memory_id, table.path / DROPPED
        try:
            content = file.read_bytes()
            if hashlib.sha256(content[_DIGEST_BYTES:]).digest() != content[:_DIGEST_BYTES]:
                raise ValueError("it is not as it was written")
            rows = pa.ipc.open_stream(content[_DIGEST_BYTES:]).read_all()
            about = parse_json(rows.schema.metadata[_ABOUT])
            if about["memory_id"] != memory_id:
                raise ValueError("it is another memory's")
            salt = bytes.fromhex(about["salt"])
            return cls(memory_id, salt, about["window"], about["sparsity"], about["complete"], rows)
        except FileNotFoundError:
            window = max(SHORTEST_WINDOW, min(LONGEST_WINDOW, 2 * table.dimension))  # of the 2 bytes of each number
            complete = set(versions) == set(range(1, len(versions) + 1))
            return cls(memory_id, token_bytes(SALT_BYTES), window, SPARSEST, complete, _schema().empty_table())
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StorageError(
                f"{file}, which tells rows that are in no version any more, cannot be used ({error}): delete"
                " it, and clear the caches by `vmem cache clear`, which may hold features and replies of their pictures"
            ) from error

    def marks_under(self, keys: Int[np.ndarray, " keys"]) -> set[str]:
        """Return the marks of the ids of those with some keys."""
        import pyarrow.compute as pc

        return set(pc.filter(self.rows["id"], one_of(self.rows["key"], keys)).to_pylist())

    def of_ids(self, marks: Collection[str]) -> "DroppedRows":
        """Return those whose ids have some marks."""
        return replace(self, rows=self.rows.filter(one_of(self.rows["id"], sorted(marks))))

    def without(self, keys: Int[np.ndarray, " keys"]) -> "DroppedRows":
        """Return all but those with some keys."""
        return replace(self, rows=self.rows.filter(~one_of(self.rows["key"], keys)))

    def going_with(
        self, files: TableFiles, versions: Collection[int], erased: Int[np.ndarray, " keys"]
    ) -> "DroppedRows":
        """Return these and the rows that go when some versions are dropped, but for those under erased keys."""
        import pyarrow as pa

        found, sparsity = [self.rows], self.sparsity
        for rows in files.going_with(versions, but=np.concatenate([erased, self.keys])):
            secrets = secrets_of(rows)
            every, of_each = Secrets.of_each([one for some in secrets for one in some], self.salt, window=self.window)
            sparsity, each = min(sparsity, every.sparsity), iter(of_each)
            windows = [[digest for _ in some for digest in next(each)] for some in secrets]
            columns = {
                "key": rows["key"],
                "id": [mark(id_, self.salt) for id_ in rows["id"].to_pylist()],
                "picture": rows["digest"],
                "thumbnail": [None if value is None else sha256(value) for value in rows["thumbnail"].to_pylist()],
                "windows": windows,
                "codes": [[every.windows[window] for window in some] for some in windows],
            }
            found.append(pa.table(columns, schema=_schema()))
        return replace(self, sparsity=sparsity, rows=pa.concat_tables(found))

    @property
    def keys(self) -> Int[np.ndarray, " rows"]:
        """Their keys."""
        keys: np.ndarray = self.rows["key"].to_numpy()
        return keys

    def keys_of(self, ids: Collection[str]) -> dict[str, set[int]]:
        """Return the keys that items of some ids had, for the ids that had any."""
        marks = {mark(id_, self.salt): id_ for id_ in ids}
        found: dict[str, set[int]] = {}
        theirs = self.rows.filter(one_of(self.rows["id"], sorted(marks)))
        for its_mark, key in zip(theirs["id"].to_pylist(), theirs["key"].to_pylist(), strict=True):
            found.setdefault(marks[its_mark], set()).add(key)
        return found

    def texts(self, column: str) -> frozenset[str]:
        """Return the marks of their ids, or the digests of their pictures or thumbnails."""
        return frozenset(self.rows[column].drop_null().to_pylist())

    @property
    def windows(self) -> dict[str, int]:
        """The windows of their bytes, as `Secrets` has them."""
        import pyarrow.compute as pc

        windows, codes = (pc.list_flatten(self.rows[name]).to_pylist() for name in ("windows", "codes"))
        return dict(zip(windows, codes, strict=True))

    def remaining(self, known: Known) -> list[str]:
        """Return, in words, how many of them are of erased items, by key or, where these were added again, by id."""
        ids = known.marks.ids if known.marks.salt == self.salt else ()
        count = int((one_of(self.rows["key"], known.key_array) | one_of(self.rows["id"], sorted(ids))).sum())
        return [f"{count} rows"] if count else []

    def write(self, path: Path) -> None:
        """Write them down in a memory's folder.

        Raises:
            StorageError: the disk refuses.
        """
        import pyarrow as pa

        about = {"memory_id": self.memory_id, "salt": self.salt.hex(), "window": self.window}
        about |= {"sparsity": self.sparsity, "complete": self.complete}
        stream = pa.BufferOutputStream()
        schema = _schema().with_metadata({_ABOUT: json.dumps(about)})
        with pa.ipc.new_stream(stream, schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
            writer.write_table(self.rows.cast(schema))
        content = stream.getvalue().to_pybytes()
        write_whole(path / DROPPED, hashlib.sha256(content).digest() + content)


def _schema() -> "pyarrow.Schema":
    import pyarrow as pa

    columns = {"key": pa.int64(), "id": pa.string(), "picture": pa.string(), "thumbnail": pa.string()}
    return pa.schema({**columns, "windows": pa.list_(pa.string()), "codes": pa.list_(pa.int32())})


def keep_account(table: ItemTable, versions: Collection[int], *, erased: Int[np.ndarray, " keys"] = _NONE) -> None:
    """Write down what tells the rows that go with some versions, before these are dropped; leave out erased items.

    Of a memory that has none yet, this begins the account, and chooses its salt.

    The caller holds the writer's lock.

    Raises:
        StorageError: the disk refuses, or what tells earlier ones is damaged.
    """
    if address_of(table.path):  # nothing can be erased from there
        return
    files = TableFiles(table.uri)
    before = DroppedRows.of(table, files.versions())
    after = before.without(erased)
    try:
        after = after.going_with(files, versions, erased)
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
