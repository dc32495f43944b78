"""Lists of pictures with their labels: CSV, TSV and JSONL files."""

import csv
import json
from pathlib import Path
from typing import Any, Final

from eval.datasets.rows import PATHS, Table, reading, row_labels
from retrieval.errors import FolderError

LISTS: Final = (".csv", ".tsv", ".jsonl")
_LABELS: Final = ("labels", "label")
_LONGEST_FIELD: Final = 1 << 24  # of a CSV file; csv's own limit is 128 KiB


def read_list(path: Path) -> Table:
    """Return the rows of a list; an ``id`` left out is the path as it stands there.

    Raises:
        FolderError: it cannot be read, or lacks a column or a value.
    """
    with reading(path):
        rows = _rows(path)
        if not rows:
            raise FolderError(f"{path} has no rows: one for each picture expected")
        where, label = _first(PATHS, rows[0]), _first(_LABELS, rows[0])
        if where is None or label is None:
            raise FolderError(
                f"{path} has the columns {', '.join(map(str, rows[0]))}: path, label or labels, and maybe id expected"
            )
        labels = [row.get(label) for row in rows]
        if label == "labels":
            labels = [json.loads(value) if isinstance(value, str) else value for value in labels]
    paths = [_path(path, number, row.get(where)) for number, row in enumerate(rows)]
    ids = [str(row["id"]) for row in rows] if "id" in rows[0] else paths
    return Table(path, ids, row_labels(path, labels), None, lambda place: path.parent / paths[place])


def _first(names: tuple[str, ...], row: dict[str, Any]) -> str | None:
    return next((name for name in names if name in row), None)


def _rows(path: Path) -> list[dict[str, Any]]:
    csv.field_size_limit(_LONGEST_FIELD)
    with path.open(encoding="utf-8-sig", newline="") as stream:
        if path.suffix.lower() != ".jsonl":
            return list(csv.DictReader(stream, delimiter="\t" if path.suffix.lower() == ".tsv" else ","))
        rows = [json.loads(line) for line in stream if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise FolderError(f"{path} has lines that are no JSON objects: one object for each picture expected")
    return rows


def _path(listing: Path, number: int, value: Any) -> str:  # noqa: ANN401 - whatever stands there
    if not isinstance(value, str) or not value:
        raise FolderError(f"row {number} of {listing} names no picture: a path expected")
    return value
