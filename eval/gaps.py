"""What a run lacks: queries that it has yet to answer, and what published figures count besides."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from eval.datasets.catalogue import find_official
from eval.types import Metrics, QueryResults, Run
from eval.wording import counted
from retrieval.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A data set that a run has yet to get through."""

    name: str
    done: int  # queries that are answered, or whose pictures cannot be used
    queries: int  # of the data set

    def __str__(self) -> str:
        return f"unfinished: {self.done:,} of {counted(self.queries, 'query')} of {self.name}"


def find_unfinished(run: Run) -> list[Unfinished]:
    """Return the data sets that a run has not got through, those that it has not begun among them."""
    found = [Unfinished(name, _done(run.results.get(name)), count) for name, count in run.info.about["queries"].items()]
    return [dataset for dataset in found if dataset.done < dataset.queries]


def say_unusable(run: Run) -> list[str]:
    """Return a sentence for each data set that has no figures, because no picture of it could be used."""
    return [
        f"{name} has no figures: no usable picture among {counted(len(results.unreadable), 'file')}; the first: {first}"
        for name, results in run.results.items()
        if not len(results)
        for first in list(results.unreadable.values())[:1]
    ]


def say_damage(run: Run) -> list[str]:
    """Return a sentence on the damaged lines of a run's log; none where there are none."""
    lines = run.damaged_lines
    numbers = ", ".join(map(str, lines[:10])) + (", …" if len(lines) > 10 else "")
    return [f"damaged and left out: {counted(len(lines), 'line')} of the log ({numbers})"] if lines else []


def lacks_pictures(dataset: str, pictures: int) -> str:
    """Say how many of a published data set's pictures there are; empty where there are all, or it is none of those."""
    try:
        official = find_official(dataset)
    except InvalidArgument:  # the name stands for several, so that the data set is none of them
        return ""
    if official is None or pictures >= official.images:
        return ""
    return f"{pictures:,} of {counted(official.images, 'picture')}"


def lacks_classes(absent: Collection[str], per_class: Mapping[str, object]) -> str:
    """Say how many of the right labels no answer can have; empty where there is none.

    Args:
        absent: labels that are not in the memory.
        per_class: all true labels of the answered queries.
    """
    if not absent:
        return ""
    are = "is" if len(absent) == 1 else "are"
    return f"{len(absent):,} of {counted(len(per_class.keys() | set(absent)), 'class')} {are} not in the memory"


def masked_notes(metrics: Metrics) -> list[str]:
    """Say of how many classes masked figures are, and how many of those that are asked about the memory lacks."""
    lacking = len(metrics.labels_not_in_memory)
    classes = counted(metrics.masked_classes or 0, "class")
    return [f"{classes} only", *([f"{lacking:,} not in the memory"] if lacking else [])]


def _done(results: QueryResults | None) -> int:
    return 0 if results is None else len(results) + len(results.unreadable)
