"""What every index can do, and the stream of vectors it is made from."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import ClassVar, Final, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int, Real

BLOCK_ITEMS: Final = 8192  # ScaNN takes in 28,000 a second (384 dimensions) in blocks of this size or of larger ones
DEFAULT_RECALL: Final = 0.99  # of the true neighbours, on average: what an approximate search finds at least
MOST_RECALL: Final = 0.9995  # that can be asked of one
WORN_SHARE: Final = 0.2  # of an index is skipped: from here on a search does a fifth of its work for nothing


@runtime_checkable
class VectorBlocks(Protocol):
    """Vectors in order, a block at a time, of which only the direction counts; can be gone through more than once."""

    @property
    def dimension(self) -> int:
        """Numbers in a vector."""
        ...

    def __len__(self) -> int:
        """Return the number of vectors in all blocks."""
        ...

    def __iter__(self) -> Iterator[Real[np.ndarray, "some dimension"]]:
        """Yield blocks of floating point, or of fixed point (`retrieval.vectors.to_fixed_point`), none empty."""
        ...


@dataclass(frozen=True, slots=True)
class ArrayBlocks:
    """An array as blocks."""

    vectors: Real[np.ndarray, "items dimension"]

    @property
    def dimension(self) -> int:
        """Numbers in a vector."""
        return int(self.vectors.shape[1])

    def __len__(self) -> int:
        return len(self.vectors)

    def __iter__(self) -> Iterator[Real[np.ndarray, "some dimension"]]:
        return (self.vectors[start : start + BLOCK_ITEMS] for start in range(0, len(self.vectors), BLOCK_ITEMS))


@dataclass(frozen=True, eq=False)
class Skipped:
    """Vectors of an index that no search returns."""

    mask: Bool[np.ndarray, " items"]  # True for each; not to be changed

    @cached_property
    def number(self) -> int:
        """How many they are: counted once, since a search takes little longer than counting in a million."""
        return int(np.count_nonzero(self.mask))


@runtime_checkable
class Index(Protocol):
    """Finds the nearest of a set of vectors, known by their position in it. It never changes: `extended` makes another.

    One that is not `saved` is made from the table whenever a memory is opened.
    """

    kind: ClassVar[str]
    saved: ClassVar[bool]
    """Whether it has files, and is a `SavedIndex`."""

    @classmethod
    def build(cls, blocks: VectorBlocks, folder: Path | None) -> "Index":
        """Return an index over at least one vector.

        Args:
            blocks: the vectors.
            folder: an empty folder that the files are written into as it goes; None to work in memory.

        Raises:
            OSError: the folder cannot be written.
        """
        ...

    def extended(self, blocks: VectorBlocks, folder: Path | None) -> "Index":
        """Return another index with these vectors at the end; this one and its files stay as they are.

        Args:
            blocks: the vectors; at least one.
            folder: as for `build`.

        Raises:
            OSError: the folder cannot be written, or this index's own files are gone.
        """
        ...

    def worn(self, *, skipped: int) -> bool:
        """Tell whether it is worth building anew: grown far beyond what it was trained on, or mostly skipped."""
        ...

    def __len__(self) -> int:
        """Return the number of vectors, erased ones too."""
        ...

    def search(
        self,
        queries: Float[np.ndarray, "queries dimension"],
        k: int,
        *,
        skip: Skipped | None = None,
        recall: float = DEFAULT_RECALL,
    ) -> tuple[Int[np.ndarray, "queries k"], Float[np.ndarray, "queries k"]]:
        """Return positions (int64) and cosine distances (float32), nearest first, equal ones in order of position.

        Args:
            queries: float32, of length 1.
            k: 1 or more, and no more than there are vectors that are not skipped.
            skip: vectors that are not returned.
            recall: share of the true neighbours to find, on average; an index that finds all pays no heed to it.
        """
        ...


Written = Mapping[str, Int[np.ndarray, " rows"]]
"""Which rows were written over, by the names of files directly in an index's folder. They are rows of a NumPy array or
of a mapped file. Any other file counts as rewritten from its beginning to its end, whatever rows stand beside it."""


@runtime_checkable
class SavedIndex(Index, Protocol):
    """An index with files.

    Those directly in its folder are guarded by digests (`retrieval.indexes.saved`); it alone looks after what it keeps
    in folders below.
    """

    mapped: ClassVar[tuple[str, ...]]
    """Files too large to be read whole when opened: `load` looks at a sample of them. They may be hard links to those
    of the index that this one extends, and longer than what belongs to it."""

    @classmethod
    def load(cls, folder: Path) -> "SavedIndex":
        """Return the index whose files lie in a folder; large ones are mapped, not read.

        Raises:
            OSError, ValueError: the files are missing or damaged.
        """
        ...

    @classmethod
    def erase(cls, folder: Path, positions: Int[np.ndarray, " erased"]) -> Written:
        """Overwrite all that the files of a saved index hold of some vectors, in place, flushed to the disk.

        The vectors take no part in a search any more: the caller skips them, in this process and ever after.

        Raises:
            OSError: the files cannot be written.
        """
        ...

    @classmethod
    def discard(cls, folder: Path, *, live: Path | None = None) -> None:
        """Drop what an index keeps outside its folder, which is about to be deleted; not what a live one's uses too."""
        ...


NOTHING: Final = np.iinfo(np.int64).max
"""The number of a candidate that does not count. No distance reaches it."""

POSITION_BITS: Final = 32  # ScaNN numbers vectors by so many, too
_POSITION: Final = 2**POSITION_BITS - 1
_DISTANCE: Final = slice(1 if sys.byteorder == "little" else 0, None, 2)  # of the halves, the upper ones


def ranked(
    positions: Int[np.ndarray, "queries some"], similarities: Float[np.ndarray, "queries some"]
) -> Int[np.ndarray, "queries some"]:
    """Return a number for each candidate, made of its distance and its position: the smaller, the nearer."""
    distances = np.clip(np.float32(1) - similarities, 0, 2, dtype=np.float32)
    numbers: np.ndarray = distances.view(np.uint32).astype(np.int64) << POSITION_BITS | positions
    return numbers


def unranked(
    numbers: Int[np.ndarray, "queries k"],
) -> tuple[Int[np.ndarray, "queries k"], Float[np.ndarray, "queries k"]]:
    """Return the positions and distances that numbers were made from."""
    return numbers & _POSITION, numbers.view(np.float32)[:, _DISTANCE].copy()


@lru_cache
def farthest_within(distance: float) -> int:
    """Return the largest number of any candidate at a distance or nearer."""
    return (int(np.float32(distance).view(np.uint32)) + 1 << POSITION_BITS) - 1
