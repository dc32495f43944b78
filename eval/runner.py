"""A run: embed and search what is missing from its log, then turn the log into figures."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from agent.batch_rounds import fetch_replies
from agent.batches import BatchJobs
from agent.metered import cost_of
from agent.record import rerank_record
from agent.stages import CONCURRENCY, Stages, decide_stream
from agent.types import Usage
from eval.errors import RunError
from eval.metrics import compute_metrics
from eval.runlog import RunLog, answered_line, unreadable_line
from eval.types import Metrics, QueryResults, Sample
from prompts.cost import Price
from retrieval.disk import writing
from retrieval.images import ImageLike
from retrieval.memory import DEFAULT_NEIGHBORS, VisualMemory
from retrieval.pipeline import Failure
from retrieval.progress import track
from retrieval.snapshot import check_neighbors

METRICS: Final = "metrics.json"


def run_evaluation(
    memory: VisualMemory,
    datasets: Mapping[str, Sequence[Sample]],
    out: str | Path,
    *,
    k: int = DEFAULT_NEIGHBORS,
    stages: Stages | None = None,
    concurrency: int = CONCURRENCY,
    price: Price | None = None,
    batch: BatchJobs | None = None,
    progress: bool = True,
) -> tuple[dict[str, Metrics], dict[str, QueryResults]]:
    """Find every query's neighbours, ask the model where one is given, log it, and return figures and results.

    A run that was cut off goes on where it stopped when it is called again with the same settings. ``metrics.json``
    in the run folder holds the figures by data set.

    Args:
        memory: what decides.
        datasets: queries by the data set's name.
        out: the run folder.
        k: how many neighbours; each smaller number is scored as well.
        stages: both stages, as `agent.stages.prepare` gives them for this memory and k; None leaves every decision
            to the vote.
        concurrency: how many queries wait for the model at once.
        price: of the model, where it is known.
        batch: asks the model by batch jobs, at their price; None asks at once.
        progress: whether to show a bar.

    Raises:
        OtherSettings: the folder holds a run with other settings.
        RunError: the folder cannot be written, or none of a data set's pictures can be used.
        InvalidArgument: k below 1, or an empty memory.
        EmbedderError: the memory's embedder cannot be had.
        EveryRequestFails: the model refuses everything, or the budget is spent; what is done is in the log.
    """
    check_neighbors(k)
    for name, samples in datasets.items():
        if not samples:
            raise RunError(f"the data set {name} has no queries: give at least one")
    folder = Path(out)
    rerank = stages.rerank if stages else None
    settings = {
        "memory": {"id": memory.settings.memory_id, "version": memory.version, "items": len(memory)},
        "embedder": memory.settings.embedder.weights_digest,
        "precision": memory.requested.precision,
        "index": memory.build_index() if len(memory) else "none",
        "k": k,
        **({"rerank": rerank.settings()} if rerank else {}),
        **{f"dataset {name}": _digest(samples) for name, samples in datasets.items()},
    }
    with RunLog(folder, settings) as log:
        finished = log.finished()
        for name, samples in datasets.items():
            missing = [sample for sample in samples if (name, sample.id) not in finished]
            if stages is None or rerank is None:
                _vote(memory, name, missing, log, k=k, progress=progress)
                continue
            deciding = stages
            if batch and missing:
                deciding = fetch_replies(
                    batch, stages, missing, image_of=lambda sample: sample.image, progress=progress
                )
            pricing = partial(cost_of, price=price, batch=batch is not None)
            _decide(deciding, name, missing, log, concurrency=concurrency, pricing=pricing, progress=progress)
        results = log.results()
    known = memory.stats().labels
    metrics = {name: compute_metrics(_expect_answers(name, results[name]), known_labels=known) for name in datasets}
    _write_metrics(folder / METRICS, settings, metrics)
    return metrics, results


def _vote(memory: VisualMemory, name: str, samples: list[Sample], log: RunLog, *, k: int, progress: bool) -> None:
    if not samples:
        return
    queue = track(samples, f"Classifying {name}", total=len(samples), shown=progress)
    for batch in memory.embed_stream(queue, image_of=lambda sample: sample.image):
        lines = [unreadable_line(name, failure.item, str(failure.error)) for failure in batch.failures]
        if batch.items:
            found = memory.search_vectors(batch.vectors, k=k)
            lines += [answered_line(name, *pair) for pair in zip(batch.items, found, strict=True)]
        log.append(lines)


def _decide(
    stages: Stages,
    name: str,
    samples: list[Sample],
    log: RunLog,
    *,
    concurrency: int,
    pricing: Callable[[Usage], float | None],
    progress: bool,
) -> None:
    queries = ((sample, sample.image) for sample in samples)
    decided = decide_stream(stages, queries, concurrency=concurrency)
    for sample, found in track(decided, f"Classifying {name}", total=len(samples), shown=progress):
        if isinstance(found, Failure):
            log.append([unreadable_line(name, sample, str(found.error))])
        else:
            record = rerank_record(found) | {"cost": pricing(found.spent)}
            log.append([answered_line(name, sample, found.neighbors, rerank=record)])


def _digest(samples: Sequence[Sample]) -> str:
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(json.dumps([sample.id, sorted(sample.labels), _content(sample.image)]).encode())
    return f"{len(samples)} queries, {digest.hexdigest()[:16]}"


def _content(image: ImageLike) -> str:
    """Tell one picture from another of the same name: files by size and time of change, which reads none of them."""
    if isinstance(image, bytes):
        return hashlib.sha256(image).hexdigest()
    if isinstance(image, str | Path):
        try:
            status = os.stat(image)
        except OSError:
            return "missing"  # decoding says what is wrong
        return f"{status.st_size} {status.st_mtime_ns}"
    return hashlib.sha256(np.asarray(image).tobytes()).hexdigest()


def _expect_answers(name: str, results: QueryResults) -> QueryResults:
    if not len(results):
        first = next(iter(results.unreadable.values()))
        raise RunError(f"{name} holds no usable picture among {len(results.unreadable)} files; the first: {first}")
    return results


def _write_metrics(path: Path, settings: dict[str, Any], metrics: dict[str, Metrics]) -> None:
    fresh = path.with_suffix(".new")
    content = {"settings": settings, "datasets": {name: asdict(figures) for name, figures in metrics.items()}}
    with writing(path):
        fresh.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
        fresh.replace(path)
