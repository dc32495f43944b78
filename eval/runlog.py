"""The log of a run: what it was made with, then one line a query, only ever appended to.

A run that is killed loses at most the batch it was at: the next one reads the log and goes on with what is missing.
"""

import json
import mmap
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np

from agent.rerank import PASSING_CODES
from eval.errors import OtherSettings, RunError
from eval.types import Outcome, QueryResults, Sample
from retrieval.types import Neighbor

_LOG: Final = "log.jsonl"
_FORMAT: Final = 1
_KEYS: Final = {"dataset", "id"}
_ANSWER_KEYS: Final = {"truth", "ids", "labels", "distances"}


class RunLog:
    """A run folder's log, open for appending; use as a context."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        """Begin a log or go on with one.

        Args:
            folder: the run folder; made if need be.
            settings: everything that can change a result, in JSON's types.

        Raises:
            OtherSettings: the folder's log was begun with other settings.
            RunError: the folder cannot be written, or holds something else.
        """
        self._path = folder / _LOG
        header = json.dumps({"format": _FORMAT} | settings) + "\n"
        with _translated(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if not self._path.exists() and any(folder.iterdir()):
                raise RunError(f"{folder} holds other files and no run: choose another --out")
            fresh = _is_fresh(self._path, header)
        if not fresh:
            self._expect_settings(folder, json.loads(header))
        with _translated(folder):
            _cut_torn_line(self._path)
            # Unbuffered: a disk that is full says so here, not again when the file is closed.
            self._file = self._path.open("ab", buffering=0)
            if fresh:
                self._write(header)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def finished(self) -> set[tuple[str, str]]:
        """Return data set and id of every query that is in the log, save for those to which the model may yet reply."""
        is_final = {(line["dataset"], line["id"]): not _may_yet_be_answered(line) for line in _lines(self._path)}
        return {query for query, final in is_final.items() if final}

    def append(self, lines: Iterable[dict[str, Any]]) -> None:
        """Write lines made by `answered_line` and `unreadable_line`; they survive the process from here on.

        Raises:
            RunError: the disk refuses, as when it is full.
        """
        with _translated(self._path):
            # ASCII: a reason may repeat a file name whose bytes are no UTF-8.
            self._write("".join(json.dumps(line) + "\n" for line in lines))

    def _write(self, text: str) -> None:
        remaining = memoryview(text.encode())
        while remaining:
            remaining = remaining[self._file.write(remaining) :]

    def results(self) -> dict[str, QueryResults]:
        """Return the queries of every data set that has any in the log."""
        return _results(self._path)

    def _expect_settings(self, folder: Path, settings: dict[str, Any]) -> None:
        with self._path.open("rb") as log:
            begun_with = _parsed(log.readline(), self._path)
        if "format" not in begun_with:
            raise RunError(f"{self._path} is no log of a run: choose another --out")
        changed = [name for name in {**settings, **begun_with} if settings.get(name) != begun_with.get(name)]
        if changed:
            differences = "; ".join(
                f"{name}: {begun_with.get(name, 'none')}, now {settings.get(name, 'none')}" for name in changed
            )
            raise OtherSettings(f"{folder} was begun with other settings ({differences}): choose another --out")


def read_run(folder: Path) -> dict[str, QueryResults]:
    """Return the queries that a run's log holds, by data set; a run that is still under way is left alone.

    Raises:
        RunError: the folder holds no run, or a damaged one.
    """
    path = folder / _LOG
    if not path.is_file():
        raise RunError(f"{folder} holds no run: give the folder that `vmem eval run` wrote")
    return _results(path)


def _results(path: Path) -> dict[str, QueryResults]:
    by_dataset: dict[str, dict[str, dict[str, Any]]] = {}
    for line in _lines(path):  # by id: a query that the model failed may have been asked again since
        by_dataset.setdefault(line["dataset"], {})[line["id"]] = line
    return {name: _query_results(list(lines.values())) for name, lines in by_dataset.items()}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as log:
        next(log, None)
        for line in log:
            if not line.endswith(b"\n"):
                return  # being written
            parsed = _parsed(line, path)
            if not _KEYS.issubset(parsed) or ("unreadable" not in parsed and not _ANSWER_KEYS.issubset(parsed)):
                raise RunError(f"{path} has a damaged line: choose another --out, or delete that line")
            yield parsed


def answered_line(
    dataset: str, sample: Sample, neighbors: tuple[Neighbor, ...], *, rerank: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return the line of a query that was answered; ``rerank`` is what the second stage made of it."""
    line = {
        "dataset": dataset,
        "id": sample.id,
        "truth": sorted(sample.labels),
        "ids": [neighbor.id for neighbor in neighbors],
        "labels": [neighbor.label for neighbor in neighbors],
        "distances": [float(f"{n.distance:.9g}") for n in neighbors],  # enough to read the same float32 back
    }
    return line if rerank is None else line | {"rerank": rerank}


