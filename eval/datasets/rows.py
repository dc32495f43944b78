"""Rows with a picture and labels each, however they are stored."""

import csv
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from eval.types import StoredPicture
from retrieval.errors import FolderError

PATHS: Final = ("path", "file_name", "file")  # columns that name a picture's file
RowLabels = frozenset[str] | frozenset[int]


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Rows with a picture each, in the order they are stored."""

    root: Path
    ids: Sequence[str]
    labels: Sequence[RowLabels]  # of one type throughout; empty where no label is right
    class_names: Sequence[str] | None  # by integer label, where the table tells
    picture: Callable[[int], Path | StoredPicture]

    @property
    def numbered(self) -> bool:
        """Whether labels are integers."""
        return any(isinstance(label, int) for label in next(filter(None, self.labels), ()))


def row_labels(root: Path, values: list[Any]) -> list[RowLabels]:
    """Return each row's labels as a set; equal sets are one object, since there are millions."""
    sets: dict[Any, RowLabels] = {}
    labels: list[RowLabels] = []
    for row, value in enumerate(values):
        key = tuple(value) if isinstance(value, list) else (value,)
        if key not in sets:
            sets[key] = _as_set(root, row, key)
        labels.append(sets[key])
    kinds = {type(label) for allowed in sets.values() for label in allowed}
    if len(kinds) > 1:
        raise FolderError(f"{root} has labels that are text and others that are numbers: all of one kind expected")
    return labels


def expect_unique(table: Table) -> None:
    """Raise FolderError where two rows have the same id."""
    twice = [name for name, times in Counter(table.ids).most_common(3) if times > 1]
    if twice:
        raise FolderError(
            f"{table.root} has rows with the same id ({', '.join(twice)}): give each its own in a column id"
        )


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Translate what a damaged table raises, as FolderError."""
    import pyarrow as pa

    try:
        yield
    except (OSError, ValueError, KeyError, csv.Error, pa.ArrowException) as error:
        raise FolderError(f"{path} cannot be read as a table of pictures: {error}") from error


def _as_set(root: Path, row: int, values: tuple[Any, ...]) -> RowLabels:
    if all(type(value) is int and value >= 0 for value in values) or all(isinstance(value, str) for value in values):
        return frozenset(values)
    if -1 in values:
        raise FolderError(f"row {row} of {root} has the label -1, which test sets without labels have: give another")
    raise FolderError(f"row {row} of {root} has the label {values[0]!r}: text or a number from 0 expected")
