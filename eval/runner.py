"""A run: embed, search and ask for what is missing from its log."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from agent.batch_rounds import fetch_replies
from agent.batches import BatchJobs
from agent.metered import cost_of
from agent.record import rerank_record
from agent.stages import CONCURRENCY, Stages, decide_posed
from agent.types import Prediction, Usage, total_usage
from eval.errors import RunError
from eval.fingerprint import describe, describe_settings, picture_mark
from eval.first_stage import FirstStage, open_first_stage
from eval.runlog import RunLog, answered_line, answered_lines, unreadable_line
from eval.standing import Standing
from eval.types import Dataset, Run, Sample
from prompts.cost import Price
from retrieval.centring import CENTRES, CentredMemory
from retrieval.errors import InvalidArgument
from retrieval.pipeline import EmbeddedBatch, Failure
from retrieval.progress import Counter, counter
from retrieval.snapshot import check_neighbors
from retrieval.view import DEFAULT_NEIGHBORS, MemoryView

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
        stages: both stages, as `agent.stages.prepare` gives them for this memory and k; None leaves every decision
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
    centred = CentredMemory(memory) if centre else None
    if stages:
        stages = replace(stages, searched=centred)
    with RunLog(Path(out), settings, describe(memory, datasets, paths or {})) as log:
        finished = log.finished(retry_errors=retry_errors)
        for name, dataset in datasets.items():
            missing = [one for one in dataset.samples if finished.get((name, one.id)) != picture_mark(one)]
            if not missing:
                continue
            first = open_first_stage(memory, centred, name, dataset, how=centre or "", progress=progress)
            asked = _replies_fetched(batch, stages, first, missing, progress) if batch and stages else stages
            with counter(f"Classifying {name}", total=len(missing), shown=progress) as bar:
                if asked is None:
                    _vote(first, name, missing, log, bar, k=k)
                else:
                    pricing = partial(cost_of, price=price, batch=batch is not None)
                    decided = decide_posed(asked, first.pose(asked, missing), concurrency=concurrency)
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


def _vote(first: FirstStage, name: str, samples: Sequence[Sample], log: RunLog, bar: Counter, *, k: int) -> None:
    standing = Standing()
    for items, vectors, failures in _together(first.embed(samples)):
        lines = [unreadable_line(name, failure.item, str(failure.error)) for failure in failures]
        if items:
            found = first.searched.search_vectors(vectors, k=k)
            lines += answered_lines(name, items, found)
            standing.count_votes(found, items)
        log.append(lines)
        bar.advance(len(lines), str(standing))


def _together(
    batches: Iterable[EmbeddedBatch[Sample]],
) -> Iterator[tuple[list[Sample], np.ndarray, list[Failure[Sample]]]]:
    """Gather batches until there is enough to search for, or enough time has gone into them."""
    waiting: list[EmbeddedBatch[Sample]] = []
    since = time.monotonic()
    for batch in batches:
        waiting.append(batch)
        if sum(len(some.items) for some in waiting) >= _TOGETHER or time.monotonic() - since >= _SECONDS:
            yield _joined(waiting)
            waiting, since = [], time.monotonic()
    if waiting:
        yield _joined(waiting)


def _joined(batches: Sequence[EmbeddedBatch[Sample]]) -> tuple[list[Sample], np.ndarray, list[Failure[Sample]]]:
    items = [item for batch in batches for item in batch.items]
    failures = [failure for batch in batches for failure in batch.failures]
    return items, np.concatenate([batch.vectors for batch in batches]), failures


def _log_decisions(
    decided: Iterable[tuple[Sample, Prediction | Failure[Any]]],
    name: str,
    log: RunLog,
    bar: Counter,
    pricing: Callable[[Usage], float | None],
) -> None:
    standing = Standing()
    for sample, found in decided:
        if isinstance(found, Failure):
            line = unreadable_line(name, sample, str(found.error))
        else:
            line = _decided_line(name, sample, found, pricing)
            standing.count(found.label in sample.labels, line["rerank"]["cost"])
        log.append([line])
        bar.advance(1, str(standing))


def _decided_line(
    name: str, sample: Sample, found: Prediction, pricing: Callable[[Usage], float | None]
) -> dict[str, Any]:
    line = answered_line(name, sample, found.neighbors)
    # What was in the cache had its price once; what was spent now includes attempts that gave no reply.
    everything = total_usage([found.spent, *(reply.usage for reply in found.replies if reply.from_cache)])
    costs = {"cost": pricing(found.spent), "full_cost": pricing(everything)}
    return line | {"rerank": rerank_record(found) | costs}


def _replies_fetched(
    batch: BatchJobs, stages: Stages, first: FirstStage, samples: Sequence[Sample], progress: bool
) -> Stages:
    def decide(stages: Stages, queries: Sequence[Sample], *, concurrency: int) -> Iterator[tuple[Sample, object]]:
        return decide_posed(stages, first.pose(stages, queries), concurrency=concurrency)

    return fetch_replies(batch, stages, samples, decide=decide, progress=progress)
