"""Cells of tables, decoded a row group at a time."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa

from eval.datasets.tables import RowGroups


def test_a_row_group_is_decoded_once_however_many_threads_want_it() -> None:
    groups, decoded = RowGroups(), []
    together = threading.Barrier(4)

    def decode() -> pa.ChunkedArray:
        decoded.append(1)
        return pa.chunked_array([[1, 2]])

    def get(_: int) -> int:
        together.wait(timeout=10)
        return int(groups.get(Path("a"), "image", 0, decode)[1].as_py())

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(get, range(4))) == [2] * 4
    assert decoded == [1]
