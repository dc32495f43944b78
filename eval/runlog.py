"""The log of a run: what it was made with, then one line a query, only ever appended to.

A run that is killed loses at most the batch it was at: the next one reads the log and goes on with what is missing.
"""

import json
import mmap
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from filelock import FileLock, Timeout

from agent.rerank import PASSING_CODES
from eval.errors import OtherSettings, RunError
from eval.fingerprint import picture_mark
from eval.log_reader import ABOUT, FORMAT, LOG, SUMS, read_answers, read_header, read_log
from eval.rerank_metrics import NO_ERRORS
from eval.types import Run, Sample
from retrieval.disk import reason_of_refusal
from retrieval.errors import VisualMemoryWarning
from retrieval.jsonlines import say_lines, sealed
from retrieval.types import Neighbor, Neighbors

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
        """Write lines as `answered_lines` and its like make them; they survive the process from here on.

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
        changed = [name for name in {**settings, **begun_with} if settings.get(name) != begun_with.get(name)]
        if changed:
            differences = "; ".join(_told(name, begun_with.get(name), settings.get(name)) for name in changed)
            raise OtherSettings(f"{folder} was begun with other settings ({differences}): choose another --out")


def _told(name: str, before: object, now: object) -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        return "; ".join(_told(f"{name} {key}", before.get(key), now.get(key)) for key in changed)
    return f"{name}: {'none' if before is None else before}, now {'none' if now is None else now}"


def answered_lines(dataset: str, samples: Sequence[Sample], found: Neighbors) -> list[dict[str, Any]]:
    """Return the lines of queries that the vote answered, one for each row of neighbours."""
    return [answered_line(dataset, sample, near) for sample, near in zip(samples, found, strict=True)]


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
