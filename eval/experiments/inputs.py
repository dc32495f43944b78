"""What the analyses are given: from a run, from a file of neighbours, or from a memory and data sets."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from eval.experiments.base import Analysis, Entry
from eval.experiments.embedded import MOST_NEIGHBORS, Embedded, embed
from eval.experiments.granularity import Taxonomy
from eval.experiments.latency_storage import OnDisk
from eval.neighbors import read_neighbors
from eval.runs.log import read_run
from eval.types import Dataset, Neighborhoods, RunError
from retrieval.errors import ImageError, InvalidArgument
from retrieval.images import decode, thumbnail
from retrieval.memory import VisualMemory

_LONGEST_SIDE: Final = 224  # pixels of a query's picture in a plot


@dataclass(frozen=True, slots=True)
class Inputs:
    """One data set's queries with all that is known of them."""

    found: Neighborhoods
    embedded: Embedded | None = None  # None where there is no memory to search
    unknown: Neighborhoods | None = None  # queries whose labels the memory does not have
    unknown_embedded: Embedded | None = None
    further: tuple[Embedded, ...] = ()  # the same queries and items by further embedders
    offered: dict[str, Any] = field(default_factory=dict)  # for the analyses that have an option of the name

    def missing(self, entry: Entry) -> str:
        """Return what an analysis needs and is not there; empty where nothing is."""
        if entry.needs == "memory" and self.embedded is None:
            return "it varies the memory: give --memory M --dataset NAME=PATH"
        if entry.needs == "two" and self.unknown is None:
            return "it compares two sets of queries: give --unknown"
        return ""

    def analyse(self, entry: Entry) -> Analysis:
        """Run one analysis.

        Raises:
            InvalidArgument: something that it needs is missing, or its input is too small for it.
        """
        if why := self.missing(entry):
            raise InvalidArgument(f"{entry.name}: {why}")
        subjects: dict[str, tuple[Any, ...]] = {
            "neighbors": (self.found,),
            "two": (self.found, self.unknown),
            "memory": (self.embedded,),
        }
        taken = inspect.signature(entry.function).parameters.values()
        several = any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in taken)
        options = self.offered | {"embedded": self.embedded, "unknown": self.unknown_embedded}
        named = {parameter.name for parameter in taken if parameter.kind is inspect.Parameter.KEYWORD_ONLY}
        return entry.function(
            *subjects[entry.needs],
            *(self.further if several else ()),
            **{name: options[name] for name in named & options.keys()},
        )


def from_run(folder: Path, *, k: int | None = MOST_NEIGHBORS, unknown: str | None = None) -> list[Inputs]:
    """Return a run's data sets, with their nearest k neighbours.

    Args:
        folder: of the run.
        k: how many neighbours at most; None: all.
        unknown: the name of its data set whose labels the memory does not have.

    Raises:
        RunError: it holds none, a damaged one, or one that has answered nothing.
        InvalidArgument: it has no data set of that name, or no other.
    """
    run = read_run(folder)
    embedder = str(run.info.about["embedder"])
    found = {
        name: Neighborhoods(name, embedder, results).nearest(k or results.k)
        for name, results in run.results.items()
        if len(results)
    }
    if not found:
        raise RunError(f"{folder} has answered no query yet: run the same `vmem eval run` again")
    if unknown is not None and unknown not in found:
        raise InvalidArgument(f"--unknown {unknown!r}: the run has {', '.join(found)}")
    other = found.pop(unknown) if unknown is not None else None
    if not found:
        raise InvalidArgument(f"--unknown {unknown!r} is the run's only data set: there is nothing to compare it with")
    return [Inputs(one, unknown=other) for one in found.values()]


def from_file(path: Path, *, k: int = MOST_NEIGHBORS, unknown: Path | None = None) -> Inputs:
    """Return the queries of a neighbour file, JSON or Parquet; those with no right label are left out.

    Raises:
        NeighborFileError: it is none, or a damaged one.
    """
    other = read_neighbors(unknown).nearest(k) if unknown else None
    return Inputs(read_neighbors(path).nearest(k), unknown=other)


def from_memory(
    memory: VisualMemory,
    name: str,
    dataset: Dataset,
    *,
    k: int = MOST_NEIGHBORS,
    unknown: Embedded | None = None,
    further: Sequence[VisualMemory] = (),
    taxonomy: Taxonomy | None = None,
) -> Inputs:
    """Return a data set's queries searched in a memory, for all analyses.

    Raises:
        EmbedderError: the memory's embedder cannot be had.
        InvalidArgument: the data set holds no usable picture.
    """
    embedded = embed(memory, name, dataset)
    if not embedded.query_ids:
        raise InvalidArgument(f"--dataset {name} holds no usable picture: give another folder")
    offered = {
        "pictures": memory.thumbnails,
        "query_pictures": _reader(dataset),
        "on_disk": OnDisk.of(memory),
        "taxonomy": taxonomy,
    }
    return Inputs(
        embedded.neighbors(k),
        embedded,
        unknown.neighbors(k) if unknown else None,
        unknown,
        tuple(embed(other, name, dataset) for other in further),
        offered,
    )


def _reader(dataset: Dataset) -> Callable[[Sequence[str]], list[bytes | None]]:
    samples = {sample.id: sample for sample in dataset.samples}

    def read(ids: Sequence[str]) -> list[bytes | None]:
        pictures: list[bytes | None] = []
        for query in ids:
            try:
                pictures.append(thumbnail(decode(samples[query].picture()), longest_side=_LONGEST_SIDE))
            except (KeyError, ImageError):
                pictures.append(None)
        return pictures

    return read
