"""Random edits with erasures among them, and a reader of its own that looks for what is left in any file.

The reader uses nothing of the project's own searching: it takes every file's bytes, decodes what is a file of Lance,
Parquet, NumPy or SQLite, and looks for pieces of the vectors, kept features and thumbnails of every version of an item.
"""

import copy
import json
import os
import random
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from lance.file import LanceFileReader

from retrieval.embedders.base import foreign_vectors
from retrieval.embedding import ABOUT, FEATURES_SIZE_LIMIT
from retrieval.erasing.receipts import Receipt, read_receipt, verify
from retrieval.errors import InvalidArgument
from retrieval.memory import VisualMemory
from retrieval.storage.table import ItemBatch
from retrieval.support.cachedir import VARIABLE, open_store

DIMENSION = 48
PIECE = 32  # bytes
KINDS = "add replace same relabel forget compact checkout prune erase search centred tag reopen killed".split()
WEIGHTS = (4, 5, 1, 3, 4, 4, 2, 1, 3, 4, 1, 1, 1, 1)


@dataclass(frozen=True)
class Picture:
    """What an item is made of."""

    number: int

    @property
    def vector(self) -> np.ndarray:
        made = np.random.default_rng(self.number).normal(size=DIMENSION).astype(np.float32)
        unit: np.ndarray = made / np.linalg.norm(made)
        return unit

    @property
    def feature(self) -> np.ndarray:
        """The vector as another precision keeps it."""
        return self.vector + np.float32(1e-4)

    @property
    def thumbnail(self) -> bytes:
        return b"\xff\xd8 a header \xff\xda" + np.random.default_rng(self.number + 10**6).bytes(700)

    @property
    def digest(self) -> str:
        return sha256(b"%d" % self.number).hexdigest()

    @property
    def secrets(self) -> list[bytes]:
        stored = np.round(self.vector * (32767 / np.abs(self.vector).max())).astype(np.int16)
        return [stored.tobytes(), self.vector.tobytes(), self.feature.tobytes(), self.thumbnail[16:]]


class Sequence:
    """A memory that is edited at random, with all that its items ever were."""

    def __init__(self, folder: Path, seed: int, index: str) -> None:
        self.chance = random.Random(seed)
        self.cache = folder / "cache"
        os.environ[VARIABLE] = str(self.cache)
        self.path = folder / "memory"
        self.memory = VisualMemory.create(self.path, embedder=foreign_vectors("made", DIMENSION), index=index)
        self.were: dict[str, list[Picture]] = {}  # all versions of an item, by its id
        self.erased: set[Picture] = set()
        self.receipts: list[Path] = []
        self.made: list[str] = []
        self._put([f"{number}" for number in range(self.chance.randint(3, 25))])
        self.search()

    def step(self) -> None:
        """Make one edit."""
        (kind,) = self.chance.choices(KINDS, WEIGHTS)
        self.made.append(kind)
        getattr(self, kind)()

    def _some(self, ids: list[str]) -> list[str]:
        return self.chance.sample(ids, min(len(ids), self.chance.randint(1, 4)))

    def _living(self) -> list[str]:
        self.memory.refresh()
        return [str(id_) for id_ in self.memory.snapshot().ids]

    def _put(self, ids: list[str], pictures: list[Picture] | None = None) -> None:
        pictures = pictures or [Picture(self.chance.getrandbits(20)) for _ in ids]
        thumbnails = [picture.thumbnail for picture in pictures]
        batch = ItemBatch(
            ids,
            [self.chance.choice("xyz") for _ in ids],
            np.stack([picture.vector for picture in pictures]),
            thumbnails,
            [None] * len(ids),
            [picture.digest for picture in pictures],
        )
        self.memory._put(batch, on_duplicate="replace")
        for embedder in ("one", "other"):
            folder = self.cache / "features" / embedder
            with open_store(folder, size_limit=FEATURES_SIZE_LIMIT) as store:
                for picture in pictures:
                    store.set(picture.digest, (picture.vector if embedder == "one" else picture.feature).tobytes())
            (folder / ABOUT).write_text(embedder)
        with open_store(self.cache / "replies", size_limit=FEATURES_SIZE_LIMIT) as store:
            shown = [sha256(thumbnail).hexdigest() for thumbnail in thumbnails]
            for digest, thumbnail in zip(shown, thumbnails, strict=True):
                store.set(f"image:{digest}", thumbnail)
            record = {"parts": [{"text": "which?"}, *({"image": digest} for digest in shown[:3])]}
            store.set(f"reply:{shown[0]}", json.dumps(record).encode())
        for id_, picture in zip(ids, pictures, strict=True):
            self.were.setdefault(id_, []).append(picture)

    def add(self) -> None:
        self._put([f"{self.chance.getrandbits(30)}" for _ in range(self.chance.randint(1, 4))])

    def replace(self) -> None:
        if ids := self._some(self._living()):
            self._put(ids)

    def same(self) -> None:
        """Put the picture of some item under its own id and under another's again."""
        if living := self._living():
            id_ = self.chance.choice(living)
            self._put([id_], [self.were[id_][-1]])
            self._put([f"twin of {id_}"], [self.were[id_][-1]])

    def relabel(self) -> None:
        if ids := self._some(self._living()):
            self.memory.relabel(self.chance.choice("xyz"), ids=ids)

    def forget(self) -> None:
        if ids := self._some(self._living()):
            self.memory.forget(ids=ids)

    def compact(self) -> None:
        self.memory.compact(keep=self.chance.randint(1, 3))

    def checkout(self) -> None:
        self.memory.checkout(self.chance.choice([version.number for version in self.memory.history()]))

    def prune(self) -> None:
        if count := len(self._living()):
            self.memory.set_reliability(np.linspace(0, 1, count) if self.chance.random() < 0.7 else None)

    def tag(self) -> None:
        self.memory.tag(f"t{self.chance.getrandbits(30)}")

    def reopen(self) -> None:
        self.memory = VisualMemory.open(self.path)

    def search(self) -> None:
        if self._living() and self.memory.snapshot().findable:
            self.memory.search_vectors(Picture(1).vector[None], k=1)

    def centred(self) -> None:
        if len(self._living()) > 2 and self.memory.snapshot().findable:
            self.memory.snapshot(centred=True).search(Picture(1).vector[None], 1)

    def killed(self) -> None:
        """Leave what a writer that was killed leaves: a generation of the index that never lived."""
        for current in self.path.glob("index*/current"):
            shutil.copytree(
                current.parent / current.read_text(), current.parent / f"{self.chance.getrandbits(64):016x}"
            )

    def erase(self) -> None:
        """Erase some of all items that ever were, and look for them and for all that were erased before."""
        ids = self._some(sorted(self.were))
        if not ids:
            return
        receipt = self.memory.erase(ids=ids, progress=False)
        assert receipt.path is not None
        self.receipts.append(receipt.path)
        for id_ in ids:
            self.erased.update(self.were.pop(id_))
        stay = {picture for pictures in self.were.values() for picture in pictures}
        self.erased -= stay
        gone = {secret: f"{picture}" for picture in self.erased for secret in picture.secrets}
        found = find(gone, self.path, self.cache)
        assert not found, (found, self.made)
        checked = look_again(receipt.path, self.path)
        assert not checked, (checked, self.made)
        changed = self.path.with_name("changed.json")
        for content in self.chance.sample(list(changes(receipt.path)), 3):
            changed.write_text(content)
            assert is_no_proof(changed, self.path), (content, self.made)


