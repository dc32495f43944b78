"""An index on disk beside the table it was made from: whole generations that replace each other, never half of one.

Whoever builds, extends or erases holds the memory's writer lock. Readers hold none: they try again when the generation
was replaced while they opened it.
"""

import logging
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Int

from retrieval.indexes import index_class
from retrieval.indexes.base import Index, VectorBlocks
from retrieval.indexes.digests import Digests
from retrieval.indexes.generations import (
    DAMAGE,
    HEADER,
    Header,
    damaged_files,
    files_of,
    generation_in,
    live_generation,
    live_state,
    make_live,
    sweep,
    sync,
    withdraw,
)
from retrieval.runs import Runs

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
        state = generation, _ = live_state(folder)
        if generation is None:
            return None
        try:
            return _load(generation, stamp)
        except DAMAGE as error:
            problem = error
        if (folder / _ERASING).exists():
            time.sleep(_PAUSE_SECONDS)
        elif live_state(folder) == state:  # else it was replaced, or erased from, while being opened
            break
    _logger.warning("The index in %s is damaged and will be built anew: %s", folder, problem)
    return None


def _load(generation: Path, stamp: str) -> Stored | None:
    header = Header.read(generation)
    if header.stamp != stamp:
        return None
    if damaged := damaged_files(generation, header, whole=False):
        raise ValueError(damaged[0])
    index: Index = index_class(header.kind).load(generation)
    keys = _keys(generation)
    if not len(index) == len(keys) == header.items:
        raise ValueError(f"{generation} holds {len(index)} vectors and {len(keys)} keys: {header.items} expected")
    return Stored(index, keys, stamp, generation)


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
    place = folder if made.saved else None
    return _stored(lambda fresh: made.build(blocks, fresh), keys, place, stamp=stamp, before=None)


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
    live = folder is not None and stored.folder is not None and stored.folder == live_generation(folder)
    all_keys = np.concatenate([stored.keys, keys])
    place = folder if live else None
    return _stored(
        lambda fresh: stored.index.extended(blocks, fresh), all_keys, place, stamp=stored.stamp, before=stored
    )


def _stored(
    make: Callable[[Path | None], Index], keys: np.ndarray, folder: Path | None, *, stamp: str, before: Stored | None
) -> Stored:
    """Make an index in a fresh generation and let that live, or make it in memory."""
    if folder is not None:
        try:
            with generation_in(folder) as fresh:
                return _commit(fresh, make(fresh), keys, stamp=stamp, before=before)
        except OSError as error:
            _logger.warning("The index cannot be kept in %s: %s", folder, error)
    kept = np.array(keys, np.int64)
    kept.flags.writeable = False
    return Stored(make(None), kept, stamp, None)


def _commit(fresh: Path, index: Index, keys: np.ndarray, *, stamp: str, before: Stored | None) -> Stored:
    np.save(fresh / _KEYS, np.asarray(keys, np.int64))
    files = {}
    for path in files_of(fresh):
        sync(path)
        files[path.name] = Digests.of(path, grown_from=_grown_from(path, before))
    Header(index.kind, stamp, len(index), files).write(fresh)
    make_live(fresh)
    return Stored(index, _keys(fresh), stamp, fresh)


def _grown_from(path: Path, before: Stored | None) -> Digests | None:
    """Return the digests of the file that this one is a longer state of, if any."""
    if before is None or before.folder is None or not (before.folder / path.name).exists():
        return None
    same = path.samefile(before.folder / path.name)
    return Header.read(before.folder).files[path.name] if same else None


def erase_stored(folder: Path, *, but: Iterable[Runs]) -> list[str]:
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
    sweep(folder, live=generation)
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
    kept = np.load(generation / _KEYS, mmap_mode="r+", allow_pickle=False)
    kept[positions] = _ERASED  # last: where a killed run is taken up again, these positions are found again
    kept.flush()
    covered = {name: rows for name, rows in written.items() if name in header.files}
    header.after_erasing(generation, covered).write(generation)
    (folder / _ERASING).unlink()
    return [f"{generation.name}/{name}" for name in (*written, HEADER)]


def check_stored(folder: Path) -> list[str]:
    """Return what of the live index in a folder is damaged, reading every byte; nothing where there is none."""
    generation = live_generation(folder)
    if generation is None:
        return []
    try:
        return damaged_files(generation, Header.read(generation), whole=True)
    except DAMAGE as error:
        return [f"{generation / HEADER} cannot be used: {error}"]


def count_stored(folder: Path, *, but: Iterable[Runs]) -> int:
    """Return how many items whose keys are not among some the live index in a folder holds.

    It is not loaded; a damaged one, which answers no search, holds none.
    """
    generation = live_generation(folder)
    with suppress(*DAMAGE):
        return len(_positions(generation, but)) if generation else 0
    return 0


def _positions(generation: Path, but: Iterable[Runs]) -> Int[np.ndarray, " found"]:
    """Return the positions of items whose keys are not among some, but for those that were erased."""
    held = _first_keys(generation)
    positions = np.sort(held.find(held.without(but)))
    there: np.ndarray = positions[_keys(generation)[positions] != _ERASED]
    return there


@lru_cache(maxsize=4)
def _first_keys(generation: Path) -> Runs:
    """Return the runs of keys that a generation had when this process first looked: since then some may be erased."""
    return Runs.of(_keys(generation))


def _keys(generation: Path) -> np.ndarray:
    keys: np.ndarray = np.load(generation / _KEYS, mmap_mode="r", allow_pickle=False)
    return keys
