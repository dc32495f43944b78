"""A memory and queries as vectors, for analyses that vary the memory: embedded once, searched once, then masked."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Int

from eval.types import Dataset, Names, Neighborhoods, QueryResults, Sample
from retrieval.curation.pruning import other_places
from retrieval.errors import InvalidArgument
from retrieval.indexes import build_index
from retrieval.indexes.base import ArrayBlocks, Index
from retrieval.indexes.exact import ExactIndex
from retrieval.support.terminal import track
from retrieval.view import MemoryView
from retrieval.voting import encode_labels

MOST_NEIGHBORS: Final = 100  # as in the paper's figures
WIDE: Final = 500  # neighbours searched once: a mask that keeps a third of a memory mostly finds 100 among them
_QUERIES_AT_A_TIME: Final = 4096  # whose wide neighbours are looked through together


@dataclass(frozen=True, slots=True)
class Embedded:
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
            if wider:
                self._found[k] = self._found[wider].nearest(k)
            else:
                results = self._results(*self.search(self.queries, k))
                self._found[k] = Neighborhoods(self.name, self.embedder, results)
        return self._found[k]

    def search(
        self, vectors: Float[np.ndarray, "queries dimension"], k: int
    ) -> tuple[Int[np.ndarray, "queries k"], Float[np.ndarray, "queries k"]]:
        """Return the rows and cosine distances of any unit vectors' neighbours; the index is built once."""
        if not self._index:
            self._index.append(build_index("auto", self.vectors))
        return self._index[0].search(vectors, min(k, len(self.item_ids)))

    def neighbors_within(self, kept: Bool[np.ndarray, " items"], *, k: int = MOST_NEIGHBORS) -> QueryResults:
        """Return what the queries would find in a memory of the kept items alone, without building it.

        Neighbours in the whole memory are looked through for kept ones; queries for which too few are among them are
        compared with the kept items. k is clipped to the number of these. Where the index of the whole memory is exact,
        so is the answer, ties included.

        Raises:
            InvalidArgument: no item is kept.
        """
        items = np.flatnonzero(kept)
        if not len(items):
            raise InvalidArgument("no item of the memory is kept: leave at least one in it")
        k = min(k, len(items))
        wide = self.neighbors(max(WIDE, k)).results
        rows, distances = np.empty((len(wide), k), np.int64), np.empty((len(wide), k), np.float32)
        short = np.ones(len(wide), bool)
        for some, columns in _kept_columns(wide.neighbor_ids.codes, kept, k):
            short[some] = False
            rows[some] = np.take_along_axis(wide.neighbor_ids.codes[some], columns, axis=1)
            distances[some] = np.take_along_axis(wide.neighbor_distances[some], columns, axis=1)
        if short.any():
            found, distances[short] = ExactIndex.build(ArrayBlocks(self.vectors[items])).search(self.queries[short], k)
            rows[short] = items[found]
        return self._results(rows, distances)

    def with_queries_of(self, unknown: "Embedded") -> "tuple[Embedded, Int[np.ndarray, ' queries']]":
        """Return a memory with another's queries among its items and queries, and each query's own row; -1 for none.

        Queries with several right labels, or none, are left out: an item has one.

        Raises:
            InvalidArgument: other embedders, a label or an id that is there already, or nothing to insert.
        """
        if self.embedder != unknown.embedder:
            raise InvalidArgument(f"vectors of {self.embedder} and of {unknown.embedder} cannot be compared: use one")
        inserted = [query for query, truth in enumerate(unknown.truths) if len(truth) == 1]
        labels = [min(unknown.truths[query]) for query in inserted]
        ids = [f"{unknown.name}/{unknown.query_ids[query]}" for query in inserted]
        if not labels:
            raise InvalidArgument("no query has exactly one right label: there is nothing to insert")
        for kind, there, new in (("label", self.label_names, labels), ("id", self.item_ids, ids)):
            if both := set(there) & set(new):
                raise InvalidArgument(f"{kind} {min(both)!r} is in the memory already: insert what is new to it")
        new_names = sorted(set(labels))
        codes = {name: len(self.label_names) + place for place, name in enumerate(new_names)}
        vectors = unknown.queries[inserted]
        joined = Embedded(
            name=f"{self.name} with {unknown.name}",
            embedder=self.embedder,
            item_ids=self.item_ids + ids,
            vectors=np.concatenate([self.vectors, vectors]),
            labels=np.concatenate([self.labels, [codes[label] for label in labels]]),
            label_names=self.label_names + new_names,
            query_ids=self.query_ids + ids,
            queries=np.concatenate([self.queries, vectors]),
            truths=self.truths + [frozenset([label]) for label in labels],
        )
        rows = np.arange(len(ids)) + len(self.item_ids)
        return joined, np.concatenate([np.full(len(self.query_ids), -1), rows])

    def _results(self, rows: Int[np.ndarray, "queries k"], distances: Float[np.ndarray, "queries k"]) -> QueryResults:
        ids, labels = Names(rows, self.item_ids), Names(self.labels[rows], self.label_names)
        return QueryResults(self.query_ids, self.truths, ids, labels, distances, {})


def embed(memory: MemoryView, name: str, dataset: Dataset, *, progress: bool = True) -> Embedded:
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
    return Embedded(
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