def look_again(receipt: Path, memory: Path) -> list[str]:
    """Return what verifying says is left."""
    read: Receipt = read_receipt(receipt)
    checks = verify(read, memory, progress=False).checks
    return [f"{check.what}: {left}" for check in checks for left in check.left]


def is_no_proof(receipt: Path, memory: Path) -> bool:
    """Tell whether a receipt is refused, or proves nothing."""
    try:
        return not verify(read_receipt(receipt), memory, traces=[], progress=False).proven
    except InvalidArgument:
        return True


def changes(receipt: Path) -> Iterator[str]:
    """Yield a receipt with each of its fields changed in turn, at any depth."""
    written = json.loads(receipt.read_text())
    for parents, value in list(_fields(written, ())):
        for other in _others(value):
            copied = copy.deepcopy(written)
            place = copied
            for name in parents[:-1]:
                place = place[name]
            place[parents[-1]] = other
            yield json.dumps(copied)


def _fields(value: Any, parents: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    if parents:
        yield parents, value
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, one in inside:
        yield from _fields(one, (*parents, name))


def _others(value: Any) -> list[Any]:
    """Return other values of a field, of the same kind and not."""
    match value:
        case bool():
            return [not value, None]
        case int():
            return [value + 1, str(value), 0]
        case str():
            return [value[::-1] or "x", "0" * len(value), ""] if set(value) - {"0"} else ["1"]
        case list():
            return [[], value + value] if value else [["x"]]
        case dict():
            return [{}, {**value, "x": 0}]
    return [1]


def find(secrets: dict[bytes, str], *folders: Path) -> list[str]:
    """Return where any piece of some secrets is, and of which."""
    pieces = {
        secret[start : start + PIECE]: name
        for secret, name in secrets.items()
        for start in range(0, len(secret) - PIECE + 1, PIECE // 2)
    }
    begins = np.unique(np.frombuffer(b"".join(piece[:8] for piece in pieces), np.uint64)) if pieces else np.empty(0)
    found = []
    for file in (file for folder in folders for file in sorted(folder.rglob("*")) if file.is_file()):
        for content in [file.read_bytes(), *decoded(file)]:
            if len(content) < 8:
                continue
            words = np.ndarray(len(content) - 7, "<u8", content, strides=(1,))  # one at every offset
            for start in np.flatnonzero(np.isin(words, begins)).tolist():
                if name := pieces.get(content[start : start + PIECE]):
                    found.append(f"{name} in {file}")
    return sorted(set(found))


def decoded(file: Path) -> list[bytes]:
    """Return what a file holds once it is decoded, whatever that is."""
    match file.suffix:
        case ".lance":
            tables = [LanceFileReader(str(file)).read_all().to_table()]
        case ".parquet":
            tables = [pq.read_table(file)]
        case ".rows":
            tables = [pa.ipc.open_stream(file.read_bytes()[32:]).read_all()]
        case ".npy":
            return [np.load(file).tobytes()]
        case ".db":
            with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
                values = [value for (value,) in database.execute("SELECT value FROM Cache")]
            return [value for value in values if isinstance(value, bytes)]
        case _:
            return []
    return [buffer.to_pybytes() for column in tables[0].columns for buffer in buffers(column)]


def buffers(column: pa.ChunkedArray) -> list[pa.Buffer]:
    return [buffer for chunk in column.chunks for buffer in chunk.buffers() if buffer is not None]
