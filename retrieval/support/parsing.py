"""JSON and TOML that anybody may have written, and files of JSON lines that notice a byte that changed on the disk.

Such a line is the record as JSON with one more entry at its end, the CRC-32 of the line without it. CRC-32 notices
every change of up to 32 neighbouring bits. Lines without a sum, as earlier versions wrote them, are read as they are,
but not after one that has a sum.
"""

import json
import os
import re
import tomllib
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from retrieval.storage.places import writing

_SUM: Final = re.compile(rb', "crc32": "([0-9a-f]{8})"\}\s*')
_LONGEST_SUM: Final = 32  # bytes, the line's end included


def parse_json(text: str | bytes) -> Any:  # noqa: ANN401 - whatever it holds
    """Return what a JSON text holds.

    Raises:
        ValueError: it is no JSON, no UTF-8, or nests deeper than Python follows, which `json.loads` alone says by
            RecursionError.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it nests too deep") from None


def parse_toml(text: bytes) -> dict[str, Any]:
    """Return what a TOML text holds.

    Raises:
        ValueError: it is no TOML, no UTF-8, or nests deeper than Python follows.
    """
    try:
        return tomllib.loads(text.decode())
    except RecursionError:
        raise ValueError("it nests too deep") from None


def sealed(record: Mapping[str, Any]) -> bytes:
    """Return a record, which must not be empty, as a line with its sum; in ASCII, with its end."""
    text = json.dumps(record).encode()
    return text[:-1] + b', "crc32": "%08x"}\n' % zlib.crc32(text)


def is_sealed(line: bytes) -> bool:
    """Tell whether a line ends in a sum, right or wrong."""
    return _found_sum(line) is not None


def unsealed(line: bytes, *, required: bool = False) -> dict[str, Any] | None:
    """Return the record of a line; None where it is damaged, or where a sum is required and there is none."""
    if sum_ := _found_sum(line):
        start = len(line) - len(sum_[0])
        line = line[:start] + b"}"
        if zlib.crc32(line) != int(sum_[1], 16):
            return None
    elif required:
        return None
    try:
        record = parse_json(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def read_lines(lines: Iterable[bytes], *, required: bool = False) -> Iterator[dict[str, Any] | None]:
    """Yield the record of each line, None for a damaged one; sums are required from the first line on that has one."""
    for line in lines:
        yield unsealed(line, required=required)
        required = required or is_sealed(line)


def _found_sum(line: bytes) -> re.Match[bytes] | None:
    start = line.rfind(b", ", max(0, len(line) - _LONGEST_SUM))
    return None if start < 0 else _SUM.fullmatch(line[start:])


class JsonLines:
    """A file of records that one process at a time appends to, and the next ones read."""

    def __init__(self, path: Path) -> None:
        """Read what is there.

        A last line that a kill tore is cut off. Damaged ones are left out; ``damaged`` holds their numbers, from 1.

        Raises:
            OSError: the file cannot be read.
        """
        self._path = path
        self.records: list[dict[str, Any]] = []
        self.damaged: list[int] = []
        if not path.exists():
            return
        content = path.read_bytes()
        whole, torn = content[: content.rfind(b"\n") + 1], content[content.rfind(b"\n") + 1 :]
        if torn and unsealed(torn) is not None:  # earlier versions ended no line but by the next one
            whole = content + b"\n"
            self._append(b"\n")
        elif torn:
            os.truncate(path, len(whole))
        lines = whole.splitlines(keepends=True)
        for number, (line, record) in enumerate(zip(lines, read_lines(lines), strict=True), start=1):
            if record is not None:
                self.records.append(record)
            elif line.strip():
                self.damaged.append(number)

    def append(self, *records: dict[str, Any]) -> None:
        """Write records; they are on the disk when this returns.

        Raises:
            StorageError: the disk refuses.
        """
        self._append(b"".join(map(sealed, records)))
        self.records.extend(records)

    def _append(self, content: bytes) -> None:
        with writing(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())


def say_lines(path: Path, numbers: Iterable[int]) -> str:
    """Return where lines are damaged, as ``log.jsonl is damaged in line 3`` or ``… in lines 3 and 17``."""
    *first, last = map(str, numbers)
    return f"{path} is damaged in line{'s' if first else ''} {', '.join(first)}{' and ' if first else ''}{last}"
