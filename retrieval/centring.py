"""Domain centring: what all pictures of a domain share is taken off, so that what sets them apart remains.

Drawings lie in one corner of the embedding space, photographs in another. Taken from the mean of their own kind, both
point from a common origin, and a drawn dog lies nearer to a photographed one. The mean of the queries is a mean over
unlabelled pictures that are themselves to be classified, which makes the method transductive: figures with it are no
figures of a memory that sees one query at a time.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
from jaxtyping import Float

from retrieval.errors import InvalidArgument
from retrieval.types import Neighbors
from retrieval.vectors import centre, to_unit_vectors
from retrieval.view import DEFAULT_NEIGHBORS, MemoryView

CENTRES: Final = ("queries", "running")
_PRIOR_QUERIES: Final = 10  # the memory's mean counts as so many queries while a running mean has seen few
_ROWS_AT_A_TIME: Final = 4096  # of float64 running means


class CentredMemory:
    """A memory without its mean, for queries without theirs; it answers as `VisualMemory.search_vectors` does.

    Its index is built once for a version of the memory and kept beside the other one.
    """

    def __init__(self, memory: MemoryView) -> None:
        self._dimension = memory.settings.embedder.dimension
        self._items = len(memory)
        self._snapshot = memory.snapshot(centred=True)

    def __len__(self) -> int:
        return self._items

    @property
    def findable(self) -> int:
        """How many items a search can find: what was pruned away takes no part."""
        return self._snapshot.findable

    @property
    def mean(self) -> Float[np.ndarray, " dimension"]:
        """The mean of the memory's vectors, float64."""
        return self._snapshot.mean

    def search_vectors(
        self, vectors: Float[np.ndarray, "queries dimension"], *, k: int = DEFAULT_NEIGHBORS
    ) -> Neighbors:
        """Return the neighbours of vectors that `centre_queries` gave; see `VisualMemory.search_vectors`."""
        return self._snapshot.search(to_unit_vectors(vectors, dimension=self._dimension), k)


def centre_queries(
    vectors: Float[np.ndarray, "queries dimension"], how: str, *, memory_mean: Float[np.ndarray, " dimension"]
) -> Float[np.ndarray, "queries dimension"]:
    """Return the queries of one domain without their mean, as unit vectors.

    Args:
        vectors: unit vectors, in the order in which the queries come.
        how: ``queries``: less the mean of all. ``running``: each less the mean of itself and those before it, in which
            the memory's mean counts as ten queries, so that a stream can be answered as it comes.
        memory_mean: of the memory's vectors.

    Raises:
        InvalidArgument: no such way, or fewer than two queries, which have no mean to speak of.
    """
    if how not in CENTRES:
        raise InvalidArgument(f"--centre {how!r}: choose one of {', '.join(CENTRES)}")
    if how == "running":
        parts = list(_without_running_mean(vectors, memory_mean))
        return np.concatenate(parts) if parts else vectors
    if len(vectors) < 2:
        raise InvalidArgument(f"--centre queries takes the mean of the queries, and there is {len(vectors)}: give more")
    return centre(vectors, vectors.mean(axis=0, dtype=np.float64))


def _without_running_mean(
    vectors: Float[np.ndarray, "queries dimension"], memory_mean: Float[np.ndarray, " dimension"]
) -> Iterator[Float[np.ndarray, "some dimension"]]:
    total, seen = _PRIOR_QUERIES * memory_mean, _PRIOR_QUERIES
    for start in range(0, len(vectors), _ROWS_AT_A_TIME):
        some = vectors[start : start + _ROWS_AT_A_TIME]
        totals = total + np.cumsum(some, axis=0, dtype=np.float64)
        counts = seen + 1 + np.arange(len(some))
        yield centre(some, totals / counts[:, None])
        total, seen = totals[-1], int(counts[-1])
