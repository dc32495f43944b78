"""The log of a run: what it was made with, then one line a query, only ever appended to.

A run that is killed loses at most the batch it was at: the next one reads the log and goes on with what is missing.
"""

import hashlib
import json
import mmap
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from filelock import FileLock, Timeout

from agent.classify import PASSING_CODES, Stages
from eval.metrics.rerank import NO_ERRORS
from eval.types import (
    Dataset,
    NeighborColumns,
    OtherSettings,
    Outcome,
    QueryResults,
    Run,
    RunError,
    RunInfo,
    Sample,
    StoredPicture,
)
from retrieval.errors import VisualMemoryWarning
from retrieval.images import ImageLike
from retrieval.storage.places import reason_of_refusal
from retrieval.support.parsing import is_sealed, say_lines, sealed, unsealed
from retrieval.types import Neighbor
from retrieval.view import MemoryView


class Columns:
    """The queries of one data set, gathered line by line; of several lines of one query the last counts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._row_of: dict[str, int] = {}  # by query, in the order in which they came first
        self._truths: list[frozenset[str]] = []
        self._known_truths: dict[tuple[str, ...], frozenset[str]] = {}
        self._neighbors = NeighborColumns("f")
        self._outcomes: list[Outcome | None] = []
        self._places: list[int] = []
        self._unreadable: dict[str, str] = {}

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
        near = [line[name] for name in ("ids", "labels", "distances", *({"reliabilities"} & line.keys()))]
        lengths = {*map(len, near), *self._neighbors.lengths[:1]}
        if len(lengths) > 1 or 0 in lengths:
            raise RunError(f"{self._path} has lines of different lengths: give another run folder")
        truth = tuple(line["truth"])
        self._truths.append(self._known_truths.setdefault(truth, frozenset(truth)))
        self._neighbors.add(*near)
        self._row_of[query] = len(self._places)
        self._places.append(place)
        self._outcomes.append(read_outcome(line["rerank"]) if "rerank" in line else None)

    def results(self) -> QueryResults:
        """Return what has been added."""
        rows = list(self._row_of.values())
        outcomes = [outcome for outcome in (self._outcomes[row] for row in rows) if outcome is not None]
        if outcomes and len(outcomes) < len(rows):
            raise RunError(f"{self._path} has queries with and without a second look: give another run folder")
        return QueryResults(
            ids=list(self._row_of),
            truths=[self._truths[row] for row in rows],
            **self._neighbors.tables(rows),
            unreadable=self._unreadable,
            outcomes=outcomes or None,
            places=[self._places[row] for row in rows],
        )


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


LOG: Final = "log.jsonl"
FORMAT: Final = 2
SUMS: Final = "sums"  # key in the first line of a log whose every line has a checksum
ABOUT: Final = "about"  # key in the first line of what changes no result
_ABOUT_KEYS: Final = {"embedder", "memory", "classes", "datasets", "queries", "subsets", "excluded", "absent"}
_KEYS: Final = ("dataset", "id", "picture")


def read_run(folder: Path) -> Run:
    """Return a run as its log holds it; one that is still under way is left alone.

    Raises:
        RunError: the folder holds no run, or a damaged one.
    """
    return read_log(expect_log(folder))


def lines_at(folder: Path, places: Iterable[int]) -> Iterator[dict[str, Any]]:
    """Yield lines of a run's log by where they begin (`QueryResults.places`).

    Raises:
        RunError: the folder holds no run, or another one than the places are of.
    """
    path = expect_log(folder)
    with path.open("rb") as log:
        for place in places:
            log.seek(place)
            line = unsealed(log.readline())
            if line is None:
                raise damaged(path)
            yield line


def expect_log(folder: Path) -> Path:
    """Return the place of a run's log, which need not be a sound one.

    Raises:
        RunError: there is none.
    """
    path = folder / LOG
    if not path.is_file():
        raise RunError(f"{folder} holds no run: give the folder that `vmem eval run` wrote")
    return path


def read_log(path: Path) -> Run:
    """Return the run that a log holds; its damaged lines are left out, and said by a warning.

    Raises:
        RunError: it is none, or its first line is damaged.
    """
    header = read_header(path)
    about = header.pop(ABOUT, None)
    if not isinstance(about, dict) or not _ABOUT_KEYS.issubset(about):
        raise RunError(f"{path} is damaged in its first line: give another run folder")
    columns: dict[str, Columns] = {}
    left_out: list[int] = []
    for place, line in read_answers(path, left_out):
        if line["dataset"] not in about["datasets"]:
            raise damaged(path)
        columns.setdefault(line["dataset"], Columns(path)).add(line, place)
    if left_out:
        said = f"{say_lines(path, left_out)}, left out here: the same `vmem eval run` answers the queries again"
        warnings.warn(said, VisualMemoryWarning, stacklevel=2)
    in_order = [name for name in about["datasets"] if name in columns]
    return Run(RunInfo(header, about), {name: columns[name].results() for name in in_order}, tuple(left_out))


def read_header(path: Path) -> dict[str, Any]:
    """Return a log's first line: settings, and what else is worth knowing under `ABOUT`.

    Raises:
        RunError: it is none, damaged, or another version's.
    """
    with path.open("rb") as log:
        line = log.readline()
    header = unsealed(line)
    if header is None or (header.pop(SUMS, False) and not is_sealed(line)):
        raise RunError(f"{path} is no log of a run, or damaged in its first line: give another run folder")
    if "format" not in header:
        raise RunError(f"{path} is no log of a run: give another run folder")
    if header["format"] != FORMAT:
        raise RunError(
            f"{path} has format {header['format']}, and this version reads {FORMAT}: give another run folder"
        )
    return header


def read_answers(path: Path, left_out: list[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the lines after the first, each with where it begins; one that is still being written is left out.

    Args:
        path: of the log.
        left_out: receives the numbers of damaged lines, which are passed over; the log's first line is 1.
    """
    with path.open("rb") as log:
        first = log.readline()
        place = len(first)
        whole = iter(log.readline, b"")
        required = is_sealed(first)
        for number, line in enumerate(whole, start=2):
            if not line.endswith(b"\n"):
                return  # being written
            answer = unsealed(line, required=required)
            required = required or is_sealed(line)
            if answer is None or not all(isinstance(answer.get(name), str) for name in _KEYS):
                left_out.append(number)
            else:
                yield place, answer
            place += len(line)


