"""A run: embed, search and ask for what is missing from its log."""

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from agent.batch import BatchJobs, fetch_replies
from agent.calls import background
from agent.calls.cached import key_of
from agent.calls.metered import cost_of
from agent.calls.ready import LoadedModel
from agent.classify import Question, Stages, decide_posed
from agent.errors import ModelError
from agent.models.gemini import Gemini
from agent.settings import CONCURRENCY
from agent.types import Prediction, Request, Usage, rerank_record, total_usage
from eval.runs.log import (
    RunLog,
    answered_line,
    describe,
    describe_settings,
    picture_mark,
    unreadable_line,
)
from eval.types import Dataset, Run, RunError, Sample
from prompts.answer import REPLY_TOKENS
from prompts.cost import Dollars, Price, estimate_prompt_tokens, prices_date
from retrieval.embedding import EmbeddedBatch, Failure
from retrieval.errors import ImageError, InvalidArgument
from retrieval.support.terminal import counter, track
from retrieval.vectors import CENTRES, centre_queries
from retrieval.version import check_neighbors
from retrieval.view import DEFAULT_NEIGHBORS, MemoryView
from retrieval.voting import predict_every_k

if TYPE_CHECKING:
    from tqdm import tqdm


class FirstStage:
    """The queries of one data set as vectors, and what is searched for their neighbours.

    Where the memory that is searched is a centred one, vectors are taken from the mean of the data set's own queries.
    That mean is over all queries, also those that a run which was cut off has in its log already, and so every query is
    embedded before the first is answered. Their vectors are held in memory.
    """

    def __init__(
        self,
        memory: MemoryView,
        searched: MemoryView,
        name: str,
        dataset: Dataset,
        *,
        centre: str | None,
        progress: bool,
    ) -> None:
        self.searched = searched
        self._memory = memory
        self._name = name
        self._samples = dataset.samples
        self._centre = centre  # one of `retrieval.vectors.CENTRES`
        self._progress = progress
        self._vectors: dict[str, np.ndarray] = {}  # centred ones, by query
        self._failures: dict[str, Failure[Sample]] = {}

    def embed(self, samples: Sequence[Sample], *, sent_pixels: int | None = None) -> Iterator[EmbeddedBatch[Sample]]:
        """Yield some of the queries in batches with their vectors, in order.

        Args:
            samples: the queries.
            sent_pixels: also give the pictures as they are sent, made while they are decoded anyway; None for none.

        Raises:
            InvalidArgument: too few queries for a mean.
        """
        if self._centre is None:
            yield from self._memory.embed_stream(samples, image_of=Sample.picture, thumbnail_pixels=sent_pixels)
            return
        if not self._vectors and not self._failures:
            self._embed_all()
        for start in range(0, len(samples), _TOGETHER):
            some = samples[start : start + _TOGETHER]
            good = [sample for sample in some if sample.id in self._vectors]
            failures = [self._failures[sample.id] for sample in some if sample.id not in self._vectors]
            vectors = [self._vectors[sample.id] for sample in good]
            yield EmbeddedBatch(good, np.stack(vectors) if good else self._none(), [], [], failures)

    def pose(self, stages: Stages, samples: Sequence[Sample]) -> Iterator[tuple[Sample, Question | Failure[Sample]]]:
        """Yield some of the queries as questions, and those whose pictures cannot be used."""
        for batch in self.embed(samples, sent_pixels=stages.query_pixels):
            yield from ((failure.item, failure) for failure in batch.failures)
            if batch.items:
                pictures = [sample.picture() for sample in batch.items]
                yield from zip(batch.items, stages.questions(pictures, batch.vectors, batch.thumbnails), strict=True)

    def decide(
        self, stages: Stages, queries: Sequence[Sample], *, concurrency: int
    ) -> Iterator[tuple[Sample, Prediction | Failure[Any]]]:
        """Yield some of the queries, each as soon as both stages have decided it."""
        return decide_posed(stages, self.pose(stages, queries), concurrency=concurrency)

    def _none(self) -> np.ndarray:
        return np.empty((0, self._memory.settings.embedder.dimension), np.float32)

    def _embed_all(self) -> None:
        assert self._centre
        queue = track(self._samples, f"Embedding {self._name}", total=len(self._samples), shown=self._progress)
        ids, parts = list[str](), [self._none()]
        for batch in self._memory.embed_stream(queue, image_of=Sample.picture):
            parts.append(batch.vectors)
            ids += [sample.id for sample in batch.items]
            self._failures |= {failure.item.id: failure for failure in batch.failures}
        if ids:
            centred = centre_queries(np.concatenate(parts), self._centre, memory_mean=self.searched.snapshot().mean)
            self._vectors = dict(zip(ids, centred, strict=True))


