"""Vectors as rows of 16-bit fixed point, in memory or mapped from a file, and exact comparison with some of them.

Rows stand in a file in whatever order they are searched fastest: where a query's candidates lie together, they are
fetched in half the time, since the processor has to find fewer pages (1,000,000 × 384, 200 candidates from 4 leaves).
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from jaxtyping import Bool, Float, Int, Int16, UInt32

from retrieval.indexes.base import BLOCK_ITEMS, VectorBlocks, Written
from retrieval.vectors import length, to_fixed_point, to_unit

ROWS: Final = "vectors.i16"  # no header, so that rows can be put at its end
LENGTHS: Final = "lengths.npy"
PLACES: Final = "places.npy"
_SHARED_FROM: Final = 32  # queries from which several threads are worth their start
_PROBES: Final = 1000  # rows that are looked at when a file is mapped
_NONE: Final = np.empty(0, bool)  # are skipped
_ALIKE: Final = 1e-5  # relative; the same length computed twice differs by less


@dataclass(frozen=True, eq=False)
class FixedPointRows:
    """Rows with their lengths as float32; an erased row is all zeros and of length 0."""

    rows: Int16[np.ndarray, "items dimension"]
    lengths: Float[np.ndarray, " items"]  # of the stretched rows
    places: UInt32[np.ndarray, " items"]  # which row is that of each position
    path: Path | None  # of the file; None where they are in memory

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def dimension(self) -> int:
        """Numbers in a row."""
        return int(self.rows.shape[1])

    @classmethod
    def write(
        cls, blocks: VectorBlocks, folder: Path | None, *, before: "FixedPointRows | None" = None
    ) -> "FixedPointRows":
        """Put vectors into a folder's files, or into memory: after other rows, whose file the folder's may share.

        Raises:
            OSError: the disk refuses.
        """
        first = len(before) if before else 0
        lengths = np.empty(first + len(blocks), np.float32)
        places = np.arange(len(lengths), dtype=np.uint32)
        if before:
            lengths[:first], places[:first] = before.lengths, before.places
        if folder is None:
            rows = np.empty((len(lengths), blocks.dimension), np.int16)
            if before:
                rows[:first] = before.rows
            for start, some in _stretched(blocks, first, lengths):
                rows[start : start + len(some)] = some
            return cls(rows, lengths, places, None)
        with _appending(before, folder / ROWS) as file:
            for _, some in _stretched(blocks, first, lengths):
                file.write(some.data)  # not tofile, which says nothing of a disk that is full at the very end
        np.save(folder / LENGTHS, lengths)
        np.save(folder / PLACES, places)
        return cls._map(folder, blocks.dimension)

    def arranged(self, groups: Int[np.ndarray, " items"], folder: Path) -> "FixedPointRows":
        """Put rows of a folder's files side by side where their positions are of one group, such as a leaf.

        Raises:
            OSError: the folder cannot be written.
        """
        order = np.argsort(groups, kind="stable")
        fresh = folder / f"{ROWS}.new"
        with fresh.open("wb") as file:
            for start in range(0, len(order), BLOCK_ITEMS):
                file.write(self.at(order[start : start + BLOCK_ITEMS]).data)
        fresh.replace(folder / ROWS)
        places = np.empty_like(self.places)
        places[order] = np.arange(len(order), dtype=np.uint32)
        np.save(folder / LENGTHS, self.lengths[self.places[order]])
        np.save(folder / PLACES, places)
        return self._map(folder, self.dimension)

    @classmethod
    def load(cls, folder: Path, *, dimension: int) -> "FixedPointRows":
        """Map a folder's files. Raises OSError, and ValueError where rows do not have the lengths they should."""
        loaded = cls._map(folder, dimension)
        probes = np.unique(np.linspace(0, len(loaded) - 1, _PROBES).astype(np.int64))
        if not np.allclose(length(loaded.rows[probes].astype(np.float32)), loaded.lengths[probes], rtol=_ALIKE):
            raise ValueError(f"{folder / ROWS} does not hold the vectors it should")
        return loaded

    @classmethod
    def _map(cls, folder: Path, dimension: int) -> "FixedPointRows":
        # The lengths, too: what is erased by another process before these are extended must not be carried on.
        lengths, places = (
            np.load(folder / name, mmap_mode="r", allow_pickle=False).view(np.ndarray) for name in (LENGTHS, PLACES)
        )
        rows = np.memmap(folder / ROWS, np.int16, "r", shape=(len(lengths), dimension))
        return cls(rows.view(np.ndarray), lengths, places, folder / ROWS)

    def blocks(self, start: int = 0) -> Iterator[Float[np.ndarray, "some dimension"]]:
        """Yield the rows from one on, in their own order, as float32 of length 1.

        That is the order of positions until they are `arranged`, and of those that were put behind them then. A file
        is read, not mapped, so that memory stays flat.
        """
        for first in range(start, len(self), BLOCK_ITEMS):
            some = slice(first, min(first + BLOCK_ITEMS, len(self)))
            if self.path is None:
                rows = self.rows[some]
            else:
                count, before = (some.stop - some.start) * self.dimension, first * self.dimension * 2
                rows = np.fromfile(self.path, np.int16, count, offset=before).reshape(-1, self.dimension)
            yield to_unit(rows, self.lengths[some])

    def __iter__(self) -> Iterator[Float[np.ndarray, "some dimension"]]:
        return self.blocks()

    def shuffled(self) -> Int[np.ndarray, " items"]:
        """Return all positions, always in the same random order."""
        return np.random.default_rng(0).permutation(len(self))

    def sample(self, number: int) -> Float[np.ndarray, "sample dimension"]:
        """Return the first of the shuffled rows, in order of position, as float32 of length 1."""
        chosen = np.zeros(len(self), bool)
        chosen[self.shuffled()[:number]] = True
        rows, filled, start = np.empty((number, self.dimension), np.float32), 0, 0
        for block in self:
            some = block[chosen[start : start + len(block)]]
            rows[filled : filled + len(some)] = some
            filled, start = filled + len(some), start + len(block)
        return rows

    def at(self, positions: Int[np.ndarray, " some"]) -> Int16[np.ndarray, "some dimension"]:
        """Return the rows of some positions."""
        rows: np.ndarray = self.rows[self.places[positions]]
        return rows

    def unit(self, positions: Int[np.ndarray, " some"]) -> Float[np.ndarray, "some dimension"]:
        """Return the rows of some positions as float32 of length 1."""
        return to_unit(self.at(positions), self.lengths[self.places[positions]])

    def ranked(
        self,
        queries: Float[np.ndarray, "queries dimension"],
        positions: UInt32[np.ndarray, "queries some"],
        rough: Float[np.ndarray, "queries some"],
        skip: Bool[np.ndarray, " items"] | None,
    ) -> Int[np.ndarray, "queries some"]:
        """Return numbers (`retrieval.indexes.base`) of each query's candidates, as `compiled.compare` does."""
        numbers = np.empty(positions.shape, np.int64)
        skipped = _NONE if skip is None else skip
        if len(queries) < _SHARED_FROM:
            self._compare(skipped, queries, positions, rough, numbers)
        else:
            threads = os.cpu_count() or 1
            parts = (np.array_split(array, threads) for array in (queries, positions, rough, numbers))
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(partial(self._compare, skipped), *parts))
        return numbers

    @cached_property
    def _compare(self) -> Callable[..., None]:
        from retrieval.indexes.compiled import compare

        return partial(compare, self.rows, self.lengths, self.places)


