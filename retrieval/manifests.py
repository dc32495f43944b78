"""Manifests: lists of labelled pictures in CSV, JSONL or Parquet, read a few rows at a time however long they are.

Columns: ``label``; the picture, as a path relative to the manifest (``path``, ``file``, ``file_name`` or ``image``) or
as its encoded bytes (``bytes``: binary in Parquet, base64 elsewhere; ``image``: binary, or Hugging Face's struct of
bytes and path); ``id``, or else the path is the id; ``source``, kept for people. A manifest is its user's own list, as
a folder on the command line is: its paths may lead anywhere. Whatever is not there or no picture is told when it is
added.
"""

import base64
import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from retrieval.adding import Item
from retrieval.errors import FolderError
from retrieval.folder import as_text
from retrieval.progress import track

if TYPE_CHECKING:
    import pyarrow

_Row = tuple[int, Mapping[str, Any]]  # its number from 1, of the line in a text, and its cells by column
_NAMES: Final = ("id", "label", "source")
_PATHS: Final = ("path", "file", "file_name", "image")
_BYTES: Final = "bytes"
_PARQUET: Final = ".parquet"
_ROWS_AT_A_TIME: Final = 256  # of Parquet: pictures of some 100 kB take 25 MB
_READ_AHEAD: Final = 2**20  # bytes
_LONGEST_CELL: Final = 2**28  # of CSV, which is a picture in base64; csv's own limit is 2^17
_UNREADABLE: Final = (OSError, csv.Error, ValueError, TypeError, NotImplementedError, RecursionError)  # Arrow's, too


@dataclass(frozen=True, slots=True)
class Manifest:
    """A list of labelled pictures; each iteration reads it anew."""

    path: Path
    rows: int

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[Item]:
        for number, row in _rows(self.path):
            yield _item(row, self.path, number)


def is_manifest(path: str | Path) -> bool:
    """Tell whether a file is a manifest: by its ending, and for Parquet by lacking the column ``vector`` of features.

    Raises:
        FolderError: a Parquet file that cannot be read.
    """
    import pyarrow.parquet as pq

    place = Path(path)
    if place.suffix.lower() != _PARQUET:
        return place.suffix.lower() in _READERS
    try:
        return "vector" not in pq.read_schema(place).names
    except _UNREADABLE as error:
        raise FolderError(f"{place} cannot be read as Parquet: {_reason(error)}") from error


def read_manifest(path: str | Path, *, progress: bool = True) -> Manifest:
    """Return a manifest after a look at every row, so that a mistake in the last one is told before any is embedded.

    Of Parquet only ids and labels are looked at.

    Raises:
        FolderError: no such file, another ending, a column that is missing, or a row that cannot be used, with its
            number. Iterating raises it for a file that has changed since.
    """
    place = Path(path)
    if place.suffix.lower() not in _READERS:
        raise FolderError(f"{place} is no manifest by its name: one that ends with {', '.join(_READERS)} expected")
    if not place.is_file():
        raise FolderError(f"{place} is not there, or no file: a manifest expected")
    columns, check = (_NAMES, _label) if place.suffix.lower() == _PARQUET else (None, _item)
    count = 0
    for number, row in track(_rows(place, columns), "Checking the manifest", unit=" rows", shown=progress):
        check(row, place, number)
        count += 1
    return Manifest(place, count)


def _item(row: Mapping[str, Any], path: Path, number: int) -> Item:
    picture = row.get("image")
    struct = picture if isinstance(picture, dict) else {}
    name = _text(struct.get("path")) or next(filter(None, (_text(row.get(column)) for column in _PATHS)), "")
    encoded = (picture if isinstance(picture, bytes) else struct.get("bytes")) or row.get(_BYTES)
    if isinstance(encoded, str) and encoded:
        encoded = _decoded(encoded, path, number)
    if not encoded and not name:
        raise _bad(path, number, f"names no picture: a {' or '.join(_PATHS[:2])}, or its bytes, expected")
    id_ = _text(row.get("id")) or name
    if not id_:
        raise _bad(path, number, "has neither an id nor a path that could be one: fill it in")
    return Item(id_, _label(row, path, number), encoded or path.parent / name, _text(row.get("source")) or name or None)