class Tally:
    """Counts the queries of one data set that this invocation answered."""

    def __init__(self) -> None:
        self._answered = self._right = 0
        self._cost: float | None = 0.0  # dollars; None where that of a query is not known

    def add(self, labels: Sequence[str], samples: Sequence[Sample], *, cost: float | None = 0.0) -> None:
        """Add queries with their answers, and the dollars that these took."""
        self._answered += len(samples)
        self._right += sum(label in sample.labels for label, sample in zip(labels, samples, strict=True))
        self._cost = None if cost is None or self._cost is None else self._cost + cost

    def told(self, *, asked: bool) -> str:
        """Return accuracy and, where a model was asked, cost so far."""
        if not self._answered:
            return ""
        money = f", ${self._cost:.2f}" if asked and self._cost is not None else ""
        return f"top-1 {100 * self._right / self._answered:.1f} %{money}"


_TOGETHER: Final = 256  # queries that are searched and logged at once: an index reads itself whole for one or for many
_SECONDS: Final = 2.0  # after which fewer are


def run_evaluation(
    memory: MemoryView,
    datasets: Mapping[str, Dataset],
    out: str | Path,
    *,
    k: int = DEFAULT_NEIGHBORS,
    stages: Stages | None = None,
    concurrency: int = CONCURRENCY,
    price: Price | None = None,
    batch: BatchJobs | None = None,
    centre: str | None = None,
    retry_errors: bool = False,
    paths: Mapping[str, str] | None = None,
    progress: bool = True,
) -> Run:
    """Find every query's neighbours, ask the model where one is given, log it, and return the run.

    A run that was cut off goes on where it stopped when it is called again with the same settings. Pictures that have
    changed since they were answered are answered again.

    Args:
        memory: what decides.
        datasets: queries by the data set's name.
        out: the run folder.
        k: how many neighbours.
        stages: both stages, as `agent.classify.prepare` gives them for this memory and k; None leaves every decision
            to the vote.
        concurrency: how many queries wait for the model at once.
        price: of the model, where it is known.
        batch: asks the model by batch jobs, at their price; None asks at once.
        centre: ``queries`` or ``running``: search with embeddings centred by data set, see `retrieval.centring`;
            transductive. None: as they are.
        retry_errors: whether to ask again about queries that a failure left to the vote for good, and to try again
            pictures that could not be used. Failures that may have passed are tried again in any case.
        paths: where each data set lies, to be found again by who reads the run.
        progress: whether to show a bar.

    Raises:
        OtherSettings: the folder holds a run with other settings.
        RunError: the folder cannot be written, or a data set is empty.
        InvalidArgument: k below 1, an empty memory, or a way of centring that there is not.
        EmbedderError: the memory's embedder cannot be had.
        EveryRequestFails: the model refuses everything, or the budget is spent; what is done is in the log.
    """
    check_run(datasets, k=k, centre=centre)
    settings = describe_settings(memory, datasets, k=k, stages=stages, centre=centre)
    centred = memory.centred() if centre else None
    if stages:
        stages = replace(stages, searched=centred)
    with RunLog(Path(out), settings, describe(memory, datasets, paths or {})) as log:
        finished = log.finished(retry_errors=retry_errors)
        for name, dataset in datasets.items():
            missing = [one for one in dataset.samples if finished.get((name, one.id)) != picture_mark(one)]
            if not missing:
                continue
            first = FirstStage(memory, centred or memory, name, dataset, centre=centre, progress=progress)
            asked = stages
            if stages and batch:
                asked = fetch_replies(batch, stages, missing, pose=first.pose, progress=progress)
            with counter(f"Classifying {name}", total=len(missing), shown=progress) as bar:
                if asked is None:
                    _vote(first, name, missing, log, bar, k=k)
                else:
                    pricing = partial(cost_of, price=price, batch=batch is not None)
                    decided = first.decide(asked, missing, concurrency=concurrency)
                    _log_decisions(decided, name, log, bar, pricing)
        return log.run()