def erase_rows(folder: Path, positions: Int[np.ndarray, " erased"], *, dimension: int) -> Written:
    """Overwrite the rows of some positions and their lengths with zeros, in place.

    Where they stood stays, among rows of the same group.
    """
    places = np.load(folder / PLACES, mmap_mode="r", allow_pickle=False)[positions].astype(np.int64)
    rows = np.memmap(folder / ROWS, np.int16, "r+", shape=(int(places.max()) + 1, dimension))
    lengths = np.load(folder / LENGTHS, mmap_mode="r+", allow_pickle=False)
    for array in (rows, lengths):
        array[places] = 0
        array.flush()
    return {ROWS: places, LENGTHS: places}


def _stretched(blocks: VectorBlocks, first: int, lengths: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield blocks in fixed point, each with the row it starts at, and fill in the lengths of their rows."""
    for block in blocks:
        rows = to_fixed_point(block)
        lengths[first : first + len(rows)] = length(rows.astype(np.float32))
        yield first, rows
        first += len(rows)


def _appending(before: FixedPointRows | None, path: Path) -> BinaryIO:
    """Open a file that begins with the rows that were before, to write more: their own, under another name.

    It is a copy where the file system has no hard links, and where more stands behind those rows than belongs to them:
    that was written for an index that never came to be.
    """
    linked = False
    with suppress(OSError):
        if before and before.path and before.path.stat().st_size == before.rows.nbytes:
            path.hardlink_to(before.path)
            linked = True
    if linked:  # opened as new it would be emptied, under both names
        return path.open("ab")
    file = path.open("wb")
    if before:
        file.write(before.rows.data)
    return file
