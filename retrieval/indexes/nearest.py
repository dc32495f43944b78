"""The nearest of many candidates, through numbers whose order is that of distance, then position.

A distance is not negative, so that its bits sort as it does: with the position in the lower half of an int64, one sort
of plain integers does all. NumPy sorts those many at a time: 0.6 µs for 300, where sorting by two columns takes 19.
"""

import sys
from functools import lru_cache
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Int

NOTHING: Final = np.iinfo(np.int64).max
"""What stands for a candidate that does not count; no distance reaches it."""

POSITION_BITS: Final = 32  # ScaNN numbers vectors by so many, too
_POSITION: Final = 2**POSITION_BITS - 1
_DISTANCE: Final = slice(1 if sys.byteorder == "little" else 0, None, 2)  # of the halves, the upper ones


def ranked(
    positions: Int[np.ndarray, "queries some"],
    similarities: Float[np.ndarray, "queries some"],
    counts: Bool[np.ndarray, "queries some"],
) -> Int[np.ndarray, "queries some"]:
    """Return a number for each candidate, the smaller the nearer."""
    distances = np.clip(np.float32(1) - similarities, 0, 2, dtype=np.float32)
    numbers: np.ndarray = distances.view(np.uint32).astype(np.int64)
    numbers <<= POSITION_BITS
    numbers |= positions
    numbers[~counts] = NOTHING
    return numbers


def unranked(
    numbers: Int[np.ndarray, "queries k"],
) -> tuple[Int[np.ndarray, "queries k"], Float[np.ndarray, "queries k"]]:
    """Return the positions and distances that numbers were made from."""
    return numbers & _POSITION, numbers.view(np.float32)[:, _DISTANCE].copy()


@lru_cache
def farthest_within(distance: float) -> int:
    """Return the largest number of any candidate at a distance or nearer."""
    bits = int(np.float32(distance).view(np.uint32))
    return (bits + 1 << POSITION_BITS) - 1
