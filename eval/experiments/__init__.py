"""The paper's analyses: one file a figure or table, each with one function of its name, and the list of them all."""

from typing import Final

from eval.experiments.aggregation import aggregation, hyperparameters
from eval.experiments.base import Entry
from eval.experiments.blame import blame
from eval.experiments.compositionality import compositionality
from eval.experiments.granularity import granularity
from eval.experiments.label_noise import label_noise
from eval.experiments.latency_storage import latency_storage
from eval.experiments.memory_size import memory_size
from eval.experiments.new_classes import new_classes
from eval.experiments.pruning import pruning
from eval.experiments.reliability import calibration, distances, hit_rate, reliability
from eval.experiments.unlearning import unlearning
from retrieval.errors import InvalidArgument

_ENTRIES: Final = (
    Entry(aggregation, "neighbors", "Accuracy by voting method and k", "Figures 2, 7, 8; Tables 4 to 9"),
    Entry(hyperparameters, "neighbors", "Accuracy by α, ξ and τ of the voting methods", "Figure 9"),
    Entry(reliability, "neighbors", "Accuracy of the single neighbour at each rank", "Figures 1, 13"),
    Entry(hit_rate, "neighbors", "How often a right label is among the first k", "Figure 11"),
    Entry(label_noise, "neighbors", "Accuracy with random labels in the memory", "Figure 10"),
    Entry(calibration, "neighbors", "Accuracy by the count of the most frequent label", "Figure 15"),
    Entry(distances, "two", "Distances of known against unknown queries", "Figure 12"),
    Entry(memory_size, "memory", "Error by the memory's size", "Figure 3; appendix F"),
    Entry(new_classes, "memory", "What adding classes does to old and new ones", "Table 1"),
    Entry(granularity, "memory", "Accuracy by taxonomic level as one class grows", "Figure 4"),
    Entry(pruning, "memory", "Leaving out or weighing down unreliable items", "Table 3; appendix I"),
    Entry(unlearning, "memory", "Time, utility and quality of forgetting", "Section 3.4"),
    Entry(compositionality, "memory", "Neighbours before and after the nearest is subtracted", "Figure 17"),
    Entry(latency_storage, "memory", "Time and room that a search takes", "Table 10; appendix K"),
    Entry(blame, "neighbors", "Classes, items and labels most responsible for errors", "Figures 5, 6, 16"),
)
CATALOGUE: Final = {entry.name: entry for entry in _ENTRIES}
__all__ = [  # noqa: PLE0604, RUF022 - the catalogue's names are the functions'
    "CATALOGUE", "find_entry", *CATALOGUE,
]  # fmt: skip


def find_entry(name: str) -> Entry:
    """Return an analysis by name.

    Raises:
        InvalidArgument: there is none of that name.
    """
    if name not in CATALOGUE:
        raise InvalidArgument(f"no analysis {name!r}: choose one of {', '.join(CATALOGUE)}, or all")
    return CATALOGUE[name]
