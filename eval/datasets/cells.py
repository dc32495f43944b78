"""Cells of Parquet and Arrow files, read by any number of threads."""

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from retrieval.parquet import MOST_PACKED, rows_at_a_time

if TYPE_CHECKING:
    import pyarrow as pa

_ARROW_FILE: Final = b"ARROW1"  # begins one of Arrow's two formats; the other is a stream
_END_OF_STREAM: Final = b"\xff\xff\xff\xff\0\0\0\0"
_ROWS_AT_A_TIME: Final = 65_536  # of labels and names
_LONGEST_TEXT: Final = 2**16  # bytes of a label, an id or a path
_LARGEST_GROUP: Final = 2**31  # bytes that a row group's pictures may unpack to; more where the file has them too
_LARGEST_DICTIONARY: Final = 2**31 - 1  # bytes that Arrow can hold as one
_GROUPS_KEPT: Final = 4  # decoded row groups; threads that read in order are at one or two of them


class RowFile(Protocol):
    """One file of a table."""

    path: Path
    schema: "pa.Schema"

    def columns(self, names: Sequence[str]) -> "pa.Table":
        """Return whole columns; "image.path" is a field of a nested one."""
        ...

    def cell(self, column: str, row: int) -> Any:  # noqa: ANN401 - whatever the column holds
        """Return one cell as Python has it."""
        ...


class RowGroups:
    """The row groups read last, decoded: a table's files share them."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Path, str, int], _RowGroup] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, file: Path, column: str, group: int, decode: "Callable[[], pa.ChunkedArray]") -> "pa.ChunkedArray":
        """Return a column of a row group; of several threads that want it one decodes, the others wait."""
        key = (file, column, group)
        with self._lock:
            wanted = self._kept.setdefault(key, _RowGroup())
            self._kept.move_to_end(key)
            if len(self._kept) > _GROUPS_KEPT:
                self._kept.popitem(last=False)
        with wanted.lock:
            if wanted.trouble is not None:  # each try takes as long as the first
                raise wanted.trouble
            if wanted.column is None:
                try:
                    wanted.column = decode()
                except Exception as trouble:
                    wanted.trouble = trouble
                    raise
            return wanted.column


class _RowGroup:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.column: pa.ChunkedArray | None = None
        self.trouble: Exception | None = None


class ParquetRows:
    """A Parquet file, of which a row group is the least that can be read."""

    def __init__(self, path: Path, groups: RowGroups) -> None:
        import pyarrow.parquet as pq

        self.path = path
        self._groups = groups
        with pq.ParquetFile(path) as opened:
            self._metadata = opened.metadata
            self.schema = opened.schema_arrow
        sizes = (self._metadata.row_group(group).num_rows for group in range(self._metadata.num_row_groups))
        self._starts = [0, *accumulate(sizes)]

    def columns(self, names: Sequence[str]) -> "pa.Table":
        """See `RowFile`."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        tops = list(dict.fromkeys(name.partition(".")[0] for name in names))
        blocks: list[pa.RecordBatch] = []
        with pq.ParquetFile(self.path, metadata=self._metadata) as opened:
            for group in range(self._metadata.num_row_groups):
                rows = rows_at_a_time(self.path, self._metadata.row_group(group), tops, most=_ROWS_AT_A_TIME)
                for block in opened.iter_batches(rows, row_groups=[group], columns=list(names), use_threads=False):
                    _expect_short(block)
                    blocks.append(block)
            held = pa.Table.from_batches(blocks) if blocks else opened.read(columns=list(names))
        return _flat(held, names)

    def cell(self, column: str, row: int) -> Any:  # noqa: ANN401
        """See `RowFile`."""
        group = bisect_right(self._starts, row) - 1
        decoded = self._groups.get(self.path, column, group, lambda: self._decode(column, group))
        return decoded[row - self._starts[group]].as_py()

    def _decode(self, column: str, group: int) -> "pa.ChunkedArray":
        import pyarrow.parquet as pq

        about = self._metadata.row_group(group)
        rows_at_a_time(self.path, about, [column], most=1)
        chunks = [about.column(place) for place in range(about.num_columns)]
        held = [chunk for chunk in chunks if chunk.path_in_schema.partition(".")[0] == column]
        size, stored = (sum(getattr(c, f"total_{kind}_size") for c in held) for kind in ("uncompressed", "compressed"))
        if size > max(_LARGEST_GROUP, MOST_PACKED * stored):
            raise ValueError(f"row group {group} unpacks to {size:,} bytes: write it with fewer rows in a group")
        # A dictionary's values stay one, however often a row repeats them. Of what has none Arrow makes none.
        repeated = [chunk.path_in_schema for chunk in held if _has_dictionary(chunk)]
        # Opened anew, since one open file is not for several threads; the footer is there already.
        with pq.ParquetFile(self.path, metadata=self._metadata, read_dictionary=repeated) as opened:
            return opened.read_row_group(group, columns=[column], use_threads=False).column(0)


class ArrowRows:
    """An Arrow file, as Hugging Face's ``save_to_disk`` writes it: mapped into memory, read without decoding."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        self.path = path
        mapped = pa.memory_map(str(path))
        if mapped.read(len(_ARROW_FILE)) == _ARROW_FILE:
            self._table = pa.ipc.open_file(mapped).read_all()
        else:
            mapped.seek(0)
            self._table = pa.ipc.open_stream(mapped).read_all()
            _expect_end(mapped)
        self._table.validate(full=True)  # else a damaged one ends the whole program when a cell is read
        self.schema = self._table.schema

    def columns(self, names: Sequence[str]) -> "pa.Table":
        """See `RowFile`."""
        return _flat(self._table.select(list({name.partition(".")[0]: None for name in names})), names)

    def cell(self, column: str, row: int) -> Any:  # noqa: ANN401
        """See `RowFile`."""
        return self._table.column(column)[row].as_py()


def _has_dictionary(chunk: Any) -> bool:  # noqa: ANN401 - pyarrow is untyped
    return (
        chunk.physical_type == "BYTE_ARRAY"
        and any(encoding.endswith("_DICTIONARY") for encoding in chunk.encodings)
        and not any(encoding.startswith("DELTA_") for encoding in chunk.encodings)
        and int(chunk.total_uncompressed_size) <= _LARGEST_DICTIONARY
    )


def _expect_short(block: "pa.RecordBatch") -> None:
    """Raise ArrowInvalid for a text that is no label, no id and no path, before there are a million of it."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for column in pa.Table.from_batches([block]).flatten().columns:
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            longest = pc.max(pc.binary_length(column)).as_py() or 0
            if longest > _LONGEST_TEXT:
                raise pa.ArrowInvalid(f"it holds a text of {longest:,} bytes: a label, an id or a path expected")


def _expect_end(stream: "pa.MemoryMappedFile") -> None:
    """Raise ArrowInvalid unless a stream that was read ends with its file, as its writer ended it."""
    import pyarrow as pa

    place = stream.tell()
    stream.seek(max(0, place - len(_END_OF_STREAM)))
    if place != stream.size() or stream.read() != _END_OF_STREAM:
        raise pa.ArrowInvalid(f"it breaks off or is damaged at byte {place:,}")


def _flat(table: "pa.Table", names: Sequence[str]) -> "pa.Table":
    if not set(names).issubset(table.column_names):
        table = table.flatten()
    return table.select(list(names))