@dataclass(frozen=True, slots=True)
class TookPart:
    """A prediction, and the forgotten items among its neighbours."""

    run: Path  # its folder
    dataset: str
    query: str
    rank: int  # of the nearest of them; 1 is the nearest neighbour
    items: tuple[str, ...]  # their ids, nearest first
    named: bool  # whether the model named one of them as what decided


def predictions_with(
    folders: Iterable[Path], is_forgotten: Callable[[str], bool], *, memory_id: str
) -> Iterator[TookPart]:
    """Yield the predictions of a memory's runs in which forgotten items were neighbours.

    Args:
        folders: runs, or folders with runs below them.
        is_forgotten: tells by id.
        memory_id: of the memory; runs of another one, which may use the same ids, are passed over.

    Raises:
        RunError: a folder without runs, or a damaged log.
    """
    verdicts: dict[str, bool] = {}  # the same neighbours stand in many lines
    for log in (log for folder in folders for log in _logs(folder)):
        memory = read_header(log).get("memory")
        if not isinstance(memory, dict) or memory.get("id") != memory_id:
            continue
        for _, line in read_answers(log, []):
            ids = line.get("ids", [])
            for id_ in ids:
                if id_ not in verdicts:
                    verdicts[id_] = is_forgotten(id_)
            ranks = [rank for rank, id_ in enumerate(ids, start=1) if verdicts[id_]]
            if ranks:
                found = tuple(ids[rank - 1] for rank in ranks)
                named = not set(found).isdisjoint((line.get("rerank") or {}).get("evidence", ()))
                yield TookPart(log.parent, line["dataset"], line["id"], ranks[0], found, named)


def expect_runs(folders: Iterable[Path]) -> None:
    """Raise RunError unless each folder is a run, or has runs below it."""
    for folder in folders:
        _logs(folder)


def _logs(folder: Path) -> list[Path]:
    found = [folder / LOG] if (folder / LOG).is_file() else sorted(folder.rglob(LOG))
    if not found:
        raise RunError(f"{folder} holds no run: give a folder that `vmem eval run` wrote, or one with such below it")
    return found


_DIGITS: Final = 16  # of a digest, in hexadecimal


def describe_settings(
    memory: MemoryView, datasets: Mapping[str, Dataset], *, k: int, stages: Stages | None, centre: str | None
) -> dict[str, Any]:
    """Return everything that can change a result, in JSON's types (`RunInfo.settings`)."""
    return {
        "memory": {"id": memory.settings.memory_id, "version": memory.version, "items": len(memory)},
        "embedder": memory.settings.embedder.weights_digest,
        "precision": memory.requested.precision,
        "index": memory.build_index() if len(memory) else "none",
        "k": k,
        **({"centre": centre} if centre else {}),
        **({"rerank": stages.described()} if stages and stages.model else {}),
        **{f"dataset {name}": _digest(dataset) for name, dataset in datasets.items()},
    }


