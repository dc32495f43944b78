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


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the second stage made of a query."""

    label: str
    answer: str | None  # the model's own first choice, before any fusion; None where it gave none
    reason: str  # "code: sentence", as in `agent.classify`
    confidence: float | None
    prompt_tokens: int  # of calls that were made for it; those answered from the cache cost nothing
    cached_tokens: int  # of the prompt's, those that the service had cached
    reply_tokens: int  # thinking included
    calls: int  # that gave a reply
    calls_saved: int  # answered from the cache
    cost: float | None  # dollars; None where the price is not known

    @property
    def code(self) -> str:
        """The reason's code."""
        return self.reason.partition(":")[0]


@dataclass(frozen=True, slots=True, eq=False)
class QueryResults:
    """What a run found for the queries of one data set, in the order of its log."""

    ids: list[str]
    truths: list[frozenset[str]]
    neighbor_ids: Shaped[np.ndarray, "queries k"]
    neighbor_labels: Shaped[np.ndarray, "queries k"]
    neighbor_distances: Float[np.ndarray, "queries k"]
    unreadable: dict[str, str]  # id → reason, of pictures that could not be used; they do not count
    outcomes: list[Outcome] | None = None  # None where the vote alone decided

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class RerankMetrics:
    """What the second stage did to one data set; accuracies in percent of the answered queries."""

    top1: Percent  # of the final answers, fallbacks to the vote included
    interval: tuple[Percent, Percent]  # Wilson, 95 %
    vote_top1: Percent  # of rank voting on the same queries
    fixed: int  # queries that the vote got wrong and the final answer right
    broken: int  # the other way round
    reasons: dict[str, int]  # queries by the reason's code, most frequent first; "reranked" is the model's answer
    calls: int  # that gave a reply
    calls_saved: int  # answered from the cache
    prompt_tokens: int
    cached_tokens: int
    reply_tokens: int
    cost: float | None  # dollars; None where the price is not known


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
    rerank: RerankMetrics | None = None  # None where the vote alone decided
