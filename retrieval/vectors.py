"""Vectors of length 1, as everything is searched, without a domain's mean, and in fixed point, as they are stored."""

from collections.abc import Iterator
from typing import Any, Final, TypeAlias

import numpy as np
from jaxtyping import Float, Int16, Real

from retrieval.errors import InvalidArgument

CENTRES: Final = ("queries", "running")  # ways of `centre_queries`
_PRIOR_QUERIES: Final = 10  # the memory's mean counts as so many queries while a running mean has seen few
_ROWS_AT_A_TIME: Final = 4096  # of float64 running means
_LARGEST: Final = np.float32(2**15 - 1)
_NOTHING: Final = 1e-6  # a length that unit vectors of single precision differ by when they are the same


VectorsLike: TypeAlias = object
"""Numbers in rows: a NumPy array, a tensor of torch on any device and in any precision, lists of numbers or tensors."""


def as_array(vectors: VectorsLike) -> np.ndarray:
    """Return vectors as an array of whatever shape and type they have; tensors are taken out of their graph.

    Raises:
        InvalidArgument: they make no array.
    """
    try:
        if isinstance(vectors, Iterator):
            vectors = list(vectors)
        if isinstance(vectors, list | tuple) and vectors and hasattr(vectors[0], "detach"):
            vectors = [_without_graph(vector) for vector in vectors]
        return np.asarray(_without_graph(vectors))
    except Exception as error:  # of whichever library they come from
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InvalidArgument(
            f"got {type(vectors).__name__} as vectors, of which no array can be made ({reason}): a NumPy array or a"
            " tensor with one row per item expected"
        ) from error


def _without_graph(tensor: Any) -> Any:  # noqa: ANN401 - torch is not imported to know its type
    if not hasattr(tensor, "detach"):
        return tensor
    tensor = tensor.detach().cpu()
    return (tensor if tensor.dtype.itemsize > 4 else tensor.float()).numpy()  # NumPy has no bfloat16


def to_unit_vectors(vectors: VectorsLike, *, dimension: int) -> Float[np.ndarray, "items dimension"]:
    """Return the vectors as contiguous float32 of length 1.

    Raises:
        InvalidArgument: no numbers in rows, another dimension than the memory's, or a vector that is zero or not
            finite.
    """
    vectors = as_array(vectors)
    if vectors.ndim != 2 or vectors.dtype.kind not in "fiu":
        shape = f"(items, {dimension})"
        raise InvalidArgument(
            f"got an array of {vectors.dtype} with shape {vectors.shape}: numbers of shape {shape} expected"
        )
    if vectors.shape[1] != dimension:
        raise InvalidArgument(f"got vectors of {vectors.shape[1]} dimensions: the memory holds {dimension}")
    with np.errstate(over="ignore"):  # what is too large for single precision is not finite
        wide = np.ascontiguousarray(vectors, np.float32)
        lengths = length(wide)
    if not (len(lengths) == 1 and 0 < lengths[0] < np.inf):  # for one alone NumPy's calls would take the longest here
        bad = np.flatnonzero(~((lengths > 0) & (lengths < np.inf)))
        if bad.size:
            raise InvalidArgument(f"vector {bad[0]} is zero or not finite ({bad.size} such): leave it out")
    unit: np.ndarray = wide / lengths[:, None]
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


def centre_queries(
    vectors: Float[np.ndarray, "queries dimension"], how: str, *, memory_mean: Float[np.ndarray, " dimension"]
) -> Float[np.ndarray, "queries dimension"]:
    """Return the queries of one domain without their mean, as unit vectors: domain centring.

    Drawings lie in one corner of the embedding space, photographs in another. Taken from the mean of their own kind,
    both point from a common origin, and a drawn dog lies nearer to a photographed one. They are searched for in
    `MemoryView.centred`. The mean of the queries is a mean over unlabelled pictures that are themselves to be
    classified, which makes the method transductive: figures with it are no figures of a memory that sees one query at a
    time.

    Args:
        vectors: unit vectors, in the order in which the queries come.
        how: ``queries``: less the mean of all. ``running``: each less the mean of itself and those before it, in which
            the memory's mean counts as ten queries, so that a stream can be answered as it comes.
        memory_mean: of the memory's vectors.

    Raises:
        InvalidArgument: no such way, or fewer than two queries, which have no mean to speak of.
    """
    if how not in CENTRES:
        raise InvalidArgument(f"--centre {how!r}: choose one of {', '.join(CENTRES)}")
    if how == "running":
        parts = list(_without_running_mean(vectors, memory_mean))
        return np.concatenate(parts) if parts else vectors
    if len(vectors) < 2:
        raise InvalidArgument(f"--centre queries takes the mean of the queries, and there is {len(vectors)}: give more")
    return centre(vectors, vectors.mean(axis=0, dtype=np.float64))


def _without_running_mean(
    vectors: Float[np.ndarray, "queries dimension"], memory_mean: Float[np.ndarray, " dimension"]
) -> Iterator[Float[np.ndarray, "some dimension"]]:
    total, seen = _PRIOR_QUERIES * memory_mean, _PRIOR_QUERIES
    for start in range(0, len(vectors), _ROWS_AT_A_TIME):
        some = vectors[start : start + _ROWS_AT_A_TIME]
        totals = total + np.cumsum(some, axis=0, dtype=np.float64)
        counts = seen + 1 + np.arange(len(some))
        yield centre(some, totals / counts[:, None])
        total, seen = totals[-1], int(counts[-1])


def to_unit(
    vectors: Real[np.ndarray, "some dimension"], lengths: Float[np.ndarray, " some"] | None = None
) -> Float[np.ndarray, "some dimension"]:
    """Return vectors, whose lengths may be known, as float32 of length 1; one of length 0 stays all zeros."""
    wide = vectors.astype(np.float32)
    known = length(wide) if lengths is None else lengths
    wide *= np.divide(1, known, out=np.zeros_like(known), where=known > 0)[:, None]
    return wide


def to_fixed_point(vectors: Real[np.ndarray, "some dimension"]) -> Int16[np.ndarray, "some dimension"]:
    """Return vectors as tables and indexes keep them: always the same bytes for the same vector; zeros for zeros.

    Each is stretched until its largest number is ±32,767, and rounded: nothing is off by more than 1/65,534 of the
    largest. A cosine moves by a fifth of what it does in float16, which takes as much room (`ItemTable`). How far a
    vector was stretched need not be kept: only its direction counts. One in fixed point is returned as it is.
    """
    if vectors.dtype == np.int16:
        return vectors
    wide = vectors.astype(np.float32, order="C")
    largest = np.abs(wide).max(axis=1)
    wide *= np.divide(_LARGEST, largest, out=np.zeros_like(largest), where=largest > 0)[:, None]
    return np.rint(wide, out=wide).astype(np.int16)


def length(rows: Float[np.ndarray, "some dimension"]) -> Float[np.ndarray, " some"]:
    """Return the lengths of vectors, each the same whatever stands beside it."""
    lengths: np.ndarray = np.sqrt(np.vecdot(rows, rows))
    return lengths