def describe(memory: MemoryView, datasets: Mapping[str, Dataset], paths: Mapping[str, str]) -> dict[str, Any]:
    """Return where things lie and what figures need beside the log (`RunInfo.about`), in JSON's types."""
    known = set(memory.stats().labels)
    return {
        "version": version("visual-memory-agent"),
        "memory": str(memory.path.resolve()),
        "embedder": memory.settings.embedder.name,
        "datasets": {name: paths.get(name, "") for name in datasets},
        "queries": {name: len(dataset.samples) for name, dataset in datasets.items()},
        "classes": len(known),
        "subsets": {name: sorted(dataset.subset) for name, dataset in datasets.items() if dataset.subset},
        "excluded": {name: dataset.excluded for name, dataset in datasets.items()},
        "absent": {
            name: sorted(frozenset().union(*{sample.labels for sample in dataset.samples}) - known)
            for name, dataset in datasets.items()
        },
    }


def _digest(dataset: Dataset) -> str:
    digest = hashlib.sha256()
    for sample in dataset.samples:
        digest.update(json.dumps([sample.id, sorted(sample.labels)]).encode())
    return f"{len(dataset.samples)} queries, {digest.hexdigest()[:16]}"


def picture_mark(sample: Sample) -> str:
    """Return what tells a picture from another of the same name: of a file its size and its time, which reads none."""
    image: ImageLike | StoredPicture = sample.image
    if isinstance(image, bytes):
        return hashlib.sha256(image).hexdigest()[:_DIGITS]
    if isinstance(image, str | Path):
        try:
            status = os.stat(image)
        except OSError:
            return "missing"  # decoding says what is wrong
        return f"{status.st_size}:{status.st_mtime_ns}"
    if isinstance(image, StoredPicture):
        return image.fingerprint
    return hashlib.sha256(np.asarray(image).tobytes()).hexdigest()[:_DIGITS]


_LOCK: Final = "log.lock"
_BEGINNING: Final = b'{"format": '  # of a log's first line


