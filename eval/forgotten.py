"""Past predictions in which forgotten items took part, from the logs of runs."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from eval.errors import RunError
from eval.log_reader import LOG, read_answers, read_header


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
