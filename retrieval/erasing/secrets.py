"""What tells erased items when they are met again, and nothing else: keys, keyed digests, windows of their bytes.

Windows begin where the bytes themselves say so (at words that a multiplication sends to a certain value), so that they
are found at any offset in a file, and only one place in some dozens has to be looked at.

When versions are dropped, rows that were replaced or forgotten go with them. The features of their pictures may still
be in the cache that memories share, and kept replies may have shown their thumbnails. So a memory keeps account of such
rows (`DroppedRows`): each leaves its key, the digests of its picture and its thumbnail and, under a salt of the
memory's own, the keyed digests of its id and of some windows of its bytes.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from secrets import token_bytes
from typing import IO, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int, UInt8

from retrieval.errors import StorageError
from retrieval.storage.places import write_whole
from retrieval.storage.table import ItemTable, as_matrix
from retrieval.support.parsing import parse_json
from retrieval.support.terminal import track
from retrieval.vectors import to_fixed_point

SALT_BYTES: Final = 32
LONGEST_WINDOW: Final = 64  # bytes: 32 numbers of a vector, far too many to be guessed from a digest
SHORTEST_WINDOW: Final = 8  # bytes: vectors of fewer than four dimensions are not searched for
_WINDOWS: Final = 4  # of each secret: one of them survives where a page boundary cuts others
SPARSEST: Final = 6  # windows begin at one place in 2^6, or more often where a secret would have none
_CODE_BITS: Final = 24  # of a window's two ends: sort out nearly all places, and tell next to nothing of its 128 bits
_WINDOW_DIGEST_BYTES: Final = 8
_MARK_BYTES: Final = 16
_BLOCK: Final = 2**20  # bytes that are searched at a time: by a quarter of it, two threads take half as long again
_PIECE: Final = 2**22  # bytes that are read at a time
_OF_DATABASES: Final = (".db", ".db-wal", ".db-shm")  # SQLite's
_COPY: Final = "import shutil, sys; shutil.copyfileobj(open(sys.argv[1], 'rb'), sys.stdout.buffer)"
# Odd constants that spread bits well: the golden ratio's fraction in 32 and 64 bits (Knuth, volume 3, section 6.4).
_SPREAD_32, _SPREAD_64 = np.uint32(0x9E3779B1), np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Secrets:
    """Windows of bytes that must not be anywhere."""

    salt: bytes
    window: int  # bytes
    sparsity: int  # a window may begin at one place in 2^sparsity
    windows: dict[str, int]  # digest of a window, in hexadecimal → code of its ends

    @classmethod
    def of(cls, secrets: Sequence[bytes], salt: bytes, *, window: int | None = None) -> "Secrets":
        """Return up to four windows of each secret that is as long as a window, or of 8 bytes where none is given."""
        if window is None:
            window = min([LONGEST_WINDOW, *(len(secret) for secret in secrets if len(secret) >= SHORTEST_WINDOW)])
        return cls.of_each(secrets, salt, window=window)[0]

    @classmethod
    def of_each(cls, secrets: Sequence[bytes], salt: bytes, *, window: int) -> tuple["Secrets", list[list[str]]]:
        """Return up to four windows of each secret, and by their digests, which are whose; none of shorter ones."""
        long_enough = [number for number, secret in enumerate(secrets) if len(secret) >= window]
        joined = np.frombuffer(b"".join(secrets[number] for number in long_enough), np.uint8)
        ends = np.cumsum([len(secrets[number]) for number in long_enough], dtype=np.int64)
        for sparsity in range(SPARSEST, -1, -1):
            starts = _some_starts(joined, ends, window, sparsity)
            owners = np.searchsorted(ends, starts, side="right")
            if len(np.unique(owners)) == len(ends):
                break
        found = cls(salt, window, sparsity, {})
        digests = [found._digest(joined[start : start + window]) for start in starts.tolist()]
        of_each: list[list[str]] = [[] for _ in secrets]
        for owner, digest in zip(owners.tolist(), digests, strict=True):
            of_each[long_enough[owner]].append(digest)
        codes = _codes(joined, starts, window).tolist()
        return replace(found, windows=dict(zip(digests, codes, strict=True))), of_each

    def joined(self, windows: Mapping[str, int], *, sparsity: int) -> "Secrets":
        """Return these with more windows of the same salt and length, found in what may be sparser places or not."""
        return replace(self, sparsity=min(self.sparsity, sparsity), windows={**self.windows, **windows})

    def without(self, digests: Iterable[str]) -> "Secrets":
        """Return these without some windows."""
        gone = set(digests)
        return replace(self, windows={digest: code for digest, code in self.windows.items() if digest not in gone})

    def in_bytes(self, buffers: Iterable[UInt8[np.ndarray, " bytes"]]) -> set[str]:
        """Return the digests of the windows that are among some bytes, at whatever offset."""
        return {
            digest
            for buffer in buffers
            for start in range(0, len(buffer) if self.windows else 0, _BLOCK)
            for digest in self._in_block(buffer[start : start + _BLOCK + self.window - 1])
        }

    def in_files(self, files: Iterable[Path], *, progress: bool = False) -> dict[Path, set[str]]:
        """Return the digests of the windows that are in files, for those that hold any; one that is gone holds none."""
        paths = list(files) if self.windows else []
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            each = pool.map(lambda path: self.in_bytes(_pieces(path, self.window)), paths)
            shown = track(each, "Searching", total=len(paths), unit=" files", shown=progress)
            return {path: digests for path, digests in zip(paths, shown, strict=True) if digests}

    @cached_property
    def _wanted(self) -> Bool[np.ndarray, " codes"]:
        wanted = np.zeros(2**_CODE_BITS, bool)
        wanted[list(self.windows.values())] = True
        return wanted

    def _in_block(self, block: UInt8[np.ndarray, " bytes"]) -> set[str]:
        starts = _starts(block, self.window, self.sparsity)
        likely = starts[self._wanted[_codes(block, starts, self.window)]]
        return {self._digest(block[start : start + self.window]) for start in likely.tolist()} & self.windows.keys()

    def _digest(self, window: UInt8[np.ndarray, " window"]) -> str:
        return hashlib.blake2b(window.tobytes(), key=self.salt, digest_size=_WINDOW_DIGEST_BYTES).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return all but the salt in JSON's types."""
        return {"window": self.window, "sparsity": self.sparsity, "windows": self.windows}

    @classmethod
    def from_dict(cls, fields: dict[str, Any], salt: bytes) -> "Secrets":
        """Return what `to_dict` wrote; KeyError, TypeError or ValueError say that it is something else."""
        windows = {str(digest): int(code) % 2**_CODE_BITS for digest, code in fields["windows"].items()}
        window, sparsity = int(fields["window"]), int(fields["sparsity"])
        if not (SHORTEST_WINDOW <= window <= LONGEST_WINDOW and 0 <= sparsity <= SPARSEST):
            raise ValueError(f"window {window}, sparsity {sparsity}")
        return cls(salt, window, sparsity, windows)


