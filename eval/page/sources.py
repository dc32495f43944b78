"""The memory and the data sets of a run, found again where the run says that they lay."""

from collections.abc import Sequence

from eval.datasets.loading import load_dataset
from eval.types import Dataset, Run, RunInfo
from retrieval.errors import VisualMemoryError
from retrieval.memory import VisualMemory


def find_memory(info: RunInfo) -> VisualMemory | None:
    """Return a run's memory; None where it is no longer in its place, or another one is."""
    try:
        memory = VisualMemory.open(info.about["memory"])
    except (KeyError, VisualMemoryError):
        return None
    return memory if memory.settings.memory_id == info.settings["memory"]["id"] else None


def find_dataset(name: str, runs: Sequence[Run]) -> Dataset | None:
    """Return a data set from where one of some runs found it; None where it is no longer there."""
    for path in (run.info.about.get("datasets", {}).get(name) for run in runs):
        try:
            if path:
                return load_dataset(name, path)
        except VisualMemoryError:
            continue
    return None
