"""A memory and queries as vectors, for analyses that vary the memory: embedded once, searched once."""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from jaxtyping import Float, Int

from eval.experiments.base import Neighborhoods
from eval.types import Dataset, Names, QueryResults, Sample
from retrieval.indexes import build_index
from retrieval.indexes.base import Index
from retrieval.progress import track
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
