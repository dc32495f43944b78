"""What is known of a run beside its log: its figures, written and read again, what it lacks, where its things lie."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from eval.datasets.catalogue import find_official
from eval.datasets.loading import load_dataset
from eval.metrics.intervals import wilson_interval
from eval.metrics.rerank import sum_spending
from eval.metrics.votes import measure
from eval.types import Dataset, Interval, Metrics, Percent, QueryResults, Run, RunError, RunInfo, Summary
from retrieval.errors import InvalidArgument, VisualMemoryError
from retrieval.memory import VisualMemory
from retrieval.storage.places import writing
from retrieval.support.parsing import parse_json
from retrieval.support.terminal import counted
from retrieval.voting import DEFAULT_METHOD, METHODS

METRICS: Final = "metrics.json"  # of a run folder: its figures
_USAGE: Final = "usage.json"  # what they took
_VOTING: Final = ("embedder", "precision", "k", "centre")  # settings; the index follows from the memory's size


def summarise(run: Run, folder: str | Path, *, choose_k_on: str | None = None) -> Summary:
    """Compute a run's figures and write them into its folder.

    ``metrics.json`` is the same whenever the same replies were given; what they took, which is less when they come from
    the cache, stands apart in ``usage.json``.

    Args:
        run: as its log holds it.
        folder: the run folder.
        choose_k_on: see `eval.metrics.votes.measure`.

    Raises:
        RunError: no query was answered, or there is no such data set to choose k on; nothing is written then.
        StorageError: the folder cannot be written.
    """
    metrics = measure(run, choose_k_on=choose_k_on)
    spending = {name: sum_spending(found.outcomes) for name, found in run.results.items() if found.outcomes}
    about = {
        "embedder": run.info.about["embedder"],
        "classes": run.info.about["classes"],
        "unfinished": [asdict(dataset) for dataset in find_unfinished(run)],
        "damaged_lines": list(run.damaged_lines),
        "settings": run.info.settings,
    }
    _write(Path(folder) / METRICS, about | {"datasets": _records(metrics)})
    if spending:
        _write(Path(folder) / _USAGE, about | {"datasets": _records(spending)})
    return Summary(metrics, spending)


def _records(by_dataset: Mapping[str, Any]) -> dict[str, Any]:
    return {name: asdict(figures) for name, figures in by_dataset.items()}


def _write(path: Path, content: Mapping[str, Any]) -> None:
    fresh = path.with_suffix(".new")
    with writing(path):
        fresh.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
        fresh.replace(path)


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
    done = {name: len(results) + len(results.unreadable) for name, results in run.results.items()}
    found = [Unfinished(name, done.get(name, 0), count) for name, count in run.info.about["queries"].items()]
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


@dataclass(frozen=True, slots=True)
class Accuracy:
    """One accuracy of a run or of a publication."""

    top1: Percent
    interval: Interval | None = None  # Wilson, 95 %; None where it was not published
    count: int | None = None  # queries
    centred: str = ""  # how embeddings were centred; not empty means that the figure is transductive
    remarks: tuple[str, ...] = ()  # why it does not compare with what is published
    source: str = field(default="", compare=False)  # a publication, or a run's folder


@dataclass(frozen=True, slots=True, eq=False)
class Finished:
    """A run's settings and figures, as its ``metrics.json`` holds them."""

    folder: Path
    settings: Mapping[str, Any]
    embedder: str  # its name
    classes: int  # labels of the memory
    datasets: Mapping[str, Mapping[str, Any]]  # `Metrics` by data set, as JSON

    @property
    def items(self) -> int:
        """Pictures in the memory."""
        return int(self.settings["memory"]["items"])

    @property
    def memory_state(self) -> tuple[str, int]:
        """Which memory it was, and in which version."""
        return str(self.settings["memory"]["id"]), int(self.settings["memory"]["version"])

    @property
    def k(self) -> int:
        """Neighbours that voted."""
        return int(self.settings["k"])

    @property
    def centred(self) -> str:
        """As `RunInfo.centred`."""
        return str(self.settings.get("centre", ""))

    @property
    def memory(self) -> str:
        """What the memory is, for people."""
        return f"{self.embedder}, {counted(self.items, 'item')} of {counted(self.classes, 'class')}"

    @property
    def first_stage(self) -> str:
        """Everything that can change a vote, as a key."""
        kept = {
            name: setting
            for name, setting in self.settings.items()
            if name != "rerank" and not name.startswith("dataset ")
        }
        return json.dumps(kept, sort_keys=True)

    @property
    def voting(self) -> dict[str, Any]:
        """What of the first stage is the same for memories that are to be compared."""
        return {name: self.settings.get(name, "") for name in _VOTING}

    @property
    def second_stage(self) -> str:
        """Everything that can change a model's answers, as a key; empty where none was asked."""
        return json.dumps(self.settings["rerank"], sort_keys=True) if "rerank" in self.settings else ""

    @property
    def model(self) -> str:
        """The model that was asked; empty where none was."""
        return str(self.settings["rerank"]["model"]) if "rerank" in self.settings else ""

    def vote(self, dataset: str, method: str = DEFAULT_METHOD) -> Accuracy:
        """Return a vote's accuracy at the run's k."""
        figures = self.datasets[dataset]
        return self._accuracy(dataset, figures["top1"][method], figures["interval"][method])

    def nearest(self, dataset: str) -> Accuracy:
        """Return the accuracy of the nearest neighbour's label."""
        figures = self.datasets[dataset]
        top1, count = figures["top1_by_k"][DEFAULT_METHOD][0], figures["count"]
        return self._accuracy(dataset, top1, wilson_interval(round(top1 * count / 100), count))

    def masked(self, dataset: str) -> Accuracy | None:
        """Return the vote's accuracy where only the data set's subset of classes votes, if it has one."""
        figures = self.datasets[dataset]
        if figures["masked"] is None:
            return None
        return self._accuracy(dataset, figures["masked"][DEFAULT_METHOD], figures["masked_interval"][DEFAULT_METHOD])

    def masked_classes(self, dataset: str) -> int:
        """Return the size of that subset; 0 where there is none."""
        return int(self.datasets[dataset]["masked_classes"] or 0)

    def reranked(self, dataset: str) -> Accuracy | None:
        """Return the final answers' accuracy, if a model was asked."""
        second = self.datasets[dataset]["rerank"]
        return self._accuracy(dataset, second["top1"], second["interval"]) if second else None

    def _accuracy(self, dataset: str, top1: Percent, interval: Sequence[Percent]) -> Accuracy:
        low, high = interval
        figures = self.datasets[dataset]
        remarks = (
            lacks_pictures(dataset, figures["count"]),
            lacks_classes(figures["labels_not_in_memory"], figures["per_class"]),
        )
        return Accuracy(
            top1,
            (low, high),
            figures["count"],
            centred=self.centred,
            remarks=tuple(filter(None, remarks)),
            source=str(self.folder),
        )


