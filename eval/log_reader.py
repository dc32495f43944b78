"""Logs of runs, read: whole, by line, or by place."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from eval.columns import Columns, damaged
from eval.errors import RunError
from eval.types import Run, RunInfo

LOG: Final = "log.jsonl"
FORMAT: Final = 2
ABOUT: Final = "about"  # key in the first line of what changes no result
_ABOUT_KEYS: Final = {"embedder", "memory", "classes", "datasets", "queries", "subsets", "excluded", "absent"}
_KEYS: Final = ("dataset", "id", "picture")


def read_run(folder: Path) -> Run:
    """Return a run as its log holds it; one that is still under way is left alone.

    Raises:
        RunError: the folder holds no run, or a damaged one.
    """
    return read_log(_expect_log(folder))


def lines_at(folder: Path, places: Iterable[int]) -> Iterator[dict[str, Any]]:
    """Yield lines of a run's log by where they begin (`QueryResults.places`).

    Raises:
        RunError: the folder holds no run, or another one than the places are of.
    """
    path = _expect_log(folder)
    with path.open("rb") as log:
        for place in places:
            log.seek(place)
            yield _parsed(log.readline(), path)


def _expect_log(folder: Path) -> Path:
    path = folder / LOG
    if not path.is_file():
        raise RunError(f"{folder} holds no run: give the folder that `vmem eval run` wrote")
    return path


def read_log(path: Path) -> Run:
    """Return the run that a log holds.

    Raises:
        RunError: it is damaged.
    """
    header = read_header(path)
    about = header.pop(ABOUT, None)
    if not isinstance(about, dict) or not _ABOUT_KEYS.issubset(about):
        raise RunError(f"{path} is damaged in its first line: choose another --out")
    columns: dict[str, Columns] = {}
    for place, line in read_lines(path):
        if line["dataset"] not in about["datasets"]:
            raise damaged(path)
        columns.setdefault(line["dataset"], Columns(path)).add(line, place)
    in_order = [name for name in about["datasets"] if name in columns]
    return Run(RunInfo(header, about), {name: columns[name].results() for name in in_order})


def read_header(path: Path) -> dict[str, Any]:
    """Return a log's first line: settings, and what else is worth knowing under `ABOUT`.

    Raises:
        RunError: it is none, or another version's.
    """
    with path.open("rb") as log:
        header = _parsed(log.readline(), path)
    if "format" not in header:
        raise RunError(f"{path} is no log of a run: choose another --out")
    if header["format"] != FORMAT:
        raise RunError(f"{path} has format {header['format']}, and this version reads {FORMAT}: choose another --out")
    return header


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the lines after the first, each with where it begins; one that is still being written is left out.

    Raises:
        RunError: a line is damaged.
    """
    with path.open("rb") as log:
        place = len(log.readline())
        for line in log:
            if not line.endswith(b"\n"):
                return  # being written
            parsed = _parsed(line, path)
            texts = [parsed.get(name) for name in _KEYS]
            if not all(isinstance(text, str) for text in texts):
                raise damaged(path)
            yield place, parsed
            place += len(line)


def _parsed(line: bytes, path: Path) -> dict[str, Any]:
    try:
        parsed = json.loads(line)
    except ValueError as error:
        raise RunError(f"{path} is no log of a run, or damaged: choose another --out") from error
    if not isinstance(parsed, dict):
        raise RunError(f"{path} is no log of a run: choose another --out")
    return parsed
