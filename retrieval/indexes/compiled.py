"""The innermost loop of a search, compiled: a query's candidates compared with it exactly.

NumPy would gather the rows, widen them, and multiply: three passes, the first of which waits for memory at every row.
Here a row is asked for while those before it are compared, which halves the time (1,000,000 × 384 and × 1,024). Numba
compiles it when it is first called, in a second; it keeps nothing on disk, where that would be a pickle.
"""

from typing import Any, Final, no_type_check

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from retrieval.indexes.base import NOTHING, POSITION_BITS

_AHEAD: Final = 8  # rows, which are then fetched; 4 and 16 are as good
_FAR_AHEAD: Final = 32  # rows, whose pages are then looked up: a tenth faster where a row has 2 kB
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
        # To read; in all caches but the first, which waits for few rows at a time (20 µs for 200 rows, not 25); data.
        builder.call(function, [at, number(0), number(2), number(1)])
        return context.get_dummy_value()

    return types.void(rows, types.int64), generate


# Sums may be taken in any order, but what is no number is still told.
@njit(nogil=True, fastmath={"reassoc", "contract"})
@no_type_check  # whatever wraps a function cannot be compiled
def _compare(rows, lengths, at, query, distances) -> None:
    """Fill in the cosine distances of a query to the rows at some places."""
    size, count = rows.shape[1] * rows.itemsize, len(at)
    for here in range(-_FAR_AHEAD, count):
        if here + _FAR_AHEAD < count:  # have the processor find the page that a row begins on
            _prefetch(rows, at[here + _FAR_AHEAD] * size)
        if 0 <= here + _AHEAD < count:  # all of the row: it sees too late by itself that it is read in order
            for line in range(at[here + _AHEAD] * size, (at[here + _AHEAD] + 1) * size, _LINE):
                _prefetch(rows, line)
        if here >= 0:
            similarity, length = np.float32(0), lengths[at[here]]
            for number in range(rows.shape[1]):
                similarity += np.float32(rows[at[here], number]) * query[number]
            if length > 0:
                similarity /= length
            distances[here] = min(max(np.float32(1) - similarity, np.float32(0)), _LARGEST)


@njit(nogil=True)
@no_type_check
def compare(rows, lengths, places, skip, queries, positions, rough, numbers) -> None:
    """Fill in the number (`retrieval.indexes.base`) of each candidate of each query.

    Each is the same whatever else is asked beside it.

    Args:
        rows: fixed point, (items, dimension), C order.
        lengths: of the rows; 0 for one that was erased.
        places: which row is that of each position, uint32.
        skip: bool, of the positions; empty where none is skipped.
        queries: float32 of length 1, (queries, dimension).
        positions: of the candidates, uint32, (queries, candidates), C order.
        rough: NaN beside a position that is none, float32, of the same shape.
        numbers: int64, of the same shape as positions.
    """
    some = positions.shape[1]
    counts, at, distances = np.empty(some, np.int64), np.empty(some, np.int64), np.empty(some, np.float32)
    for query in range(len(positions)):
        count = 0
        for candidate in range(some):
            position = positions[query, candidate]
            if not (np.isnan(rough[query, candidate]) or (skip.size and skip[position])):
                counts[count], at[count] = candidate, places[position]
                count += 1
        _compare(rows, lengths, at[:count], queries[query], distances)
        numbers[query] = NOTHING
        for here in range(count):
            bits = np.int64(np.float32(distances[here]).view(np.uint32))
            numbers[query, counts[here]] = bits << POSITION_BITS | np.int64(positions[query, counts[here]])
