"""A memory and queries as vectors, for analyses that vary the memory: embedded once, searched once."""

import csv
import inspect
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Float, Int

from eval.experiments.base import Analysis, Neighborhoods
from eval.experiments.catalogue import Entry
from eval.neighbors import read_neighbors
from eval.runs.log import read_run
from eval.types import Dataset, Names, QueryResults, RunError, Sample
from retrieval.curation.pruning import other_places
from retrieval.errors import ImageError, InvalidArgument
from retrieval.images import decode, thumbnail
from retrieval.indexes import build_index
from retrieval.indexes.base import ArrayBlocks, Index
from retrieval.indexes.exact import ExactIndex
from retrieval.labels import composed
from retrieval.memory import VisualMemory
from retrieval.support.cachedir import folder_bytes
from retrieval.support.terminal import track
from retrieval.view import MemoryView
from retrieval.voting import encode_labels

MOST_NEIGHBORS: Final = 100  # as in the paper's figures


@dataclass(frozen=True, slots=True)
class Material:
    """A memory's items and the queries of one data set."""

    name: str  # of the data set
    embedder: str
    item_ids: list[str]
    vectors: Float[np.ndarray, "items dimension"]  # of the memory, of length 1
    labels: Int[np.ndarray, " items"]  # numbers of label_names
    label_names: list[str]
    query_ids: list[str]
    queries: Float[np.ndarray, "queries dimension"]  # of length 1
    truths: list[frozenset[str]]
    _found: dict[int, Neighborhoods] = field(default_factory=dict, repr=False)
    _index: list[Index] = field(default_factory=list, repr=False)  # over all items, once it is built

    def neighbors(self, k: int = MOST_NEIGHBORS) -> Neighborhoods:
        """Return the queries' neighbours among all items; a smaller k is cut from a greater one that was searched."""
        k = min(k, len(self.item_ids))
        if k not in self._found:
            wider = min((found for found in self._found if found > k), default=None)
            self._found[k] = self._found[wider].nearest(k) if wider else self._searched(k)
        return self._found[k]

    def search(
        self, vectors: Float[np.ndarray, "queries dimension"], k: int
    ) -> tuple[Int[np.ndarray, "queries k"], Float[np.ndarray, "queries k"]]:
        """Return the rows and cosine distances of any unit vectors' neighbours; the index is built once."""
        if not self._index:
            self._index.append(build_index("auto", self.vectors))
        return self._index[0].search(vectors, min(k, len(self.item_ids)))

    def _searched(self, k: int) -> Neighborhoods:
        rows, distances = self.search(self.queries, k)
        return Neighborhoods(self.name, self.embedder, self._results(rows, distances))

    def _results(self, rows: Int[np.ndarray, "queries k"], distances: Float[np.ndarray, "queries k"]) -> QueryResults:
        ids, labels = Names(rows, self.item_ids), Names(self.labels[rows], self.label_names)
        return QueryResults(self.query_ids, self.truths, ids, labels, distances, {})


def gather(memory: MemoryView, name: str, dataset: Dataset, *, progress: bool = True) -> Material:
    """Return a memory's vectors and those of a data set's queries; features that are cached are not computed again.

    All its items count fully: a pruning of the memory itself plays no part where an analysis varies the memory.

    Raises:
        EmbedderError: the memory's embedder cannot be had.
    """
    samples: list[Sample] = []
    parts = [np.empty((0, memory.settings.embedder.dimension), np.float32)]
    queue = track(dataset.samples, f"Embedding {name}", total=len(dataset.samples), shown=progress)
    for batch in memory.embed_stream(queue, image_of=Sample.picture):
        samples += batch.items
        parts.append(batch.vectors)
    snapshot = memory.snapshot()
    labels, label_names = encode_labels(snapshot.labels[:, None])
    return Material(
        name=name,
        embedder=memory.settings.embedder.name,
        item_ids=snapshot.ids.tolist(),
        vectors=snapshot.vectors(),
        labels=labels[:, 0],
        label_names=label_names,
        query_ids=[sample.id for sample in samples],
        queries=np.concatenate(parts),
        truths=[sample.labels for sample in samples],
    )


WIDE: Final = 500  # neighbours searched once: a mask that keeps a third of a memory mostly finds 100 among them
_QUERIES_AT_A_TIME: Final = 4096  # whose wide neighbours are looked through together