def unreadable_line(dataset: str, sample: Sample, reason: str) -> dict[str, Any]:
    """Return the line of a query whose picture could not be used."""
    return {"dataset": dataset, "id": sample.id, "unreadable": reason}


def _query_results(lines: list[dict[str, Any]]) -> QueryResults:
    answered = [line for line in lines if "unreadable" not in line]
    k = len(answered[0]["ids"]) if answered else 0
    shape = (len(answered), k)
    if any(len(line[name]) != k for line in answered for name in ("ids", "labels", "distances")):
        raise RunError("the log has lines of different lengths: choose another --out")
    return QueryResults(
        ids=[line["id"] for line in answered],
        truths=[frozenset(line["truth"]) for line in answered],
        neighbor_ids=np.array([line["ids"] for line in answered], object).reshape(shape),
        neighbor_labels=np.array([line["labels"] for line in answered], object).reshape(shape),
        neighbor_distances=np.array([line["distances"] for line in answered], np.float32).reshape(shape),
        unreadable={line["id"]: line["unreadable"] for line in lines if "unreadable" in line},
        outcomes=[_outcome(line["rerank"]) for line in answered] if answered and "rerank" in answered[0] else None,
    )


def _may_yet_be_answered(line: dict[str, Any]) -> bool:
    """Tell whether a query was left to the vote by a failure that may have passed."""
    return "rerank" in line and line["rerank"]["reason"].partition(":")[0] in PASSING_CODES


def _outcome(record: dict[str, Any]) -> Outcome:
    paid = sum(not reply["from_cache"] for reply in record["replies"])
    spent = {name: count or 0 for name, count in record["spent"].items()}
    return Outcome(
        record["label"],
        next(iter(record["ranking"]), None),
        record["reason"],
        record["confidence"],
        prompt_tokens=spent["prompt_tokens"],
        cached_tokens=spent["cached_tokens"],
        reply_tokens=spent["reply_tokens"] + spent["thought_tokens"],
        calls=paid,
        calls_saved=len(record["replies"]) - paid,
        cost=record["cost"],
    )


def _parsed(line: bytes, path: Path) -> dict[str, Any]:
    try:
        parsed = json.loads(line)
    except ValueError as error:
        raise RunError(f"{path} is no log of a run, or damaged: choose another --out") from error
    if not isinstance(parsed, dict):
        raise RunError(f"{path} is no log of a run: choose another --out")
    return parsed


def _is_fresh(path: Path, header: str) -> bool:
    """Tell whether a log is still to be begun: it is not there, empty, or its first line was torn by a kill."""
    if not path.exists():
        return True
    with path.open("rb") as log:
        first = log.readline()
    return not first.endswith(b"\n") and header.encode().startswith(first)


def _cut_torn_line(path: Path) -> None:
    """Drop what a killed run left of its last line."""
    if not path.exists() or not path.stat().st_size:
        return
    with path.open("rb+") as log, mmap.mmap(log.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        whole = mapped.rfind(b"\n") + 1
    os.truncate(path, whole)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}; make room, or choose another --out") from error
