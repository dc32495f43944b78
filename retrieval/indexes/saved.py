"""An index on disk beside the table it was made from: whole generations that replace each other, never half of one.

Whoever builds, extends or erases holds the memory's writer lock. Readers hold none: they try again when the generation
was replaced while they opened it.
"""

import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Int

from retrieval.errors import InvalidArgument
from retrieval.indexes import index_class
from retrieval.indexes.base import Index, VectorBlocks, Written
from retrieval.items import KeyRanges
from retrieval.support.parsing import parse_json

_BLOCK: Final = 2**20  # bytes; an index over a million vectors of 384 dimensions has 1,000 blocks


@dataclass(frozen=True, slots=True)
class Digests:
    """The bytes of a file that belong to it, from its beginning, by the SHA-256 of each block."""

    size: int
    blocks: list[str]

    @classmethod
    def of(cls, path: Path, *, grown_from: "Digests | None" = None) -> "Digests":
        """Read a file; where it has grown, only from the last block on that was not whole before."""
        size = path.stat().st_size
        known = grown_from.blocks[: grown_from.size // _BLOCK] if grown_from else []
        return cls(size, [*known, *_digests(path, range(len(known), -(-size // _BLOCK)), size)])

    def rewritten(self, path: Path, rows: Int[np.ndarray, " rows"], *, items: int, raw: bool) -> "Digests":
        """Return the digests after some rows of a file were written over, of a raw one or a NumPy array's."""
        offset, stride = 0, self.size // items
        if not raw:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            offset, stride = array.offset, array.strides[0]
        starts = offset + rows * stride
        touched = np.unique(np.concatenate([starts // _BLOCK, (starts + stride - 1) // _BLOCK])).tolist()
        blocks = self.blocks.copy()
        for block, digest in zip(touched, _digests(path, touched, self.size), strict=True):
            blocks[block] = digest
        return Digests(self.size, blocks)

    def differing(self, path: Path) -> Iterator[tuple[int, int]]:
        """Yield the first and last byte of each block that is not what it was."""
        found = _digests(path, range(len(self.blocks)), self.size)
        for number, (expected, digest) in enumerate(zip(self.blocks, found, strict=True)):
            if digest != expected:
                yield _BLOCK * number, min(_BLOCK * (number + 1), self.size) - 1


def _digests(path: Path, blocks: Iterable[int], size: int) -> Iterator[str]:
    with path.open("rb") as file:
        for block in blocks:
            file.seek(block * _BLOCK)
            yield hashlib.sha256(file.read(min(_BLOCK, size - block * _BLOCK))).hexdigest()


DAMAGE: Final = (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, ImportError, InvalidArgument)
"""What reading a generation raises that is not what it should be."""

HEADER: Final = "header.json"
_CURRENT: Final = "current"
_FRESH: Final = ".new"  # ends the name of a small file that is about to take another's place
_READ_WHOLE: Final = 64 * 2**20  # bytes, in 40 ms; mapped files beyond are compared by `check` alone
_FORMAT: Final = 5
"""1 had its files directly in the folder, 2 its vectors as float16, 3 one effort for all queries, 4 rows in order."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a generation is."""

    kind: str
    stamp: str
    items: int
    files: dict[str, Digests]

    @classmethod
    def read(cls, generation: Path) -> "Header":
        """Raise one of `DAMAGE` for anything but a header of this format."""
        entries = parse_json((generation / HEADER).read_text(encoding="utf-8"))
        if entries["format"] != _FORMAT:
            raise ValueError(f"{generation} is of format {entries['format']!r}: {_FORMAT} expected")
        files = {name: Digests(**digests) for name, digests in entries["files"].items()}
        return cls(entries["kind"], entries["stamp"], entries["items"], files)

    def after_erasing(self, generation: Path, written: Written) -> "Header":
        """Return the header that vouches for the files after some of their rows were written over."""
        mapped, files = index_class(self.kind).mapped, self.files.copy()
        for name in files.keys() & written.keys():
            path, raw = generation / name, name in mapped
            if raw or path.suffix == ".npy":
                files[name] = files[name].rewritten(path, written[name], items=self.items, raw=raw)
            else:
                files[name] = Digests.of(path)
        return replace(self, files=files)

    def write(self, generation: Path) -> None:
        """Put the header in its place, as the last of the generation's files."""
        _replace_file(generation / HEADER, json.dumps({"format": _FORMAT, **asdict(self)}))


def live_generation(folder: Path) -> Path | None:
    """Return the live generation."""
    try:
        name = (folder / _CURRENT).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return folder / name if re.fullmatch("[0-9a-f]{16}", name) else None


def withdraw(folder: Path) -> None:
    """Remove every generation."""
    (folder / _CURRENT).unlink(missing_ok=True)
    _sweep(folder, live=None)


def _sweep(folder: Path, *, live: Path | None) -> None:
    """Remove what is not the live generation."""
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.name == _CURRENT or entry == live:
            continue
        if not entry.is_dir():
            entry.unlink(missing_ok=True)
            continue
        with suppress(*DAMAGE):
            kind = Header.read(entry).kind
            same = live is not None and Header.read(live).kind == kind
            index_class(kind).discard(entry, live=live if same else None)
        shutil.rmtree(entry, ignore_errors=True)


def _damaged_files(generation: Path, header: Header, *, whole: bool) -> list[str]:
    """Say which files are not as they were written; of large ones that are mapped, only whether one is too short."""
    mapped = index_class(header.kind).mapped
    there = {path.name for path in _files_of(generation)}
    damaged = [f"{generation / name} is missing or does not belong there" for name in sorted(there ^ set(header.files))]
    for name in sorted(there & set(header.files)):
        path, digests = generation / name, header.files[name]
        size = path.stat().st_size
        if size < digests.size or (size > digests.size and name not in mapped):
            damaged.append(f"{path} has {size} bytes: {digests.size} expected")
        elif whole or name not in mapped or digests.size <= _READ_WHOLE:
            damaged += [f"{path} is damaged from byte {first} to {last}" for first, last in digests.differing(path)]
    return damaged


def _files_of(generation: Path) -> list[Path]:
    """Return the files that the header is to vouch for."""
    headers = (HEADER, f"{HEADER}{_FRESH}")
    return sorted(path for path in generation.iterdir() if path.is_file() and path.name not in headers)


def _replace_file(path: Path, text: str) -> None:
    """Put a small file in the place of another as one, so that it survives the power going out."""
    fresh = path.with_name(f"{path.name}{_FRESH}")
    fresh.write_text(text, encoding="utf-8")
    _sync(fresh)
    fresh.replace(path)
    with suppress(OSError):  # not every system opens a folder
        _sync(path.parent)


def _sync(path: Path) -> None:
    """Have the system put a file, or a folder's list of files, on the disk now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_KEYS: Final = "keys.npy"
_ERASED: Final = -1
_ERASING: Final = "erasing"  # there while files and header do not fit together
_TRIES: Final = 10  # at opening what is being replaced or erased from,
_PAUSE_SECONDS: Final = 0.2  # which takes as long for 10,000 items of a million
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """An index and what its positions stand for."""

    index: Index
    keys: Int[np.ndarray, " items"]  # int64, the key of the item at each position, -1 where it was erased; read only
    stamp: str  # what it was made from, in the caller's words
    folder: Path | None  # its generation; None where it is in memory only


def load_stored(folder: Path, *, stamp: str = "") -> Stored | None:
    """Return the live index in a folder.

    None where there is none, or one of another stamp or format, or a damaged one, which is logged.

    Raises:
        IndexUnavailable: it is on another machine that does not answer.
    """
    problem: Exception | None = None
    for _ in range(_TRIES):
        before = _live_state(folder)
        generation, _ = before
        if generation is None:
            return None
        try:
            return _load(generation, stamp)
        except DAMAGE as error:
            problem = error
        if (folder / _ERASING).exists():
            time.sleep(_PAUSE_SECONDS)
        elif _live_state(folder) == before:  # else it was replaced, or erased from, while being opened
            break
    _logger.warning("The index in %s is damaged and will be built anew: %s", folder, problem)
    return None


def _load(generation: Path, stamp: str) -> Stored | None:
    header = Header.read(generation)
    if header.stamp != stamp:
        return None
    if damaged := _damaged_files(generation, header, whole=False):
        raise ValueError(damaged[0])
    index, keys = index_class(header.kind).load(generation), _keys(generation)
    if not len(index) == len(keys) == header.items:
        raise ValueError(f"{generation} holds {len(index)} vectors and {len(keys)} keys: {header.items} expected")
    return Stored(index, keys, stamp, generation)


def _live_state(folder: Path) -> tuple[Path | None, bytes]:
    """Return the live generation and its header as it stands there."""
    generation = live_generation(folder)
    with suppress(OSError):
        return generation, (generation / HEADER).read_bytes() if generation else b""
    return generation, b""


def build_stored(
    kind: str, blocks: VectorBlocks, keys: Int[np.ndarray, " items"], folder: Path | None, *, stamp: str = ""
) -> Stored:
    """Build an index, and put it in the place of the one in a folder.

    Args:
        kind: of the index, as `choose_kind` returns it.
        blocks: the vectors; at least one.
        keys: of the items they belong to.
        folder: of the index; None to keep it in memory, as happens, with a warning, where the disk refuses.
        stamp: what a later `load_stored` has to ask for.
    """
    made = index_class(kind)
    if folder is not None and not made.saved:
        with suppress(OSError):  # a disk that can only be read keeps what it has
            withdraw(folder)
        folder = None
    return _store(lambda fresh: made.build(blocks, fresh), keys, folder, stamp=stamp)


def extend_stored(stored: Stored, blocks: VectorBlocks, keys: Int[np.ndarray, " added"], folder: Path | None) -> Stored:
    """Put an index with more vectors at the end in the place of the live one; the one given stays usable.

    It is kept in memory where the one given is not, or no longer, the live one of the folder: what has been erased from
    that would come back.

    Args:
        stored: the index.
        blocks: the vectors to add; at least one.
        keys: of the items they belong to.
        folder: of the index; None to keep the extended one in memory.
    """
    if stored.folder is None or folder is None or stored.folder != live_generation(folder):
        folder = None
    all_keys = np.concatenate([stored.keys, keys])
    return _store(
        lambda fresh: stored.index.extended(blocks, fresh), all_keys, folder, stamp=stored.stamp, before=stored.folder
    )


def _store(
    make: Callable[[Path | None], Index],
    keys: np.ndarray,
    folder: Path | None,
    *,
    stamp: str,
    before: Path | None = None,
) -> Stored:
    """Make an index in a fresh generation, after which that lives; in memory where there is no folder or it refuses."""
    if folder is not None:
        fresh = folder / secrets.token_hex(8)
        try:
            fresh.mkdir(parents=True)
            index = make(fresh)
            np.save(fresh / _KEYS, np.asarray(keys, np.int64))
            files = {}
            for path in _files_of(fresh):
                _sync(path)
                files[path.name] = Digests.of(path, grown_from=_grown_from(path, before))
            Header(index.kind, stamp, len(index), files).write(fresh)
            _replace_file(folder / _CURRENT, fresh.name)
            _sweep(folder, live=fresh)
            return Stored(index, _keys(fresh), stamp, fresh)
        except OSError as error:
            _logger.warning("The index cannot be kept in %s: %s", folder, error)
        finally:
            if live_generation(folder) != fresh:
                shutil.rmtree(fresh, ignore_errors=True)
    fixed = np.array(keys, np.int64)
    fixed.flags.writeable = False
    return Stored(make(None), fixed, stamp, None)


def _grown_from(path: Path, before: Path | None) -> Digests | None:
    """Return the digests of the file in another generation that this one is a longer state of, if any."""
    if before is None or not (before / path.name).exists() or not path.samefile(before / path.name):
        return None
    return Header.read(before).files[path.name]


def erase_stored(folder: Path, *, but: Iterable[KeyRanges]) -> list[str]:
    """Overwrite all that the index in a folder holds of items whose keys are not among some, and their keys.

    An index too damaged for that is removed. What killed writers left beside the live one, and behind the end of its
    files, goes too.

    Returns:
        The files written, by their paths in the folder.

    Raises:
        OSError: they cannot be written.
    """
    generation = live_generation(folder)
    try:
        if generation is None:
            raise FileNotFoundError(folder)
        header = Header.read(generation)
        made, positions = index_class(header.kind), _positions(generation, but)
    except DAMAGE:
        withdraw(folder)
        return []
    _sweep(folder, live=generation)
    for name in made.mapped:
        os.truncate(generation / name, header.files[name].size)
    if not positions.size:
        return []
    (folder / _ERASING).touch()
    try:
        written = {**made.erase(generation, positions), _KEYS: positions}
    except DAMAGE as error:
        if isinstance(error, OSError):  # the disk refuses: what is there stays, to be erased later
            raise
        withdraw(folder)  # a run that was killed while it erased others left their rows half overwritten
        return []
    held = np.load(generation / _KEYS, mmap_mode="r+", allow_pickle=False)
    held[positions] = _ERASED  # last: where a killed run is taken up again, these positions are found again
    held.flush()
    header.after_erasing(generation, written).write(generation)
    (folder / _ERASING).unlink()
    return [f"{generation.name}/{name}" for name in (*written, HEADER)]


def check_stored(folder: Path) -> list[str]:
    """Return what of the live index in a folder is damaged, reading every byte; nothing where there is none."""
    generation = live_generation(folder)
    if generation is None:
        return []
    try:
        return _damaged_files(generation, Header.read(generation), whole=True)
    except DAMAGE as error:
        return [f"{generation / HEADER} cannot be used: {error}"]


def count_stored(folder: Path, *, but: Iterable[KeyRanges]) -> int:
    """Return how many items whose keys are not among some the live index in a folder holds.

    It is not loaded; a damaged one, which answers no search, holds none.
    """
    generation = live_generation(folder)
    with suppress(*DAMAGE):
        return len(_positions(generation, but)) if generation else 0
    return 0


def _positions(generation: Path, but: Iterable[KeyRanges]) -> Int[np.ndarray, " found"]:
    """Return the positions of items whose keys are not among some, but for those that were erased."""
    held = _first_keys(generation)
    positions = np.sort(held.find(held.without(but)))
    there: np.ndarray = positions[_keys(generation)[positions] != _ERASED]
    return there


@lru_cache(maxsize=4)
def _first_keys(generation: Path) -> KeyRanges:
    """Return the ranges of keys that a generation had when this process first looked: since then some may be erased."""
    return KeyRanges.of(_keys(generation))


def _keys(generation: Path) -> np.ndarray:
    keys: np.ndarray = np.load(generation / _KEYS, mmap_mode="r", allow_pickle=False)
    return keys