def check_run(datasets: Mapping[str, Dataset], *, k: int, centre: str | None) -> None:
    """Raise unless a run can be made of this.

    Raises:
        RunError: a data set is empty.
        InvalidArgument: k below 1, or a way of centring that there is not.
    """
    check_neighbors(k)
    if centre not in (None, *CENTRES):
        raise InvalidArgument(f"--centre {centre!r}: choose one of {', '.join(CENTRES)}")
    for name, dataset in datasets.items():
        if not dataset.samples:
            raise RunError(f"the data set {name} has no queries: give at least one")


def _vote(first: FirstStage, name: str, samples: Sequence[Sample], log: RunLog, bar: "tqdm[None]", *, k: int) -> None:
    tally = Tally()
    for batches in _together(first.embed(samples)):
        lines = [unreadable_line(name, one.item, str(one.error)) for batch in batches for one in batch.failures]
        items = [item for batch in batches for item in batch.items]
        if items:
            found = first.searched.search_vectors(np.concatenate([batch.vectors for batch in batches]), k=k)
            lines += [answered_line(name, sample, near) for sample, near in zip(items, found, strict=True)]
            winners = predict_every_k(found.labels, found.distances, factors=found.reliabilities)[:, -1]
            tally.add(winners.tolist(), items)
        log.append(lines)
        bar.set_postfix_str(tally.told(asked=False), refresh=False)
        bar.update(len(lines))


def _together(batches: Iterable[EmbeddedBatch[Sample]]) -> Iterator[list[EmbeddedBatch[Sample]]]:
    """Gather batches until there is enough to search for, or enough time has gone into them."""
    waiting: list[EmbeddedBatch[Sample]] = []
    since = time.monotonic()
    for batch in batches:
        waiting.append(batch)
        if sum(len(some.items) for some in waiting) >= _TOGETHER or time.monotonic() - since >= _SECONDS:
            yield waiting
            waiting, since = [], time.monotonic()
    if waiting:
        yield waiting


def _log_decisions(
    decided: Iterable[tuple[Sample, Prediction | Failure[Any]]],
    name: str,
    log: RunLog,
    bar: "tqdm[None]",
    pricing: Callable[[Usage], float | None],
) -> None:
    tally = Tally()
    for sample, found in decided:
        if isinstance(found, Failure):
            line = unreadable_line(name, sample, str(found.error))
        else:
            # What was in the cache had its price once; what was spent now includes attempts that gave no reply.
            everything = total_usage([found.spent, *(reply.usage for reply in found.replies if reply.from_cache)])
            record = rerank_record(found) | {"cost": pricing(found.spent), "full_cost": pricing(everything)}
            line = answered_line(name, sample, found.neighbors) | {"rerank": record}
            tally.add([found.label], [sample], cost=record["cost"])
        log.append([line])
        bar.set_postfix_str(tally.told(asked=True), refresh=False)
        bar.update(1)


_SAMPLED: Final = 100  # prompts that are made to see their size
_COUNTED: Final = 3  # of them that the service is asked to count
_COUNT_SECONDS: Final = 20.0  # for all of them