def _pieces(path: Path, window: int) -> Iterator[UInt8[np.ndarray, " bytes"]]:
    """Yield a file's bytes piece by piece, each after the end of the one before. A mapped file might shrink."""
    try:
        with _opened(path) as stream:
            end = b""
            while piece := stream.read(_PIECE):
                yield np.frombuffer(end + piece, np.uint8)
                end = (end + piece)[1 - window :]
    except FileNotFoundError:
        return


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """Give a file's bytes, those of a database by way of another process.

    Closing such a file lets go of all locks that this process has on it, for SQLite's open connections too; others
    would then write beside them (sqlite.org/howtocorrupt.html, section 2.2).
    """
    if not path.name.endswith(_OF_DATABASES):
        with path.open("rb", buffering=0) as stream:
            yield stream
        return
    command = [sys.executable, "-I", "-S", "-c", _COPY, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0) as process:
        assert process.stdout is not None
        yield process.stdout
    if process.returncode and path.exists():
        raise OSError(f"{path} cannot be read")


def _some_starts(
    joined: UInt8[np.ndarray, " bytes"], ends: Int[np.ndarray, " secrets"], window: int, sparsity: int
) -> Int[np.ndarray, " windows"]:
    """Return where windows of secrets that lie end to end begin: up to four of each, spread over it."""
    starts = np.sort(_starts(joined, window, sparsity))
    secret = np.searchsorted(ends, starts, side="right")
    whole = starts + window <= ends[secret] if len(starts) else np.empty(0, bool)
    starts, secret = starts[whole], secret[whole]
    _, first, count = np.unique(secret, return_index=True, return_counts=True)
    rank = np.arange(len(starts)) - np.repeat(first, count)
    step = np.repeat(-(-count // _WINDOWS), count)
    chosen: np.ndarray = starts[rank % step == 0]
    return chosen


def _starts(block: UInt8[np.ndarray, " bytes"], window: int, sparsity: int) -> Int[np.ndarray, " starts"]:
    """Return where windows may begin, in no particular order."""
    if len(block) < window:
        return np.empty(0, np.int64)
    if not sparsity:
        return np.arange(len(block) - window + 1)
    least = np.uint32(2**32 - 2 ** (32 - sparsity))  # the top of the range, where zeros do not go
    found = []
    for offset in range(4):  # words at every offset, as four rows of words side by side
        words = block[offset : offset + (len(block) - offset) // 4 * 4].view(np.uint32)
        found.append(np.flatnonzero(words * _SPREAD_32 >= least) * 4 + offset)
    starts: np.ndarray = np.concatenate(found)
    return starts[starts <= len(block) - window]


def _codes(
    block: UInt8[np.ndarray, " bytes"], starts: Int[np.ndarray, " starts"], window: int
) -> Int[np.ndarray, " starts"]:
    if not len(starts):
        return starts
    words: np.ndarray = np.ndarray(len(block) - 7, np.dtype("<u8"), block.data, strides=(1,))  # one at every offset
    mixed = words[starts] * _SPREAD_64 ^ words[starts + window - 8]
    codes: np.ndarray = mixed * _SPREAD_64 >> np.uint64(64 - _CODE_BITS)
    return codes.astype(np.int64)


def secrets_of(rows: pa.Table) -> list[list[bytes]]:
    """Return what of each row's bytes must not be anywhere once it is erased.

    That is its vector as the table has it and as an index has it (the same, but in tables of before fixed point), and
    its thumbnail.
    """
    stored = as_matrix(rows["vector"].combine_chunks())
    forms = [stored] if stored.dtype == np.int16 else [stored, to_fixed_point(stored)]
    return [
        [*(vectors[row].tobytes() for vectors in forms), *([] if thumbnail is None else [_own_part(thumbnail)])]
        for row, thumbnail in enumerate(rows["thumbnail"].to_pylist())
    ]


def _own_part(thumbnail: bytes) -> bytes:
    """Return a JPEG without its header, whose tables many pictures share; all of it where little else is there."""
    scan = thumbnail.find(b"\xff\xda")  # start of scan
    return thumbnail[scan:] if 0 <= scan < len(thumbnail) - 4 * LONGEST_WINDOW else thumbnail


def one_of(column: pa.ChunkedArray | pa.Array, values: Any) -> Bool[np.ndarray, " rows"]:  # noqa: ANN401 - ids or keys
    """Tell of each row of a column whether it is one of some values."""
    found: np.ndarray = pc.is_in(column, value_set=pa.array(values, column.type)).to_numpy(zero_copy_only=False)
    return found


def sha256(picture: bytes) -> str:
    """Return the digest by which a thumbnail is known."""
    return hashlib.sha256(picture).hexdigest()


def mark(text: str, salt: bytes) -> str:
    """Return the keyed digest of a text."""
    # Surrogates stand for stray bytes of file names.
    return hashlib.blake2b(text.encode(errors="surrogatepass"), key=salt, digest_size=_MARK_BYTES).hexdigest()


@dataclass(frozen=True, slots=True)
class Forgotten:
    """Items that are to leave no trace, by what they may be known by elsewhere."""

    ids: frozenset[str]
    pictures: frozenset[str]  # digests of the pictures they were made of (`content_digest`)
    thumbnails: frozenset[str]  # SHA-256 of their thumbnails, in hexadecimal
    cut_off: bool = False  # whether a run that was killed may have dropped some of it without wiping it out


@dataclass(frozen=True, slots=True)
class Marks:
    """What tells forgotten items when they are met again, and nothing else of them: keyed digests.

    Who has a guess can try it, so a guessable id is not kept secret by its digest; a picture is.
    """

    salt: bytes
    ids: frozenset[str]
    pictures: frozenset[str]
    thumbnails: frozenset[str]

    @classmethod
    def of(cls, items: Forgotten, salt: bytes) -> "Marks":
        """Return the marks of items."""
        texts = (items.ids, items.pictures, items.thumbnails)
        return cls(salt, *(frozenset(mark(text, salt) for text in some) for some in texts))

    def is_id(self, text: str) -> bool:
        """Tell whether a text is the id of a forgotten item."""
        return mark(text, self.salt) in self.ids

    def is_picture(self, digest: str) -> bool:
        """Tell whether a digest is that of a forgotten item's picture."""
        return mark(digest, self.salt) in self.pictures

    def is_thumbnail(self, digest: str) -> bool:
        """Tell whether a SHA-256 is that of a forgotten item's thumbnail."""
        return mark(digest, self.salt) in self.thumbnails

    def joined(self, other: "Marks") -> "Marks":
        """Return these and others of the same salt."""
        return Marks(
            self.salt, self.ids | other.ids, self.pictures | other.pictures, self.thumbnails | other.thumbnails
        )

    def to_dict(self) -> dict[str, list[str]]:
        """Return all but the salt in JSON's types."""
        return {name: sorted(getattr(self, name)) for name in ("ids", "pictures", "thumbnails")}

    @classmethod
    def from_dict(cls, fields: dict[str, Any], salt: bytes) -> "Marks":
        """Return what `to_dict` wrote; KeyError or TypeError say that it is something else."""
        return cls(salt, *(frozenset(map(str, fields[name])) for name in ("ids", "pictures", "thumbnails")))


@dataclass(frozen=True, slots=True)
class Known:
    """What tells erased items when they are met again, and nothing else of them."""

    keys: tuple[int, ...]  # random numbers that the table had for them, and has for nothing else
    marks: Marks
    secrets: Secrets

    @property
    def key_array(self) -> Int[np.ndarray, " keys"]:
        """The keys as an array."""
        return np.array(self.keys, np.int64)

    def joined(self, other: "Known") -> "Known":
        """Return what tells these items and others, by the same salt."""
        secrets = self.secrets.joined(other.secrets.windows, sparsity=other.secrets.sparsity)
        return Known(tuple(sorted({*self.keys, *other.keys})), self.marks.joined(other.marks), secrets)

    def to_dict(self) -> dict[str, Any]:
        """Return it in JSON's types."""
        salt = self.marks.salt.hex()
        known = {"digests": self.marks.to_dict(), "bytes": self.secrets.to_dict()}
        return {"salt": salt, "keys": list(self.keys)} | known

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Known":
        """Return what `to_dict` wrote; KeyError, OverflowError, TypeError or ValueError say it is something else."""
        salt = bytes.fromhex(fields["salt"])
        if len(salt) != SALT_BYTES:
            raise ValueError(f"a salt of {len(salt)} bytes")
        keys = tuple(np.array([int(key) for key in fields["keys"]], np.int64).tolist())
        return cls(keys, Marks.from_dict(fields["digests"], salt), Secrets.from_dict(fields["bytes"], salt))


DROPPED: Final = "dropped.rows"  # in a memory's folder: the SHA-256 of the rest, which is a stream of Arrow's
_SUM_BYTES: Final = 32
_ABOUT: Final = b"about"
_COLUMNS: Final = pa.schema(
    {
        "key": pa.int64(),
        "id": pa.string(),
        "picture": pa.string(),
        "thumbnail": pa.string(),
        "windows": pa.list_(pa.string()),
        "codes": pa.list_(pa.int32()),
    }
)


@dataclass(frozen=True, slots=True, eq=False)
class DroppedRows:
    """What tells the rows that no version of a memory's table holds any more: one of each key."""

    memory_id: str
    salt: bytes
    window: int  # bytes
    sparsity: int
    complete: bool  # whether account was kept of all rows that were ever dropped
    rows: pa.Table

    @classmethod
    def of(cls, table: ItemTable, versions: Collection[int]) -> "DroppedRows":
        """Return those of a memory with some versions.

        Raises:
            StorageError: the file that tells them is damaged, or another memory's.
        """
        memory_id, file = table.settings.memory_id, table.path / DROPPED
        try:
            content = file.read_bytes()
            if hashlib.sha256(content[_SUM_BYTES:]).digest() != content[:_SUM_BYTES]:
                raise ValueError("it is not as it was written")
            rows = pa.ipc.open_stream(content[_SUM_BYTES:]).read_all()
            about = parse_json(rows.schema.metadata[_ABOUT])
            if about["memory_id"] != memory_id:
                raise ValueError("it is another memory's")
            salt = bytes.fromhex(about["salt"])
            return cls(memory_id, salt, about["window"], about["sparsity"], about["complete"], rows)
        except FileNotFoundError:
            window = max(SHORTEST_WINDOW, min(LONGEST_WINDOW, 2 * table.dimension))  # of the 2 bytes of each number
            complete = set(versions) == set(range(1, len(versions) + 1))
            return cls(memory_id, token_bytes(SALT_BYTES), window, SPARSEST, complete, _COLUMNS.empty_table())
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StorageError(
                f"{file}, which tells rows that are in no version any more, cannot be used ({error}): delete"
                " it, and clear the caches by `vmem cache clear`, which may hold features and replies of their pictures"
            ) from error

    def marks_under(self, keys: Int[np.ndarray, " keys"]) -> set[str]:
        """Return the marks of the ids of those with some keys."""
        return set(pc.filter(self.rows["id"], one_of(self.rows["key"], keys)).to_pylist())

    def of_ids(self, marks: Collection[str]) -> "DroppedRows":
        """Return those whose ids have some marks."""
        return replace(self, rows=self.rows.filter(one_of(self.rows["id"], sorted(marks))))

    def without(self, keys: Int[np.ndarray, " keys"]) -> "DroppedRows":
        """Return all but those with some keys."""
        return replace(self, rows=self.rows.filter(~one_of(self.rows["key"], keys)))

    def joined(self, blocks: Iterable[pa.Table]) -> "DroppedRows":
        """Return these and rows that are about to go, given with id, key, digest, vector and thumbnail."""
        found, sparsity = [self.rows], self.sparsity
        for rows in blocks:
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
            found.append(pa.table(columns, schema=_COLUMNS))
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
        theirs = self.of_ids(marks).rows
        for its_mark, key in zip(theirs["id"].to_pylist(), theirs["key"].to_pylist(), strict=True):
            found.setdefault(marks[its_mark], set()).add(key)
        return found

    def texts(self, column: str) -> frozenset[str]:
        """Return the marks of their ids, or the digests of their pictures or thumbnails."""
        return frozenset(self.rows[column].drop_null().to_pylist())

    @property
    def windows(self) -> dict[str, int]:
        """The windows of their bytes, as `Secrets` has them."""
        windows, codes = (pc.list_flatten(self.rows[name]).to_pylist() for name in ("windows", "codes"))
        return dict(zip(windows, codes, strict=True))

    def remaining(self, known: Known) -> list[str]:
        """Return, in words, how many of them are of erased items, by key or, where these were added again, by id."""
        ids = known.marks.ids if known.marks.salt == self.salt else ()
        count = int((one_of(self.rows["key"], known.key_array) | one_of(self.rows["id"], sorted(ids))).sum())
        return [f"{count} rows"] if count else []

    def write(self, memory: Path) -> None:
        """Write them down in a memory's folder; StorageError says that the disk refuses."""
        about = {"memory_id": self.memory_id, "salt": self.salt.hex(), "window": self.window}
        about |= {"sparsity": self.sparsity, "complete": self.complete}
        schema, stream = _COLUMNS.with_metadata({_ABOUT: json.dumps(about)}), pa.BufferOutputStream()
        with pa.ipc.new_stream(stream, schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
            writer.write_table(self.rows.cast(schema))
        content = stream.getvalue().to_pybytes()
        write_whole(memory / DROPPED, hashlib.sha256(content).digest() + content)
