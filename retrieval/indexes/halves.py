"""Vectors as float16 rows, in memory or mapped from a file, and exact comparison with some of them.

NumPy turns float16 into float32 number by number, 2 ns each. Moving the bits to where float32 has them takes three
passes that it does many at a time, and leaves every number 2^112 times too small, which costs nothing to make good:
18 µs instead of 180 for 300 candidates of 384 dimensions.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from jaxtyping import Float, Int, Num

from retrieval.indexes.base import BLOCK_ITEMS, VectorBlocks

ROWS: Final = "vectors.f16"  # no header, so that rows can be put at its end
LENGTHS: Final = "lengths.npy"
_LIFT: Final = np.float32(2.0**112)  # the ratio of what the two formats' exponents start from
_SIGN_AND_REST: Final = -0x70000001  # the bits of a float32 that a float16's fill once they are moved
_NUMBERS_AT_A_TIME: Final = 2**19  # compared in one go: they stay in a core's second-level cache
_SHARED_FROM: Final = 32  # queries from which several threads are worth their start
_PROBES: Final = 1000  # rows that are looked at when a file is mapped
_ALIKE: Final = 1e-5  # relative; the same length computed twice differs by less


@dataclass(frozen=True, slots=True, eq=False)
class Halves:
    """Float16 rows with their float32 lengths; an erased row is all zeros and of length 0."""

    rows: Num[np.ndarray, "items dimension"]  # int16, float16 by its bits
    lengths: Float[np.ndarray, " items"]
    path: Path | None  # of the file; None where they are in memory

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def dimension(self) -> int:
        """Numbers in a row."""
        return int(self.rows.shape[1])

    @classmethod
    def write(cls, blocks: VectorBlocks, folder: Path | None) -> "Halves":
        """Put vectors into a folder's files, or into memory. Raises OSError."""
        return cls._append(None, blocks, folder)

    def extended(self, blocks: VectorBlocks, folder: Path | None) -> "Halves":
        """Return these rows and more: in files of another folder, which may share this one's, or in memory."""
        return self._append(self, blocks, folder)

    @classmethod
    def _append(cls, before: "Halves | None", blocks: VectorBlocks, folder: Path | None) -> "Halves":
        first = len(before) if before else 0
        lengths = np.empty(first + len(blocks), np.float32)
        if before:
            lengths[:first] = before.lengths
        if folder is None:
            rows = np.empty((len(lengths), blocks.dimension), np.int16)
            if before:
                rows[:first] = before.rows
            for start, some in _as_halves(blocks, first, lengths):
                rows[start : start + len(some)] = some
            return cls(rows, lengths, None)
        with _appending(before, folder / ROWS) as file:
            for _, some in _as_halves(blocks, first, lengths):
                file.write(some.data)  # not tofile, which says nothing of a disk that is full at the very end
        np.save(folder / LENGTHS, lengths)
        return cls._map(folder, blocks.dimension)

    @classmethod
    def load(cls, folder: Path, *, dimension: int) -> "Halves":
        """Map a folder's files. Raises OSError, and ValueError where rows do not have the lengths they should."""
        loaded = cls._map(folder, dimension)
        probes = np.unique(np.linspace(0, len(loaded) - 1, _PROBES).astype(np.int64))
        if not np.allclose(_length(_widen(loaded.rows[probes])), loaded.lengths[probes], rtol=_ALIKE):
            raise ValueError(f"{folder / ROWS} does not hold the vectors it should")
        return loaded

    @classmethod
    def _map(cls, folder: Path, dimension: int) -> "Halves":
        # The lengths, too: what is erased by another process before these are extended must not be carried on.
        lengths = np.load(folder / LENGTHS, mmap_mode="r", allow_pickle=False).view(np.ndarray)
        rows = np.memmap(folder / ROWS, np.int16, "r", shape=(len(lengths), dimension))
        return cls(rows.view(np.ndarray), lengths, folder / ROWS)

    def blocks(self, start: int = 0) -> Iterator[Float[np.ndarray, "some dimension"]]:
        """Yield the rows from one on as float32 of length 1; a file is read, not mapped, so that memory stays flat."""
        for first in range(start, len(self), BLOCK_ITEMS):
            some = slice(first, min(first + BLOCK_ITEMS, len(self)))
            if self.path is None:
                rows = self.rows[some]
            else:
                count, before = (some.stop - some.start) * self.dimension, first * self.dimension * 2
                rows = np.fromfile(self.path, np.int16, count, offset=before).reshape(-1, self.dimension)
            yield to_unit(rows.view(np.float16), self.lengths[some])

    def __iter__(self) -> Iterator[Float[np.ndarray, "some dimension"]]:
        return self.blocks()

    def sample(self, number: int) -> Float[np.ndarray, "sample dimension"]:
        """Return a number of rows chosen at random, always the same ones, as float32 of length 1."""
        chosen = np.zeros(len(self), bool)
        chosen[np.random.default_rng(0).choice(len(self), number, replace=False)] = True
        rows, filled, start = np.empty((number, self.dimension), np.float32), 0, 0
        for block in self:
            some = block[chosen[start : start + len(block)]]
            rows[filled : filled + len(some)] = some
            filled, start = filled + len(some), start + len(block)
        return rows

    def unit(self, positions: Int[np.ndarray, " some"]) -> Float[np.ndarray, "some dimension"]:
        """Return some rows as float32 of length 1."""
        return to_unit(self.rows[positions].view(np.float16), self.lengths[positions])

    def similarities(
        self, positions: Int[np.ndarray, "queries some"], queries: Float[np.ndarray, "queries dimension"]
    ) -> Float[np.ndarray, "queries some"]:
        """Return the cosine of each query to its own rows; each is the same whatever else is asked beside it."""
        found = np.empty(positions.shape, np.float32)
        if len(queries) < _SHARED_FROM:
            self._compare(positions, queries, found)
        else:
            threads = os.cpu_count() or 1
            parts = (np.array_split(array, threads) for array in (positions, queries, found))
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(self._compare, *parts))
        lengths = self.lengths[positions]
        np.divide(found, lengths, out=found, where=lengths > 0)
        return found

    def _compare(self, positions: np.ndarray, queries: np.ndarray, found: np.ndarray) -> None:
        some, dimension = positions.shape[1], self.dimension
        at_a_time = max(1, min(len(queries), _NUMBERS_AT_A_TIME // (some * dimension)))
        halves = np.empty((at_a_time * some, dimension), np.int16)
        wide = np.empty(halves.shape, np.int32)
        for start in range(0, len(queries), at_a_time):
            part = slice(start, start + at_a_time)
            number = len(queries[part])
            taken, widened = halves[: number * some], wide[: number * some]
            np.take(self.rows, positions[part].ravel(), axis=0, out=taken, mode="clip")  # "raise" would copy once more
            # Row by row, not as a matrix product: that one's rounding depends on the place of a row among others.
            rows = _move_bits(taken, widened).reshape(number, some, dimension)
            np.vecdot(rows, (queries[part] * _LIFT)[:, None, :], out=found[part])


def erase_rows(folder: Path, positions: Int[np.ndarray, " erased"], *, dimension: int) -> list[str]:
    """Overwrite rows and their lengths with zeros, in place, and return the names of the files."""
    rows = np.memmap(folder / ROWS, np.int16, "r+", shape=(int(positions.max()) + 1, dimension))
    lengths = np.load(folder / LENGTHS, mmap_mode="r+", allow_pickle=False)
    for array in (rows, lengths):
        array[positions] = 0
        array.flush()
    return [ROWS, LENGTHS]


def to_unit(
    halves: Float[np.ndarray, "some dimension"], lengths: Float[np.ndarray, " some"] | None = None
) -> Float[np.ndarray, "some dimension"]:
    """Return nearly unit vectors of float16 or float32 as float32 of length 1; a row of length 0 stays all zeros."""
    wide = _widen(halves.view(np.int16)) if halves.dtype == np.float16 else halves.astype(np.float32)
    known = _length(wide) if lengths is None else lengths
    wide *= np.divide(1, known, out=np.zeros_like(known), where=known > 0)[:, None]
    return wide


def _widen(halves: np.ndarray) -> np.ndarray:
    wide: np.ndarray = _move_bits(halves, np.empty(halves.shape, np.int32))
    wide *= _LIFT
    return wide


def _move_bits(halves: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Return float32 that are 2^-112 of the float16 whose bits came as int16, in the memory of ``out``, an int32."""
    out[...] = halves
    np.left_shift(out, 13, out=out)
    np.bitwise_and(out, _SIGN_AND_REST, out=out)
    moved: np.ndarray = out.view(np.float32)
    return moved


def _length(rows: np.ndarray) -> np.ndarray:
    length: np.ndarray = np.sqrt(np.vecdot(rows, rows))
    return length


def _as_halves(blocks: VectorBlocks, first: int, lengths: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield blocks as the bits of float16, each with the row it starts at, and fill in the lengths of their rows."""
    for block in blocks:
        halves = np.ascontiguousarray(block, np.float16).view(np.int16)
        lengths[first : first + len(halves)] = _length(_widen(halves))
        yield first, halves
        first += len(halves)


def _appending(before: Halves | None, path: Path) -> BinaryIO:
    """Open a file that begins with the rows that were before, to write more of them."""
    if before and _linked(before, path):
        return path.open("ab")
    file = path.open("wb")
    if before:
        file.write(before.rows.data)
    return file


def _linked(before: Halves, path: Path) -> bool:
    """Let a file be the one that was before, under another name, where nothing stands behind its rows."""
    try:
        if before.path is None or before.path.stat().st_size != before.rows.nbytes:
            return False  # what stands there was written for an index that never came to be
        path.hardlink_to(before.path)
    except OSError:  # a file system without hard links
        return False
    return True
