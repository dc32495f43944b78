"""Lists of pictures with their labels: CSV, TSV and JSONL files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from eval.datasets.rows import Table, reading, row_ids, row_labels
from retrieval.errors import FolderError
from retrieval.folder import as_it_lies, as_text
from retrieval.manifests import PATHS, text_rows
from retrieval.outside import parse_json

LISTS: Final = (".csv", ".tsv", ".jsonl")
_PATHS: Final = (*PATHS, "image")
_LABELS: Final = ("labels", "label")


def read_list(path: Path) -> Table:
    """Return the rows of a list; an ``id`` left out is the path as it stands there.

    Raises:
        FolderError: it cannot be read, or lacks a column or a value.
    """
    with reading(path):
        try:
            rows = list(text_rows(path))
        except UnicodeDecodeError as error:
            raise FolderError(f"{path} is not written in UTF-8: save it in that encoding ({error.reason})") from error
    if not rows:
        raise FolderError(f"{path} has no rows: one for each picture expected")
    _expect_columns(path, rows[0][1])
    paths = [_path(path, line, row) for line, row in rows]
    own = [place if row.get("id") in (None, "") else row["id"] for place, (_, row) in zip(paths, rows, strict=True)]
    ids = row_ids(path, own, name_of=lambda row: f"line {rows[row][0]}")
    labels = row_labels(path, [_labels(path, *row) for row in rows], name_of=lambda row: f"line {rows[row][0]}")
    wnids = [row["wnid"] for _, row in rows] if all("wnid" in row for _, row in rows) else None
    return Table(path, ids, labels, None, lambda place: as_it_lies(path.parent, paths[place]), wnids)


def _expect_columns(path: Path, row: Mapping[str, Any]) -> None:
    if any(name in row for name in _PATHS) and any(name in row for name in _LABELS):
        return
    names = as_text(", ".join(row))
    raise FolderError(f"{path} has the columns {names}: path, label or labels, and maybe id expected")


def _path(path: Path, line: int, row: Mapping[str, Any]) -> str:
    value = next((row[name] for name in _PATHS if name in row), None)
    if not isinstance(value, str) or not value or "\0" in value:
        raise FolderError(f"line {line} of {path} names no picture: a path expected")
    return value


def _labels(path: Path, line: int, row: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """Return a row's label or list of labels; in CSV and TSV a list is written as JSON."""
    name = next((name for name in _LABELS if name in row), "")
    value = row.get(name)
    if name != "labels" or not isinstance(value, str):
        return value
    try:
        value = parse_json(value)
    except ValueError:
        value = None
    if not isinstance(value, list):
        raise FolderError(f'line {line} of {path} has labels that are no JSON list: ["cat", "dog"] or alike expected')
    return value
