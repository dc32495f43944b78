"""The innermost loop of a search, compiled: a query's candidates compared with it exactly.

NumPy would gather the rows, widen them, and multiply: three passes, the first of which waits for memory at every row.
Here a row is asked for while those before it are compared, which halves the time (1,000,000 × 384 and × 1,024). Numba
compiles it when it is first called, in half a second; it keeps nothing on disk, where that would be a pickle.
"""

from typing import Any, Final, no_type_check

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from retrieval.indexes.nearest import NOTHING, POSITION_BITS

_AHEAD: Final = 4  # rows; 8 and 12 are as good, 2 are not
_FAR_AHEAD: Final = 64  # rows, whose pages are to be found by then: a tenth faster where a row has 2 kB
_LINE: Final = 64  # bytes, which come from memory at once
_LARGEST: Final = np.float32(2)  # distance


@intrinsic
@no_type_check
def _prefetch(typing: Any, rows: Any, place: Any) -> Any:  # noqa: ANN401 - Numba's own are untyped
    """Have the processor bring bytes of an array from memory, without waiting for them."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        at = builder.gep(builder.bitcast(array.data, byte), [arguments[1]])
        builder.call(function, [at, number(0), number(3), number(1)])  # to read, in all caches, data
        return context.get_dummy_value()

    return types.void(rows, types.int64), generate


@njit(nogil=True)
@no_type_check  # whatever wraps a function cannot be compiled
def _look_up(rows, position) -> None:  # noqa: ANN001
    """Have the processor find the page that a row begins on."""
    _prefetch(rows, np.int64(position) * rows.shape[1] * rows.itemsize)


@njit(nogil=True)
@no_type_check
def _fetch(rows, position) -> None:  # noqa: ANN001
    """Have a row brought from memory: all of it, since the processor itself sees too late that it is read in order."""
    size = rows.shape[1] * rows.itemsize
    start = np.int64(position) * size
    for line in range(start, start + size, _LINE):
        _prefetch(rows, line)


# Sums may be taken in any order, but what is no number is still told.
@njit(nogil=True, fastmath={"reassoc", "contract"})
@no_type_check
def _distance(rows, length, query, position) -> np.float32:  # noqa: ANN001
    """Return the cosine distance of a row to a query."""
    similarity = np.float32(0)
    for number in range(rows.shape[1]):
        similarity += np.float32(rows[position, number]) * query[number]
    if length > 0:
        similarity /= length
    return min(max(np.float32(1) - similarity, np.float32(0)), _LARGEST)


@njit(nogil=True)
@no_type_check
def compare(rows, lengths, skip, queries, positions, rough, numbers) -> None:  # noqa: ANN001
    """Fill in the number (`retrieval.indexes.nearest`) of each candidate of each query.

    Each is the same whatever else is asked beside it.

    Args:
        rows: fixed point, (items, dimension), C order.
        lengths: of the rows; 0 for one that was erased.
        skip: bool, of the items; empty where none is skipped.
        queries: float32 of length 1, (queries, dimension).
        positions: of the candidates, uint32, (queries, candidates), C order.
        rough: NaN beside a position that is none, float32, of the same shape.
        numbers: int64, of the same shape as positions.
    """
    some, in_order = positions.shape[1], positions.reshape(-1)
    for position in in_order[:_FAR_AHEAD]:
        _look_up(rows, position)
    for position in in_order[:_AHEAD]:
        _fetch(rows, position)
    for query in range(positions.shape[0]):
        for place in range(some):
            here = query * some + place
            if here + _FAR_AHEAD < len(in_order):
                _look_up(rows, in_order[here + _FAR_AHEAD])
            if here + _AHEAD < len(in_order):
                _fetch(rows, in_order[here + _AHEAD])
            position = np.int64(positions[query, place])
            if np.isnan(rough[query, place]) or (skip.size and skip[position]):
                numbers[query, place] = NOTHING
            else:
                distance = _distance(rows, lengths[position], queries[query], position)
                numbers[query, place] = np.int64(np.float32(distance).view(np.uint32)) << POSITION_BITS | position
