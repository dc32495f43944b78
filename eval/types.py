"""What an evaluation reads and writes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from retrieval.images import ImageLike

Percent = float


@dataclass(frozen=True, slots=True)
class Sample:
    """A query with the labels that count as right for it."""

    id: str
    image: ImageLike
    labels: frozenset[str]  # a set, since some data sets allow several; any of them is right


@dataclass(frozen=True, slots=True, eq=False)
class QueryResults:
    """What a run found for the queries of one data set, in the order of its log."""

    ids: list[str]
    truths: list[frozenset[str]]
    neighbor_ids: Shaped[np.ndarray, "queries k"]
    neighbor_labels: Shaped[np.ndarray, "queries k"]
    neighbor_distances: Float[np.ndarray, "queries k"]
    unreadable: dict[str, str]  # id → reason, of pictures that could not be used; they do not count

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Metrics:
    """One data set's figures; all accuracies in percent of ``count``."""

    count: int  # queries that were answered
    unreadable: int  # queries left out because their pictures could not be used
    top1: dict[str, Percent]  # by voting method, at the run's k
    interval: dict[str, tuple[Percent, Percent]]  # Wilson, 95 %
    hit_rate: Percent  # queries with a right label among their neighbours: the ceiling of any reranking
    top1_by_k: dict[str, list[Percent]]  # by voting method, for k = 1, 2, …
    per_class: dict[str, dict[str, Any]]  # true label → count and accuracy by voting method
    labels_not_in_memory: list[str]  # true labels that no answer can have