def _label(row: Mapping[str, Any], path: Path, number: int) -> str:
    label = _text(row.get("label"))
    if not label.strip():
        raise _bad(path, number, "has no label: fill it in, or leave the row out")
    return label


def _text(cell: object) -> str:
    """Return a text or a whole number as text; anything else is none."""
    is_one = isinstance(cell, str) or (isinstance(cell, int) and not isinstance(cell, bool))
    return as_text(str(cell)) if is_one else ""


def _decoded(encoded: str, path: Path, number: int) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True)
    except ValueError as error:
        raise _bad(path, number, f"holds bytes that are no base64 ({error})") from error


def _bad(path: Path, number: int, why: str) -> FolderError:
    return FolderError(f"{'row' if path.suffix.lower() == _PARQUET else 'line'} {number} of {path} {why}")


def _rows(path: Path, columns: tuple[str, ...] | None = None) -> Iterator[_Row]:
    number = 0
    try:
        for number, row in _READERS[path.suffix.lower()](path, columns):
            yield number, row
    except _UNREADABLE as error:
        raise FolderError(f"{path} cannot be read beyond row {number}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    return (str(error).splitlines() or [type(error).__name__])[0]


def _csv_rows(path: Path, columns: tuple[str, ...] | None) -> Iterator[_Row]:
    csv.field_size_limit(max(_LONGEST_CELL, csv.field_size_limit()))
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        header = next(reader, [])
        _expect_columns(header, path)
        for cells in reader:
            if len(cells) == len(header):
                yield reader.line_num, dict(zip(header, cells, strict=True))
            elif cells:  # an empty line is none
                raise _bad(path, reader.line_num, f"has {len(cells)} cells, and the first line {len(header)}")


def _json_rows(path: Path, columns: tuple[str, ...] | None) -> Iterator[_Row]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise _bad(path, number, f"is no JSON ({error}): one object a line expected") from error
            if not isinstance(row, dict):
                raise _bad(path, number, "is no JSON object: one with label and path expected")
            yield number, row


def _parquet_rows(path: Path, columns: tuple[str, ...] | None) -> Iterator[_Row]:
    import pyarrow.parquet as pq

    # As Arrow would read it by itself, ahead and all groups at once, a file of 1 GB took 1.2 GB; like this, 0.2.
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=_READ_AHEAD) as file:
        schema = file.schema_arrow
        _expect_columns(schema.names, path)
        try:
            names = huggingface_names(schema, "label")
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError):
            names = None  # something else of that name
        wanted = [name for name in columns or (*_NAMES, *_PATHS, _BYTES) if name in schema.names]
        number = 0
        for group in range(file.num_row_groups):
            for batch in file.iter_batches(_ROWS_AT_A_TIME, row_groups=[group], columns=wanted, use_threads=False):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row | {"label": _named(row["label"], names)}


def huggingface_names(schema: "pyarrow.Schema", label: str) -> list[str] | None:
    """Return the names of the classes that a column numbers, as Hugging Face keeps them in a table's metadata, or None.

    Raises:
        KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError: something else stands there.
    """
    features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    feature = features.get(label, {})
    feature = feature.get("feature", feature) if isinstance(feature, dict) else feature[0]  # of a list, its items'
    names = feature.get("names")
    return [str(name) for name in names] if names else None


def _named(label: object, names: list[str] | None) -> object:
    if names is None or not isinstance(label, int):
        return label
    return names[label] if 0 <= label < len(names) else None  # -1 stands for no label


def _expect_columns(names: list[str], path: Path) -> None:
    if "label" not in names or not {*_PATHS, _BYTES} & set(names):
        raise FolderError(
            f"{path} has the columns {', '.join(names) or 'none'}: label, and path or bytes, expected, and id"
        )


_READERS: Final[dict[str, Callable[[Path, tuple[str, ...] | None], Iterator[_Row]]]] = {
    ".csv": _csv_rows,
    ".jsonl": _json_rows,
    _PARQUET: _parquet_rows,
}
