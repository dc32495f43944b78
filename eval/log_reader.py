"""Logs of runs, read: whole, by line, or by place."""

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from eval.columns import Columns, damaged
from eval.errors import RunError
from eval.types import Run, RunInfo
from retrieval.errors import VisualMemoryWarning
from retrieval.jsonlines import is_sealed, say_lines, unsealed

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