def read_finished(folder: Path) -> Finished:
    """Return a run's figures.

    Raises:
        RunError: the folder holds no run with figures, one that is not finished, or a damaged one.
    """
    path = folder / METRICS
    try:
        content = parse_json(path.read_text("utf-8"))
        finished = Finished(
            folder, content["settings"], str(content["embedder"]), int(content["classes"]), content["datasets"]
        )
        unfinished = [Unfinished(**dataset) for dataset in content["unfinished"]]
        _look_at_everything(finished)
    except OSError as error:
        raise RunError(f"{folder} holds no figures ({METRICS}): give a run that `vmem eval run` finished") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise RunError(
            f"{path} is damaged, or another version's: `vmem eval report {folder}` writes it again"
        ) from error
    if unfinished:
        raise RunError(f"{folder} is {unfinished[0]}; the same `vmem eval run` goes on, and then its figures are final")
    return finished


def _look_at_everything(finished: Finished) -> list[object]:
    """Raise KeyError or the like now, where it can be said what is damaged."""
    readers = (finished.nearest, finished.masked, finished.masked_classes, finished.reranked)
    return [
        (finished.memory, finished.memory_state, finished.k, finished.model),
        *(finished.vote(dataset, method) for dataset in finished.datasets for method in METHODS),
        *(read(dataset) for dataset in finished.datasets for read in readers),
    ]


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
