"""Which class belongs to which group, at several levels: read from names of folders or from a table."""

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Int

from retrieval.errors import InvalidArgument
from retrieval.labels import composed

_INATURALIST: Final = re.compile(r"\d{5}_([^_]+)_([^_]+)_([^_]+)_([^_]+)_([^_]+)_([^_]+)_[^_]+")
_INATURALIST_LEVELS: Final = ("kingdom", "phylum", "class", "order", "family", "genus", "species")


@dataclass(frozen=True, slots=True)
class Taxonomy:
    """A tree with labels for leaves."""

    levels: tuple[str, ...]  # from coarse to fine; the last is the label itself
    groups: dict[str, tuple[str, ...]]  # of each label, one name for each level but the last

    def codes(self, labels: Iterable[str]) -> Int[np.ndarray, "labels levels"]:
        """Return the number of each label's group at each level; groups of one name under different parents differ.

        Raises:
            InvalidArgument: a label that is not in the taxonomy.
        """
        numbers: dict[tuple[str, ...], int] = {}
        rows = []
        for label in labels:
            if label not in self.groups:
                raise InvalidArgument(f"the taxonomy does not hold {label!r}: give it a line")
            path = (*self.groups[label], label)
            ends = range(1, len(path) + 1)
            rows.append([numbers.setdefault(path[:end], len(numbers)) for end in ends])
        return np.array(rows, np.int64).reshape(-1, len(self.levels))


def inaturalist_taxonomy(labels: Iterable[str]) -> Taxonomy:
    """Return the seven levels that iNaturalist 2021 writes into its folders' names.

    ``00000_Animalia_Annelida_Clitellata_Haplotaxida_Lumbricidae_Lumbricus_terrestris``: kingdom to species.

    Raises:
        InvalidArgument: a label of another form.
    """
    groups = {}
    for label in labels:
        found = _INATURALIST.fullmatch(label)
        if found is None:
            raise InvalidArgument(
                f"{label!r} does not name its taxa as iNaturalist's folders do: give a taxonomy as a CSV file"
            )
        groups[label] = found.groups()
    return Taxonomy(_INATURALIST_LEVELS, groups)


def read_taxonomy(path: Path) -> Taxonomy:
    """Return a taxonomy from a CSV file: a line of headings, then each label with its groups from coarse to fine.

    The headings name the levels, the label's own first: ``species,kingdom,family`` has species as its finest.

    Raises:
        InvalidArgument: the file cannot be read, has no level beside the label, an incomplete line or a label twice.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            heading, *rows = [row for row in csv.reader(lines) if row]
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as failure:
        raise InvalidArgument(f"{path} is no taxonomy: a CSV file with label,level,level… expected") from failure
    groups: dict[str, tuple[str, ...]] = {}
    for row in ([composed(cell) for cell in row] for row in rows):
        if len(heading) < 2 or len(row) != len(heading) or not all(row):
            raise InvalidArgument(f"{path}: the line of {row[0]!r} must have {max(2, len(heading))} filled cells")
        if row[0] in groups:
            raise InvalidArgument(f"{path} has {row[0]!r} twice: give each label one line")
        groups[row[0]] = tuple(row[1:])
    if not groups:
        raise InvalidArgument(f"{path} holds no label: one line each expected, below the headings")
    return Taxonomy((*heading[1:], heading[0]), groups)