@dataclass(frozen=True, slots=True)
class Estimate:
    """About what a run would take."""

    queries: int  # with usable pictures
    asked: int  # those that the gate does not leave to the vote
    cached: int  # of them, those whose replies are kept already, by the sample
    prompt_tokens: int  # of the calls that remain
    reply_tokens: int
    cost: Dollars | None  # None where the price is not known
    basis: str  # where the figures come from

    @property
    def calls(self) -> int:
        """How many would be made, if each query takes one."""
        return self.asked - self.cached


def estimate_run(
    stages: Stages,
    datasets: Mapping[str, Dataset],
    model: LoadedModel,
    *,
    batch: bool = False,
    centre: str | None = None,
) -> Estimate:
    """Return what a run would take: the gate is applied to every query, prompts are made of a sample of them.

    Gemini's own count of three prompts' tokens, which costs nothing, goes before our estimate where it can be had.
    """
    generation, price = stages.settings.generation, model.meter.price
    drawn, queries, asked = _draw(stages, datasets, centre)
    requests = []
    for question in drawn:
        with suppress(ImageError):  # gone since it was embedded
            requests.append(Request(question.prompt(stages.template, stages.memory)[0], generation))
    tokens = [
        estimate_prompt_tokens(request.prompt, price, media_resolution=generation.media_resolution)
        for request in requests
    ]
    factor, basis = _calibrate(model, requests, tokens)
    store = model.store
    kept = 0 if store is None else sum(store.get(key_of(model.name, request)) is not None for request in requests)
    cached = round(asked * kept / len(requests)) if requests else 0
    calls = asked - cached
    prompt_tokens = round(calls * factor * sum(tokens) / len(tokens)) if tokens else 0
    reply_tokens = calls * REPLY_TOKENS[stages.template.answer]
    cost = price.cost(prompt_tokens, reply_tokens, batch=batch) if price else None
    return Estimate(queries, asked, cached, prompt_tokens, reply_tokens, cost, basis)


def _draw(stages: Stages, datasets: Mapping[str, Dataset], centre: str | None) -> tuple[list[Question], int, int]:
    """Return a sample of the questions that the gate would ask, the number of usable queries, and of those asked."""
    chance, drawn, queries, asked = random.Random(0), list[Question](), 0, 0
    centred = stages.memory.centred() if centre else None
    searching = replace(stages, searched=centred)
    for name, dataset in datasets.items():
        first = FirstStage(stages.memory, centred or stages.memory, name, dataset, centre=centre, progress=True)
        posed = track(first.pose(searching, dataset.samples), f"Voting on {name}", total=len(dataset.samples))
        for question in (question for _, question in posed if isinstance(question, Question)):
            queries += 1
            if stages.settings.gate.asks(question.votes):
                asked += 1
                if len(drawn) < _SAMPLED:
                    drawn.append(question)
                elif (place := chance.randrange(asked)) < _SAMPLED:  # every query is as likely to be in the sample
                    drawn[place] = question
    return drawn, queries, asked


def _calibrate(model: LoadedModel, requests: Sequence[Request], tokens: Sequence[int]) -> tuple[float, str]:
    """Return by how much the service's count exceeds the estimate, and in words what the figures rest on."""
    at = f"one call a query, at prices of {prices_date()}"
    basis = f"Estimated by four characters a token and a fixed number a picture, {at}"
    if not isinstance(model.bare, Gemini) or not model.bare.has_key or not requests:
        return 1.0, basis

    async def count(gemini: Gemini) -> list[int]:
        async with asyncio.timeout(_COUNT_SECONDS):
            return [await gemini.count_tokens(request) for request in requests[:_COUNTED]]

    try:
        counted = background.run(count(model.bare))
    except (ModelError, TimeoutError):
        return 1.0, basis
    return sum(counted) / max(1, sum(tokens[:_COUNTED])), f"Counted by the service, {at}"
