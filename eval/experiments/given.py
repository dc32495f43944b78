"""What analyses are run on: a run, a neighbour file, or a memory with queries; searched and embedded once for all."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from eval.errors import RunError
from eval.experiments.base import Analysis, Neighborhoods
from eval.experiments.catalogue import Entry
from eval.experiments.material import MOST_NEIGHBORS, Material, gather
from eval.experiments.storage import OnDisk
from eval.experiments.taxonomy import Taxonomy
from eval.log_reader import read_run
from eval.neighbor_info import read_neighbors
from eval.types import Dataset
from retrieval.errors import ImageError, InvalidArgument
from retrieval.images import decode, thumbnail
from retrieval.memory import VisualMemory

_LONGEST_SIDE: Final = 224  # pixels of a query's picture in a plot


@dataclass(frozen=True, slots=True)
class Given:
    """One data set's queries with all that is known of them."""

    found: Neighborhoods
    material: Material | None = None  # None where there is no memory to search
    unknown: Neighborhoods | None = None  # queries whose labels the memory does not have
    unknown_material: Material | None = None
    others: tuple[Material, ...] = ()  # the same queries and items by further embedders
    offered: dict[str, Any] = field(default_factory=dict)  # for the analyses that have an option of the name

    def missing(self, entry: Entry) -> str:
        """Return what an analysis needs and is not there; empty where nothing is."""
        if entry.needs == "material" and self.material is None:
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
        function, subjects = entry.load(), self._subjects(entry)
        taken = list(inspect.signature(function).parameters.values())
        if taken[0].kind is inspect.Parameter.VAR_POSITIONAL:
            subjects += self.others
        offered = self.offered | {"material": self.material, "unknown": self.unknown_material}
        named = {parameter.name for parameter in taken if parameter.kind is inspect.Parameter.KEYWORD_ONLY}
        return function(*subjects, **{name: offered[name] for name in named & offered.keys()})

    def _subjects(self, entry: Entry) -> tuple[Any, ...]:
        if entry.needs == "material":
            return (self.material,)
        return (self.found, self.unknown) if entry.needs == "two" else (self.found,)


def from_run(folder: Path, *, k: int | None = MOST_NEIGHBORS, unknown: str | None = None) -> list[Given]:
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
    return [Given(one, unknown=other) for one in found.values()]


def from_file(path: Path, *, k: int = MOST_NEIGHBORS, unknown: Path | None = None) -> Given:
    """Return the queries of a neighbour file, JSON or Parquet; those with no right label are left out.

    Raises:
        NeighborFileError: it is none, or a damaged one.
    """
    other = read_neighbors(unknown).nearest(k) if unknown else None
    return Given(read_neighbors(path).nearest(k), unknown=other)


def from_memory(
    memory: VisualMemory,
    name: str,
    dataset: Dataset,
    *,
    k: int = MOST_NEIGHBORS,
    unknown: Material | None = None,
    others: Sequence[VisualMemory] = (),
    taxonomy: Taxonomy | None = None,
) -> Given:
    """Return a data set's queries searched in a memory, for all analyses.

    Raises:
        EmbedderError: the memory's embedder cannot be had.
        InvalidArgument: the data set holds no usable picture.
    """
    material = gather(memory, name, dataset)
    if not material.query_ids:
        raise InvalidArgument(f"--dataset {name} holds no usable picture: give another folder")
    return Given(
        material.neighbors(k),
        material,
        unknown.neighbors(k) if unknown else None,
        unknown,
        tuple(gather(other, name, dataset) for other in others),
        {
            "pictures": memory.thumbnails,
            "query_pictures": _reader(dataset),
            "on_disk": OnDisk.of(memory),
            **({"taxonomy": taxonomy} if taxonomy else {}),
        },
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