def neighbors_within(material: Material, kept: Bool[np.ndarray, " items"], *, k: int = MOST_NEIGHBORS) -> QueryResults:
    """Return what the queries would find in a memory of the kept items alone, without building it.

    Neighbours in the whole memory are looked through for kept ones; queries for which too few are among them are
    compared with the kept items. k is clipped to the number of these. Where the index of the whole memory is exact, so
    is the answer, ties included.

    Raises:
        InvalidArgument: no item is kept.
    """
    items = np.flatnonzero(kept)
    if not len(items):
        raise InvalidArgument("no item of the memory is kept: leave at least one in it")
    k = min(k, len(items))
    wide = material.neighbors(max(WIDE, k)).results
    rows, distances = np.empty((len(wide), k), np.int64), np.empty((len(wide), k), np.float32)
    short = np.ones(len(wide), bool)
    for some, columns in _kept_columns(wide.neighbor_ids.codes, kept, k):
        short[some] = False
        rows[some] = np.take_along_axis(wide.neighbor_ids.codes[some], columns, axis=1)
        distances[some] = np.take_along_axis(wide.neighbor_distances[some], columns, axis=1)
    if short.any():
        found, distances[short] = ExactIndex.build(ArrayBlocks(material.vectors[items])).search(
            material.queries[short], k
        )
        rows[short] = items[found]
    labels = Names(material.labels[rows], material.label_names)
    return QueryResults(material.query_ids, material.truths, Names(rows, material.item_ids), labels, distances, {})


def _kept_columns(
    rows: Int[np.ndarray, "queries wide"], kept: Bool[np.ndarray, " items"], k: int
) -> Iterator[tuple[Int[np.ndarray, " some"], Int[np.ndarray, "some k"]]]:
    """Yield queries with at least k kept neighbours, and in which columns their nearest k stand."""
    for start in range(0, len(rows), _QUERIES_AT_A_TIME):
        reached = np.cumsum(stays := kept[rows[start : start + _QUERIES_AT_A_TIME]], axis=1, dtype=np.int32)
        enough = np.flatnonzero(reached[:, -1] >= k)
        first = stays[enough] & (reached[enough] <= k)
        yield start + enough, np.nonzero(first)[1].reshape(len(enough), k)


def class_order(labels: Int[np.ndarray, " items"], random: np.random.Generator) -> Int[np.ndarray, " items"]:
    """Return each item's place, from 0, in a random order of its class: those below n are n items a class, nested."""
    shuffled = random.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    starts = np.cumsum(counts := np.bincount(labels)) - counts
    places = np.empty(len(labels), np.int64)
    places[by_class] = np.arange(len(labels)) - np.repeat(starts, counts)
    return places


def insert_queries(material: Material, unknown: Material) -> tuple[Material, Int[np.ndarray, " queries"]]:
    """Return a memory with another's queries among its items and its own queries, and each query's row; -1 for none.

    Queries with several right labels, or none, are left out: an item has one.

    Raises:
        InvalidArgument: other embedders, a label or an id that is there already, or nothing to insert.
    """
    if material.embedder != unknown.embedder:
        raise InvalidArgument(f"vectors of {material.embedder} and of {unknown.embedder} cannot be compared: use one")
    inserted = [query for query, truth in enumerate(unknown.truths) if len(truth) == 1]
    labels = [min(unknown.truths[query]) for query in inserted]
    ids = [f"{unknown.name}/{unknown.query_ids[query]}" for query in inserted]
    _check(material, labels, ids)
    new_names = sorted(set(labels))
    codes = {name: len(material.label_names) + place for place, name in enumerate(new_names)}
    vectors = unknown.queries[inserted]
    joined = Material(
        name=f"{material.name} with {unknown.name}",
        embedder=material.embedder,
        item_ids=material.item_ids + ids,
        vectors=np.concatenate([material.vectors, vectors]),
        labels=np.concatenate([material.labels, [codes[label] for label in labels]]),
        label_names=material.label_names + new_names,
        query_ids=material.query_ids + ids,
        queries=np.concatenate([material.queries, vectors]),
        truths=material.truths + [frozenset([label]) for label in labels],
    )
    rows = np.arange(len(ids)) + len(material.item_ids)
    return joined, np.concatenate([np.full(len(material.query_ids), -1), rows])


def _check(material: Material, labels: list[str], ids: list[str]) -> None:
    if not labels:
        raise InvalidArgument("no query has exactly one right label: there is nothing to insert")
    for kind, there, new in (("label", material.label_names, labels), ("id", material.item_ids, ids)):
        if both := set(there) & set(new):
            raise InvalidArgument(f"{kind} {min(both)!r} is in the memory already: insert what is new to it")


