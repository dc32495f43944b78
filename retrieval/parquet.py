"""Parquet files from anywhere: what their pages unpack to is read from the pages' headers before any is decoded.

A cell of 400 MB of zeros takes some kB in a file and took 2.5 GB to decode. Arrow has no limit of its own, and what a
file's footer says of a column adds up all its cells. So each page's header is looked at (``PageHeader`` in Apache
Parquet's parquet.thrift, written in Thrift's compact protocol), which costs some microseconds.
"""

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any, Final

LARGEST_PAGE: Final = 2**28
"""Bytes that a page may unpack to, 256 MiB: what the largest picture takes (`retrieval.images.MAX_PIXELS`) as RGB."""

MOST_PACKED: Final = 4
"""Times its stored size that more may unpack to. Pictures are packed already, and Arrow ends a page only after 1,024
rows: of photographs that is a page of gigabytes, which is as large in the file."""

_SIZE, _STORED_SIZE = 2, 3  # fields of a page's header: bytes unpacked, and as they are stored
_BOOLS, _BYTE, _INTEGERS, _DOUBLE, _BINARY, _LISTS, _STRUCT = (1, 2), 3, (4, 5, 6), 7, 8, (9, 10), 12
_LONGEST_NUMBER: Final = 10  # bytes


def rows_at_a_time(path: Path, group: Any, columns: Collection[str], *, most: int) -> int:  # noqa: ANN401
    """Return how many rows of a row group may be decoded together, so that they take a quarter of `LARGEST_PAGE`.

    Args:
        path: of the file.
        group: the row group's metadata, as pyarrow has it.
        columns: names of the columns that are to be decoded.
        most: rows, however small they are.

    Raises:
        ValueError: a page unpacks to more than `LARGEST_PAGE` and `MOST_PACKED` times what is stored, or the file is
            damaged.
        OSError: it cannot be read.
    """
    largest = 1
    with path.open("rb", buffering=4096) as file:
        for place in range(group.num_columns):
            chunk = group.column(place)
            if chunk.num_values and chunk.path_in_schema.partition(".")[0] in columns:
                for size, stored in _page_sizes(file, chunk):
                    largest = max(largest, size)
                    if size > max(LARGEST_PAGE, MOST_PACKED * stored):
                        raise ValueError(
                            f"a page of it unpacks to {size:,} bytes, more than the limit of {LARGEST_PAGE:,}: write it"
                            " with fewer rows in a group, or keep large pictures as files"
                        )
    return max(1, min(most, LARGEST_PAGE // 4 // largest))


def _page_sizes(file: IO[bytes], chunk: Any) -> Iterator[tuple[int, int]]:  # noqa: ANN401
    """Yield each page's bytes, unpacked and as they are stored."""
    start = chunk.data_page_offset
    if chunk.has_dictionary_page and 0 < (chunk.dictionary_page_offset or 0) < start:
        start = chunk.dictionary_page_offset
    file.seek(start)
    try:
        while file.tell() < start + chunk.total_compressed_size:
            header = _struct(file)
            stored = _not_negative(header[_STORED_SIZE])
            yield header[_SIZE], stored
            file.seek(stored, os.SEEK_CUR)
    except (IndexError, KeyError, TypeError, RecursionError) as error:
        raise ValueError("a page's header is damaged") from error


def _struct(file: IO[bytes]) -> dict[int, Any]:
    """Return a struct's fields by number."""
    fields: dict[int, Any] = {}
    number = 0
    while (head := file.read(1)[0]) != 0:
        step = head >> 4
        number = number + step if step else _signed(file)
        fields[number] = _value(file, head & 15)
    return fields


def _value(file: IO[bytes], kind: int) -> Any:  # noqa: ANN401
    """Return an integer or a struct; step over anything else."""
    if kind in _INTEGERS:
        return _signed(file)
    if kind == _STRUCT:
        return _struct(file)
    if kind in _LISTS:
        head = file.read(1)[0]
        for _ in range(_number(file) if head >> 4 == 15 else head >> 4):
            _value(file, _BYTE if head & 15 in _BOOLS else head & 15)
    elif kind not in _BOOLS:  # whose value is in the kind
        file.seek({_BYTE: 1, _DOUBLE: 8}[kind] if kind != _BINARY else _number(file), os.SEEK_CUR)
    return None


def _number(file: IO[bytes]) -> int:
    value = 0
    for place in range(_LONGEST_NUMBER):
        byte = file.read(1)[0]
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value
    raise IndexError("no number ends here")


def _signed(file: IO[bytes]) -> int:
    value = _number(file)
    return value >> 1 ^ -(value & 1)


def _not_negative(size: int) -> int:
    if size < 0:
        raise IndexError("a size below 0")
    return size
