"""Lance's lists of deleted rows, which it may write in part on a full disk and say nothing (seen with pylance 14).

They are Arrow files, or, where many rows are gone, Roaring bitmaps (https://github.com/RoaringBitmap/RoaringFormatSpec).
"""

import struct
from pathlib import Path
from typing import Final

import numpy as np

_PLAIN: Final = 12346  # how a bitmap begins
_WITH_RUNS: Final = 12347
_LIST_UP_TO: Final = 4096  # numbers; a container of more is 65,536 bits
_OFFSETS_FROM: Final = 4  # containers, where there are runs


def count_deletions(file: Path) -> int:
    """Return how many rows a file lists.

    Raises:
        ValueError: it is not whole.
        OSError: it cannot be read.
    """
    if file.suffix == ".bin":
        return _count_bits(file.read_bytes())
    import pyarrow as pa

    with pa.ipc.open_file(file) as opened:  # Arrow's errors are ValueErrors
        return int(opened.read_all().num_rows)


def _count_bits(content: bytes) -> int:
    try:
        counts, length = _layout(content)
    except (struct.error, ValueError, IndexError) as error:
        raise ValueError("a bitmap that breaks off") from error
    if length != len(content):
        raise ValueError(f"a bitmap of {len(content)} bytes: {length} expected")
    return int(counts.sum())


def _layout(content: bytes) -> tuple[np.ndarray, int]:
    """Return how many numbers each of a bitmap's containers holds, and how long it is in all."""
    (cookie,) = struct.unpack_from("<I", content)
    if cookie == _PLAIN:
        (containers,) = struct.unpack_from("<I", content, 4)
        at, runs, offsets = 8, np.zeros(containers, bool), True
    elif cookie & 0xFFFF == _WITH_RUNS:
        containers = (cookie >> 16) + 1
        at = 4 + -(-containers // 8)
        bits = np.unpackbits(np.frombuffer(content[4:at], np.uint8), bitorder="little")
        runs, offsets = bits[:containers].astype(bool), containers >= _OFFSETS_FROM
    else:
        raise ValueError("no bitmap")
    counts = np.frombuffer(content, "<u2", 2 * containers, at)[1::2].astype(np.int64) + 1
    at += (8 if offsets else 4) * containers
    for count, run in zip(counts.tolist(), runs.tolist(), strict=True):
        if run:
            at += 2 + 4 * int(struct.unpack_from("<H", content, at)[0])
        else:
            at += 2 * count if count <= _LIST_UP_TO else 8192
    return counts, at
