"""Vectors of length 1: the form in which everything is stored and searched."""

from typing import Final

import numpy as np
from jaxtyping import Float, Shaped

from retrieval.errors import InvalidArgument

_NOTHING: Final = 1e-6  # a length that unit vectors of single precision differ by when they are the same


def to_unit_vectors(vectors: Shaped[np.ndarray, "..."], *, dimension: int) -> Float[np.ndarray, "items dimension"]:
    """Return the vectors as contiguous float32 of length 1.

    Raises:
        InvalidArgument: no numbers in rows, another dimension than the memory's, or a vector that is zero or not
            finite.
    """
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or vectors.dtype.kind not in "fiu":
        shape = f"(items, {dimension})"
        raise InvalidArgument(
            f"got an array of {vectors.dtype} with shape {vectors.shape}: numbers of shape {shape} expected"
        )
    if vectors.shape[1] != dimension:
        raise InvalidArgument(f"got vectors of {vectors.shape[1]} dimensions: the memory holds {dimension}")
    wide = np.ascontiguousarray(vectors, np.float32)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(lengths[:, 0]) & (lengths[:, 0] > 0)))
    if bad.size:
        raise InvalidArgument(f"vector {bad[0]} is zero or not finite ({bad.size} such): leave it out")
    unit: np.ndarray = wide / lengths
    return unit


def centre(
    vectors: Float[np.ndarray, "items dimension"], mean: Float[np.ndarray, "*items dimension"]
) -> Float[np.ndarray, "items dimension"]:
    """Return vectors without a mean, one for all or one for each, scaled to length 1 again.

    Raises:
        InvalidArgument: a vector is the mean itself, so that nothing of it is left.
    """
    shifted = vectors - mean.astype(np.float32)
    if (np.linalg.norm(shifted, axis=1) < _NOTHING).any():
        raise InvalidArgument("centring leaves nothing of vectors that all are the same: give pictures that differ")
    return to_unit_vectors(shifted, dimension=vectors.shape[1])