def without_own(results: QueryResults, own: Int[np.ndarray, " queries"]) -> QueryResults:
    """Return one neighbour fewer of each query: without its own item, else without the farthest."""
    others = other_places(results.neighbor_ids.codes, own)
    shape = (len(results), max(results.k - 1, 0))
    ids, labels = results.neighbor_ids, results.neighbor_labels
    return replace(
        results,
        neighbor_ids=Names(ids.codes[others].reshape(shape), ids.names),
        neighbor_labels=Names(labels.codes[others].reshape(shape), labels.names),
        neighbor_distances=results.neighbor_distances[others].reshape(shape),
    )


_INATURALIST: Final = re.compile(r"\d{5}_([^_]+)_([^_]+)_([^_]+)_([^_]+)_([^_]+)_([^_]+)_[^_]+")
_INATURALIST_LEVELS: Final = ("kingdom", "phylum", "class", "order", "family", "genus", "species")


@dataclass(frozen=True, slots=True)
class Taxonomy:
    """A tree with labels for leaves."""

    levels: tuple[str, ...]  # from coarse to fine; the last is the label itself
    groups: dict[str, tuple[str, ...]]  # of each label, one name for each level but the last

    def codes(self, labels: Iterable[str]) -> Int[np.ndarray, "labels levels"]:
        """Return the number of each label's group at each level; groups of one name under different parents differ.

        Raises:
            InvalidArgument: a label that is not in the taxonomy.
        """
        numbers: dict[tuple[str, ...], int] = {}
        rows = []
        for label in labels:
            if label not in self.groups:
                raise InvalidArgument(f"the taxonomy does not hold {label!r}: give it a line")
            path = (*self.groups[label], label)
            ends = range(1, len(path) + 1)
            rows.append([numbers.setdefault(path[:end], len(numbers)) for end in ends])
        return np.array(rows, np.int64).reshape(-1, len(self.levels))


def inaturalist_taxonomy(labels: Iterable[str]) -> Taxonomy:
    """Return the seven levels that iNaturalist 2021 writes into its folders' names.

    ``00000_Animalia_Annelida_Clitellata_Haplotaxida_Lumbricidae_Lumbricus_terrestris``: kingdom to species.

    Raises:
        InvalidArgument: a label of another form.
    """
    groups = {}
    for label in labels:
        found = _INATURALIST.fullmatch(label)
        if found is None:
            raise InvalidArgument(
                f"{label!r} does not name its taxa as iNaturalist's folders do: give a taxonomy as a CSV file"
            )
        groups[label] = found.groups()
    return Taxonomy(_INATURALIST_LEVELS, groups)


def read_taxonomy(path: Path) -> Taxonomy:
    """Return a taxonomy from a CSV file: a line of headings, then each label with its groups from coarse to fine.

    The headings name the levels, the label's own first: ``species,kingdom,family`` has species as its finest.

    Raises:
        InvalidArgument: the file cannot be read, has no level beside the label, an incomplete line or a label twice.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            heading, *rows = [row for row in csv.reader(lines) if row]
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as failure:
        raise InvalidArgument(f"{path} is no taxonomy: a CSV file with label,level,level… expected") from failure
    groups: dict[str, tuple[str, ...]] = {}
    for row in ([composed(cell) for cell in row] for row in rows):
        if len(heading) < 2 or len(row) != len(heading) or not all(row):
            raise InvalidArgument(f"{path}: the line of {row[0]!r} must have {max(2, len(heading))} filled cells")
        if row[0] in groups:
            raise InvalidArgument(f"{path} has {row[0]!r} twice: give each label one line")
        groups[row[0]] = tuple(row[1:])
    if not groups:
        raise InvalidArgument(f"{path} holds no label: one line each expected, below the headings")
    return Taxonomy((*heading[1:], heading[0]), groups)


@dataclass(frozen=True, slots=True)
class OnDisk:
    """The sizes of a memory's real files, in bytes; None where one is not there or not known."""

    table: int | None = None  # with float16 vectors, ids, labels and thumbnails
    index: int | None = None  # saved beside it
    pictures: int | None = None  # the files that the memory was built from

    @classmethod
    def of(cls, memory: VisualMemory) -> "OnDisk":
        """Return the sizes of a memory's files; those of its pictures where each still lies where it came from."""
        table, index = folder_bytes(memory.path / "items.lance"), folder_bytes(memory.path / "index")
        return cls(table or None, index or None, _bytes_of(Path(memory.settings.built_from), memory))


def _bytes_of(folder: Path, memory: VisualMemory) -> int | None:
    if not memory.settings.built_from or not folder.is_dir():
        return None
    try:
        return sum(os.path.getsize(folder / name) for name in memory.snapshot().ids.tolist())
    except (OSError, ValueError):  # ValueError: an id with a null byte
        return None


def feature_bytes(items: int, dimension: int, *, bytes_a_number: int) -> int:
    """Return what features take, without ids and labels."""
    return items * dimension * bytes_a_number


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