class RunLog:
    """A run folder's log, open for appending; use as a context."""

    def __init__(self, folder: Path, settings: dict[str, Any], about: dict[str, Any]) -> None:
        """Begin a log or go on with one.

        Args:
            folder: the run folder; made if need be.
            settings: everything that can change a result, in JSON's types.
            about: what else is worth knowing of the run (`RunInfo.about`), as it was when the log was begun.

        Raises:
            OtherSettings: the folder's log was begun with other settings.
            RunError: the folder cannot be written, holds something else, or is being written by another process.
        """
        self._path = folder / LOG
        header = sealed({"format": FORMAT, SUMS: True} | settings | {ABOUT: about})
        with _translated(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if not self._path.exists() and any(entry.name != _LOCK for entry in folder.iterdir()):
                raise RunError(f"{folder} holds other files and no run: choose another --out")
            self._lock = _lock(folder)
            fresh = _is_fresh(self._path)
        try:
            if not fresh:
                self._expect_settings(folder, json.loads(json.dumps({"format": FORMAT} | settings)))
            with _translated(folder):
                _cut_torn_line(self._path)
                if not fresh:
                    _set_damage_aside(self._path)
                # Unbuffered: a disk that is full says so here, not again when the file is closed.
                self._file = self._path.open("ab", buffering=0)
                if fresh:
                    self._write(header)
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._lock.release()

    def finished(self, *, retry_errors: bool = False) -> dict[tuple[str, str], str]:
        """Return what is in the log by data set and query, save for what is worth another try: the pictures' marks.

        Args:
            retry_errors: whether so are all that a failure left to the vote, and all pictures that could not be used;
                else only those whose failure may have passed.
        """
        found: dict[tuple[str, str], str | None] = {}
        for _, line in read_answers(self._path, []):
            is_open = _is_open(line, retry_errors)
            found[line["dataset"], line["id"]] = None if is_open else line["picture"]
        return {query: mark for query, mark in found.items() if mark is not None}

    def append(self, lines: Iterable[dict[str, Any]]) -> None:
        """Write lines as `answered_line` and its like make them; they survive the process from here on.

        Raises:
            RunError: the disk refuses, as when it is full.
        """
        with _translated(self._path):
            self._write(b"".join(map(sealed, lines)))

    def _write(self, content: bytes) -> None:
        remaining = memoryview(content)
        while remaining:
            remaining = remaining[self._file.write(remaining) :]

    def run(self) -> Run:
        """Return the run as far as it is in the log."""
        return read_log(self._path)

    def _expect_settings(self, folder: Path, settings: dict[str, Any]) -> None:
        begun_with = read_header(self._path)
        begun_with.pop(ABOUT, None)
        if changed := changed_settings(begun_with, settings):
            differences = "; ".join(
                f"{name}: {'none' if before is None else before}, now {'none' if now is None else now}"
                for name, (before, now) in changed.items()
            )
            raise OtherSettings(f"{folder} was begun with other settings ({differences}): choose another --out")


def changed_settings(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the settings in which two runs differ, before and after; None where one has none.

    Settings within settings are named by both their names, as in "memory version".
    """
    changed: dict[str, tuple[Any, Any]] = {}
    for name in {**before, **after}:
        was, now = before.get(name), after.get(name)
        if isinstance(was, Mapping) and isinstance(now, Mapping):
            changed |= {f"{name} {part}": both for part, both in changed_settings(was, now).items()}
        elif was != now:
            changed[name] = was, now
    return changed


def answered_line(dataset: str, sample: Sample, near: Sequence[Neighbor]) -> dict[str, Any]:
    """Return the line of a query with its neighbours, nearest first; their reliabilities where not all are 1."""
    line = {
        "dataset": dataset,
        "id": sample.id,
        "picture": picture_mark(sample),
        "truth": sorted(sample.labels),
        "ids": [neighbor.id for neighbor in near],
        "labels": [neighbor.label for neighbor in near],
        "distances": [_as_float32(neighbor.distance) for neighbor in near],
    }
    reliabilities = [_as_float32(neighbor.reliability) for neighbor in near]
    return line | {"reliabilities": reliabilities} if set(reliabilities) - {1.0} else line


def _as_float32(number: float) -> float:
    """Return a number with as many digits as it takes to read the same float32 back."""
    return float(f"{number:.9g}")


def unreadable_line(dataset: str, sample: Sample, reason: str) -> dict[str, Any]:
    """Return the line of a query whose picture could not be used."""
    return {"dataset": dataset, "id": sample.id, "picture": picture_mark(sample), "unreadable": reason}


def _is_open(line: dict[str, Any], retry_errors: bool) -> bool:
    """Tell whether a query was left to the vote by a failure, or left out, and is worth another try."""
    record = line.get("rerank")
    code = str(record.get("reason")).partition(":")[0] if isinstance(record, dict) else "reranked"
    failed = "unreadable" in line or code not in NO_ERRORS
    return failed if retry_errors else code in PASSING_CODES


def _lock(folder: Path) -> FileLock:
    """Keep other processes from writing the log; the lock ends with the process, however that ends."""
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunError(f"{folder} is being written by another process: wait for it, or choose another --out") from None
    return lock


def _is_fresh(path: Path) -> bool:
    """Tell whether a log is still to be begun: it is not there, empty, or its first line was torn by a kill."""
    if not path.exists():
        return True
    with path.open("rb") as log:
        first = log.readline()
    return not first.endswith(b"\n") and (first.startswith(_BEGINNING) or _BEGINNING.startswith(first))


def _cut_torn_line(path: Path) -> None:
    """Drop what a killed run left of its last line."""
    if not path.exists() or not path.stat().st_size:
        return
    with path.open("rb+") as log, mmap.mmap(log.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        whole = mapped.rfind(b"\n") + 1
    os.truncate(path, whole)


def _set_damage_aside(path: Path) -> None:
    """Move damaged lines to another file, so that their queries are answered again, and say so."""
    numbers: list[int] = []
    for _ in read_answers(path, numbers):
        pass
    if not numbers:
        return
    aside, mended = path.with_suffix(".damaged"), path.with_suffix(".mended")
    with path.open("rb") as log, aside.open("ab") as others, mended.open("wb") as whole:
        for number, line in enumerate(log, start=1):
            (others if number in numbers else whole).write(line)
        for file in (others, whole):
            file.flush()
            os.fsync(file.fileno())
    mended.replace(path)
    said = f"{say_lines(path, numbers)}: moved to {aside}, and the queries are answered again"
    warnings.warn(said, VisualMemoryWarning, stacklevel=3)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{path} cannot be written: {reason_of_refusal(error)}; make room, or choose another --out"
        ) from error
