"""The memory and the data sets of a run, found again where the run says that they lay or where they lie now."""

from collections.abc import Iterable
from pathlib import Path

from eval.datasets.loading import load_dataset
from eval.types import Dataset, QueryResults, RunInfo
from retrieval.errors import InvalidArgument, VisualMemoryError
from retrieval.memory import VisualMemory


def open_memory(info: RunInfo, path: str | Path) -> VisualMemory:
    """Return a run's memory from where it lies now, maybe in a later version.

    Raises:
        NotAMemory: no memory is there.
        InvalidArgument: another one is, which decided nothing of the run.
    """
    memory = VisualMemory.open(path)
    if memory.settings.memory_id != info.settings["memory"]["id"]:
        raise InvalidArgument(
            f"{path} is another memory than the run's (id {memory.settings.memory_id}, and "
            f"{info.settings['memory']['id']} expected): give the one that decided, or leave --memory out"
        )
    return memory


def find_memory(info: RunInfo) -> VisualMemory | None:
    """Return a run's memory; None where it is no longer in its place, or another one is."""
    try:
        return open_memory(info, info.about["memory"])
    except (KeyError, VisualMemoryError):
        return None


def open_dataset(name: str, path: str | Path, results: QueryResults | None) -> Dataset:
    """Return a run's data set from where it lies now.

    Raises:
        FolderError: nothing is there, or not what the name says.
        InvalidArgument: none of the answered queries is there, so that it is another data set.
    """
    dataset = load_dataset(name, path)
    asked = set(results.ids) if results is not None else set()
    if asked and not any(sample.id in asked for sample in dataset.samples):
        raise InvalidArgument(f"{path} holds none of the run's queries of {name}: give the folder that was measured")
    return dataset


def find_dataset(name: str, infos: Iterable[RunInfo]) -> Dataset | None:
    """Return a data set from where one of some runs found it; None where it is no longer there."""
    for path in (info.about.get("datasets", {}).get(name) for info in infos):
        try:
            if path:
                return load_dataset(name, path)
        except VisualMemoryError:
            continue
    return None
