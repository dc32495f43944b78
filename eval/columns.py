"""A run's lines gathered into arrays, so that hundreds of thousands of queries fit into little room."""

from array import array
from collections import defaultdict
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from eval.errors import RunError
from eval.types import Names, Outcome, QueryResults


class Columns:
    """The queries of one data set, gathered line by line; of several lines of one query the last counts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._row_of: dict[str, int] = {}  # by query, in the order in which they came first
        self._truths: list[frozenset[str]] = []
        self._known_truths: dict[tuple[str, ...], frozenset[str]] = {}
        self._id_codes, self._label_codes = array("i"), array("i")
        self._distances = array("f")
        self._id_numbers, self._label_numbers = numbering(), numbering()
        self._reliabilities: dict[int, array[float]] = {}  # by place in the table, where not all are 1
        self._outcomes: list[Outcome | None] = []
        self._places: list[int] = []
        self._unreadable: dict[str, str] = {}
        self._k = -1

    def add(self, line: Mapping[str, Any], place: int) -> None:
        """Add a line of the log that begins at a place.

        Raises:
            RunError: it has another number of neighbours than the lines before it, or something is missing in it.
        """
        try:
            self._add(line, place)
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise damaged(self._path) from error

    def _add(self, line: Mapping[str, Any], place: int) -> None:
        query: str = line["id"]
        if "unreadable" in line:
            self._row_of.pop(query, None)
            self._unreadable[query] = line["unreadable"]
            return
        self._unreadable.pop(query, None)
        self._expect_neighbors(line)
        if "reliabilities" in line:
            self._reliabilities[len(self._places)] = array("f", line["reliabilities"])
        self._row_of[query] = len(self._places)
        self._places.append(place)
        truth = tuple(line["truth"])
        self._truths.append(self._known_truths.setdefault(truth, frozenset(truth)))
        self._id_codes.extend(map(self._id_numbers.__getitem__, line["ids"]))
        self._label_codes.extend(map(self._label_numbers.__getitem__, line["labels"]))
        self._distances.extend(line["distances"])
        self._outcomes.append(read_outcome(line["rerank"]) if "rerank" in line else None)

    def results(self) -> QueryResults:
        """Return what has been added."""
        rows = np.fromiter(self._row_of.values(), np.int64, len(self._row_of))
        shape = (len(self._places), max(self._k, 0))
        outcomes = [outcome for outcome in (self._outcomes[row] for row in rows) if outcome is not None]
        if outcomes and len(outcomes) < len(rows):
            raise RunError(f"{self._path} has queries with and without a second look: give another run folder")
        return QueryResults(
            ids=list(self._row_of),
            truths=[self._truths[row] for row in rows],
            neighbor_ids=Names(_table(self._id_codes, np.int32, shape)[rows], list(self._id_numbers)),
            neighbor_labels=Names(_table(self._label_codes, np.int32, shape)[rows], list(self._label_numbers)),
            neighbor_distances=_table(self._distances, np.float32, shape)[rows],
            unreadable=self._unreadable,
            outcomes=outcomes or None,
            places=[self._places[row] for row in rows],
            reliabilities=self._factors(shape)[rows] if self._reliabilities else None,
        )

    def _factors(self, shape: tuple[int, int]) -> Float[np.ndarray, "queries k"]:
        factors = np.ones(shape, np.float32)
        factors[list(self._reliabilities)] = list(self._reliabilities.values())
        return factors

    def _expect_neighbors(self, line: Mapping[str, Any]) -> None:
        given = {"ids", "labels", "distances", *({"reliabilities"} & line.keys())}
        lengths = {len(line[name]) for name in given}
        self._k = len(line["ids"]) if self._k < 0 else self._k
        if not self._k or lengths != {self._k}:
            raise RunError(f"{self._path} has lines of different lengths: give another run folder")


def damaged(path: Path) -> RunError:
    """Return the error of a log with a line that is none of ours."""
    return RunError(f"{path} has a damaged line: give another run folder, or delete that line")


def read_outcome(record: Mapping[str, Any]) -> Outcome:
    """Return what a line's record of the second stage says."""
    paid = [reply for reply in record["replies"] if not reply["from_cache"]]
    spent = {name: tokens or 0 for name, tokens in record["spent"].items()}
    return Outcome(
        record["label"],
        next(iter(record["ranking"]), None),
        record["reason"],
        record["confidence"],
        prompt_tokens=spent["prompt_tokens"],
        cached_tokens=spent["cached_tokens"],
        reply_tokens=spent["reply_tokens"] + spent["thought_tokens"],
        calls=len(paid),
        calls_saved=len(record["replies"]) - len(paid),
        cost=record["cost"],
        full_cost=record["full_cost"],
        seconds=tuple(reply["seconds"] for reply in paid if reply["seconds"] is not None),
    )


def numbering() -> defaultdict[str, int]:
    """Return a table that gives each new name the next number."""
    return defaultdict(count().__next__)


def _table(values: "array[Any]", kind: type[np.number[Any]], shape: tuple[int, int]) -> np.ndarray:
    return np.frombuffer(values, kind).reshape(shape) if len(values) else np.empty(shape, kind)
