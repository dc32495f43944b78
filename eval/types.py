"""What an evaluation reads and writes."""

from array import array
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from retrieval.errors import VisualMemoryError
from retrieval.images import ImageLike

Percent = float
Interval = tuple[Percent, Percent]


@runtime_checkable
class StoredPicture(Protocol):
    """A picture inside an archive or a table, read when it is needed, by any number of threads at once."""

    @property
    def fingerprint(self) -> str:
        """What tells it from another picture in its place, without reading it."""
        ...

    def read(self) -> bytes:
        """Return the encoded picture.

        Raises:
            ImageError: it cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True)
class Sample:
    """A query with the labels that count as right for it."""

    id: str
    image: ImageLike | StoredPicture
    labels: frozenset[str]  # a set, since some data sets allow several; any of them is right

    def picture(self) -> ImageLike:
        """Return the picture, read from its archive where it lies in one.

        Raises:
            ImageError: it cannot be read.
        """
        return self.image.read() if isinstance(self.image, StoredPicture) else self.image


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Queries that are scored together."""

    samples: Sequence[Sample]
    subset: frozenset[str] | None = None  # the classes to which masked scoring is restricted, as for ImageNet-A and R
    excluded: int = 0  # pictures left out because no label is right for them, as ReaL's empty lists


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
    full_cost: float | None  # dollars that it costs where nothing is cached; None where that is not known
    seconds: tuple[float, ...]  # that each call took

    @property
    def code(self) -> str:
        """The reason's code."""
        return self.reason.partition(":")[0]


@dataclass(frozen=True, slots=True, eq=False)
class Names:
    """A table of names as numbers, because the same names stand in it millions of times."""

    codes: Int[np.ndarray, "queries k"]
    names: list[str]  # by number

    def of(self, query: int) -> list[str]:
        """Return the names in one row."""
        return [self.names[code] for code in self.codes[query].tolist()]


class NeighborColumns:
    """Neighbours as they are gathered query by query, into tables of names, distances and reliabilities."""

    def __init__(self, distances: str) -> None:
        """Begin with none; ``distances``: the type code of `array.array` for them."""
        self.lengths = array("q")
        self._ids, self._labels = array("i"), array("i")
        self._distances: array[float] = array(distances)
        self._reliabilities = array("f")  # empty while all are 1
        self._id_numbers: defaultdict[str, int] = defaultdict(count().__next__)
        self._label_numbers: defaultdict[str, int] = defaultdict(count().__next__)

    def add(
        self,
        ids: Iterable[Any],
        labels: Iterable[Any],
        distances: Sequence[Any],
        reliabilities: Sequence[Any] | None = None,
    ) -> None:
        """Add a query's neighbours, nearest first; reliabilities of None are all 1.

        Raises:
            TypeError, OverflowError: what came from a file is no number.
        """
        if reliabilities is not None and not self._reliabilities:
            self._reliabilities = array("f", [1.0]) * len(self._distances)
        if reliabilities is not None or self._reliabilities:
            self._reliabilities.extend(reliabilities or [1.0] * len(distances))
        self._ids.extend(map(self._id_numbers.__getitem__, ids))
        self._labels.extend(map(self._label_numbers.__getitem__, labels))
        self._distances.extend(distances)
        self.lengths.append(len(distances))

    def tables(self, rows: Sequence[int] | slice = slice(None)) -> dict[str, Any]:
        """Return the fields of `QueryResults` for some queries, as many neighbours of each as the shortest has."""
        return {
            "neighbor_ids": Names(self._table(self._ids)[rows], list(self._id_numbers)),
            "neighbor_labels": Names(self._table(self._labels)[rows], list(self._label_numbers)),
            "neighbor_distances": self._table(self._distances)[rows],
            "reliabilities": self._table(self._reliabilities)[rows] if self._reliabilities else None,
        }

    def _table(self, values: "array[Any]") -> np.ndarray:
        flat = np.frombuffer(values, values.typecode) if len(values) else np.empty(0, values.typecode)
        lengths = np.array(self.lengths)
        shortest = int(lengths.min()) if len(lengths) else 0
        if len(flat) == shortest * len(lengths):
            return flat.reshape(len(lengths), shortest)
        starts = np.cumsum(lengths) - lengths
        cut: np.ndarray = flat[starts[:, None] + np.arange(shortest)]
        return cut


