"""Lists of pictures with their labels: CSV, TSV and JSONL files."""

import csv
import json
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

from eval.datasets.rows import PATHS, Table, reading, row_labels
from retrieval.errors import FolderError
from retrieval.folder import as_text

LISTS: Final = (".csv", ".tsv", ".jsonl")
_PATHS: Final = (*PATHS, "image", "image_path")
_LABELS: Final = ("labels", "label")
_LONGEST_FIELD: Final = 1 << 24  # of a CSV file; csv's own limit is 128 KiB
_Row = tuple[int, dict[str, Any]]  # the line that it ends on, as people count, and its cells


def read_list(path: Path) -> Table:
    """Return the rows of a list; an ``id`` left out is the path as it stands there.

    Raises:
        FolderError: it cannot be read, or lacks a column or a value.
    """
    with reading(path):
        try:
            rows = list(_json_rows(path) if path.suffix.lower() == ".jsonl" else _csv_rows(path))
        except UnicodeDecodeError as error:
            raise FolderError(f"{path} is not written in UTF-8: save it in that encoding ({error.reason})") from error
    if not rows:
        raise FolderError(f"{path} has no rows: one for each picture expected")
    _expect_columns(path, rows[0][1])
    paths = [_path(path, line, row) for line, row in rows]
    ids = [place if row.get("id") is None else str(row["id"]) for place, (_, row) in zip(paths, rows, strict=True)]
    labels = row_labels(path, [_labels(path, *row) for row in rows], name_of=lambda row: f"line {rows[row][0]}")
    return Table(path, [as_text(name) for name in ids], labels, None, lambda place: path.parent / paths[place])


def _csv_rows(path: Path) -> Iterator[_Row]:
    csv.field_size_limit(_LONGEST_FIELD)
    with path.open(encoding="utf-8-sig", newline="") as stream:
        cells = csv.reader(stream, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", skipinitialspace=True)
        header = [name.strip().lower() for name in next(cells, [])]
        for row in filter(None, cells):
            if len(row) > len(header):
                raise FolderError(
                    f"line {cells.line_num} of {path} has {len(row)} cells, but there are {len(header)} columns: put"
                    " text that holds the separator into quotes"
                )
            yield cells.line_num, dict(zip_longest(header, row))


def _json_rows(path: Path) -> Iterator[_Row]:
    with path.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                row = _from_json(path, number, line)
                if not isinstance(row, dict):
                    raise FolderError(f"line {number} of {path} is no JSON object: one for each picture expected")
                yield number, {name.strip().lower(): value for name, value in row.items()}


def _from_json(path: Path, line: int, text: str) -> Any:  # noqa: ANN401 - whatever it holds
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FolderError(f"line {line} of {path} is no JSON: {getattr(error, 'msg', error)}") from error


def _expect_columns(path: Path, row: dict[str, Any]) -> None:
    if any(name in row for name in _PATHS) and any(name in row for name in _LABELS):
        return
    names = as_text(", ".join(row))
    separators = any(mark in names for mark in ";\t|") and path.suffix.lower() == ".csv"
    raise FolderError(
        f"{path} has the columns {names}: path, label or labels, and maybe id expected"
        + ("; in a .csv file commas stand between them" if separators else "")
    )


def _path(path: Path, line: int, row: dict[str, Any]) -> str:
    value = next((row[name] for name in _PATHS if name in row), None)
    if not isinstance(value, str) or not value or "\0" in value:
        raise FolderError(f"line {line} of {path} names no picture: a path expected")
    return value


def _labels(path: Path, line: int, row: dict[str, Any]) -> Any:  # noqa: ANN401
    """Return a row's label or list of labels; in CSV and TSV a list is written as JSON."""
    name = next((name for name in _LABELS if name in row), "")
    value = row.get(name)
    if name != "labels" or not isinstance(value, str):
        return value
    try:
        value = json.loads(value)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, list):
        raise FolderError(f'line {line} of {path} has labels that are no JSON list: ["cat", "dog"] or alike expected')
    return value