@dataclass(frozen=True, slots=True, eq=False)
class QueryResults:
    """What a run found for the queries of one data set, in the order of its log."""

    ids: list[str]
    truths: list[frozenset[str]]
    neighbor_ids: Names
    neighbor_labels: Names
    neighbor_distances: Float[np.ndarray, "queries k"]
    unreadable: dict[str, str]  # id → reason, of pictures that could not be used; they do not count
    outcomes: list[Outcome] | None = None  # None where the vote alone decided
    places: Sequence[int] = ()  # where each query's line begins in the log, in bytes
    reliabilities: Float[np.ndarray, "queries k"] | None = None  # factors of the neighbours' votes; None: all 1

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def k(self) -> int:
        """Neighbours per query."""
        return int(self.neighbor_distances.shape[1])

    def factors(self, place: Any) -> Float[np.ndarray, "some k"] | None:  # noqa: ANN401 - whatever indexes an array
        """Return the reliabilities in some places of the table, such as rows; None: all 1."""
        return None if self.reliabilities is None else self.reliabilities[place]

    def of_queries(self, rows: list[int]) -> "QueryResults":
        """Return some of the queries, without what the second stage made of them."""
        return QueryResults(
            ids=[self.ids[row] for row in rows],
            truths=[self.truths[row] for row in rows],
            neighbor_ids=Names(self.neighbor_ids.codes[rows], self.neighbor_ids.names),
            neighbor_labels=Names(self.neighbor_labels.codes[rows], self.neighbor_labels.names),
            neighbor_distances=self.neighbor_distances[rows],
            unreadable={},
            reliabilities=self.factors(rows),
        )

    def nearest(self, k: int) -> "QueryResults":
        """Return the same queries with their nearest k neighbours at most."""
        return replace(
            self,
            neighbor_ids=Names(self.neighbor_ids.codes[:, :k], self.neighbor_ids.names),
            neighbor_labels=Names(self.neighbor_labels.codes[:, :k], self.neighbor_labels.names),
            neighbor_distances=self.neighbor_distances[:, :k],
            reliabilities=self.factors(np.s_[:, :k]),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Neighborhoods:
    """The neighbours of one set of queries, from a run, a neighbour file or a search: all that most analyses need."""

    name: str  # of the data set
    embedder: str
    results: QueryResults

    def nearest(self, k: int | None) -> "Neighborhoods":
        """Return the same queries with their nearest k neighbours at most; None keeps all."""
        return self if k is None else replace(self, results=self.results.nearest(k))


@dataclass(frozen=True, slots=True)
class Calibration:
    """How well a confidence tells accuracy, over 15 bins of equal width from 0 to 1 (Guo et al., 2017)."""

    ece: Percent  # expected calibration error: |accuracy - confidence| averaged over queries by bin
    counts: list[int]  # queries in each bin
    confidence: list[Percent | None]  # mean in each bin; None for an empty one
    accuracy: list[Percent | None]


@dataclass(frozen=True, slots=True)
class GateCurve:
    """What a gate on the vote's margin would have made of a run: the model is asked below the threshold only.

    Points run from asking nobody to asking everybody that this run asked.
    """

    margin: list[float]  # thresholds
    asked: list[Percent]  # of the queries
    top1: list[Percent]
    cost: list[float | None]  # dollars for all the data set's queries without a reply cache; None where not known


@dataclass(frozen=True, slots=True)
class RerankMetrics:
    """What the second stage did to one data set; accuracies in percent of the answered queries."""

    top1: Percent  # of the final answers, fallbacks to the vote included
    interval: Interval  # Wilson, 95 %
    bootstrap: Interval  # 95 %
    macro: Percent  # mean over the classes
    vote_top1: Percent  # of rank voting on the same queries
    efficiency: float | None  # (top1 - vote) / (hit rate - vote): the part of what reranking can gain; None: nothing
    fixed: int  # queries that the vote got wrong and the final answer right
    broken: int  # the other way round
    unchanged_right: int  # both right
    unchanged_wrong: int  # both wrong
    reasons: dict[str, int]  # queries by the reason's code, most frequent first; "reranked" is the model's answer
    out_of_candidates: int  # of them, replies that named no candidate or were no answer at all
    errors: int  # of them, those that a failure left to the vote
    calibration: Calibration | None  # of the confidence beside the model's answers, combined ones too; None without any
    gate: GateCurve


@dataclass(frozen=True, slots=True)
class Spending:
    """What the second stage took; unlike metrics it differs when replies come from the cache."""

    calls: int  # that gave a reply
    calls_saved: int  # answered from the cache
    prompt_tokens: int
    cached_tokens: int
    reply_tokens: int
    cost: float | None  # dollars; None where the price is not known
    seconds: dict[str, float]  # a call's, by percentile: p50, p90, p95, p99, max; empty where no call was made


@dataclass(frozen=True, slots=True)
class ChosenK:
    """Accuracy at another number of neighbours than the run's."""

    k: int
    chosen_on: str  # name of the data set whose accuracy by rank voting was best at this k
    optimistic: bool  # chosen on the very queries that are scored
    top1: dict[str, Percent]  # by voting method
    interval: dict[str, Interval]


@dataclass(frozen=True, slots=True)
class Metrics:
    """One data set's figures; all accuracies in percent of ``count``."""

    count: int  # queries that were answered
    queries: int  # of the data set; more than those answered and unreadable where the run is not finished
    unreadable: int  # queries left out because their pictures could not be used
    excluded: int  # queries left out because no label is right for them
    top1: dict[str, Percent]  # by voting method, at the run's k
    top5: dict[str, Percent]  # a right label among the five heaviest
    interval: dict[str, Interval]  # of top1: Wilson, 95 %
    bootstrap: dict[str, Interval]  # of top1: 95 %
    macro: dict[str, Percent]  # top-1 averaged over the true classes
    masked: dict[str, Percent] | None  # top-1 where only the subset's labels vote; None without a subset
    masked_interval: dict[str, Interval] | None
    masked_classes: int | None  # size of the subset
    hit_rate: Percent  # queries with a right label among their neighbours: the ceiling of any reranking
    hit_rate_by_k: list[Percent]
    top1_by_k: dict[str, list[Percent]]  # by voting method, for k = 1, 2, …
    chosen: ChosenK | None
    calibration: Calibration  # of the winner's share of the rank vote
    per_class: dict[str, dict[str, Any]]  # true label → count, accuracy by voting method and of the final answers
    labels_not_in_memory: list[str]  # true labels that no answer can have
    rerank: RerankMetrics | None  # None where the vote alone decided
    centred: str = ""  # as `RunInfo.centred`

    @property
    def missing(self) -> int:
        """Queries that the run has yet to answer."""
        return self.queries - self.count - self.unreadable


@dataclass(frozen=True, slots=True)
class Summary:
    """A run's figures, by data set."""

    metrics: dict[str, Metrics]
    spending: dict[str, Spending]  # of those data sets about which a model was asked


@dataclass(frozen=True, slots=True, eq=False)
class RunInfo:
    """What a run was made with."""

    settings: dict[str, Any]  # everything that can change a result; a run goes on only with the same
    about: dict[str, Any]  # where things lay and how the run was made; nothing of it changes a result

    @property
    def centred(self) -> str:
        """How embeddings were centred: ``queries`` or ``running``, both transductive; empty where they were not."""
        return str(self.settings.get("centre", ""))


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """A run as its log holds it."""

    info: RunInfo
    results: dict[str, QueryResults]  # by data set
    damaged_lines: tuple[int, ...] = ()  # of the log, from 1, that were left out


class RunError(VisualMemoryError):
    """A run folder that cannot be used."""


class OtherSettings(RunError):
    """A run that was begun with other settings than it is to go on with."""


class NeighborFileError(VisualMemoryError):
    """A file of neighbours that cannot be used."""


class ServeError(VisualMemoryError):
    """A server that cannot begin."""
