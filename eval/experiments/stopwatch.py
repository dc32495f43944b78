"""How long search and vote take: medians of several runs."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
from jaxtyping import Float, Int

from eval.experiments.material import Material
from retrieval.indexes import build_index
from retrieval.voting import predict_every_k

Clock = Callable[[], float]
SINGLE: Final = 32  # queries timed one by one: the median needs no more
BATCH: Final = 256  # queries searched together: what the exact index takes at a time


@dataclass(frozen=True, slots=True)
class Timing:
    """Medians over runs, in seconds."""

    kind: str
    items: int
    single: float
    batched: float  # a query
    vote: float  # a query
    built: float
    recall: float  # percent of the exact search's neighbours


def measure(
    material: Material, rows: Int[np.ndarray, " part"], kinds: Sequence[str], *, k: int, runs: int, clock: Clock
) -> list[Timing]:
    """Return the timings of each kind of index over a part of the memory."""
    vectors = np.ascontiguousarray(material.vectors[rows])
    k = min(k, len(rows))
    batch = material.queries[:BATCH]
    truth = build_index("exact", vectors).search(batch, k)[0]
    return [_measure(kind, vectors, material.labels[rows], batch, truth, runs=runs, clock=clock) for kind in kinds]


def _measure(
    kind: str,
    vectors: Float[np.ndarray, "part dimension"],
    labels: Int[np.ndarray, " part"],
    batch: Float[np.ndarray, "queries dimension"],
    truth: Int[np.ndarray, "queries k"],
    *,
    runs: int,
    clock: Clock,
) -> Timing:
    k = truth.shape[1]
    built, index = _timed(partial(build_index, kind, vectors), clock)
    near, distances = index.search(batch, k)
    singly = [
        median_seconds(partial(index.search, batch[query : query + 1], k), runs=runs, clock=clock)
        for query in range(min(SINGLE, len(batch)))
    ]
    together = median_seconds(partial(index.search, batch, k), runs=runs, clock=clock)
    voting = median_seconds(partial(predict_every_k, labels[near], distances), runs=runs, clock=clock)
    return Timing(
        kind=kind,
        items=len(vectors),
        single=float(np.median(singly)),
        batched=together / len(batch),
        vote=voting / len(batch),
        built=built,
        recall=recall(near, truth),
    )


def median_seconds(work: Callable[[], object], *, runs: int, clock: Clock = time.perf_counter) -> float:
    """Return the median time of several runs, after one that does not count."""
    work()
    return float(np.median([_timed(work, clock)[0] for _ in range(runs)]))


def _timed(work: Callable[[], Any], clock: Clock) -> tuple[float, Any]:
    start = clock()
    made = work()
    return clock() - start, made


def recall(near: Int[np.ndarray, "queries k"], truth: Int[np.ndarray, "queries k"]) -> float:
    """Return how many of the true neighbours were found, in percent."""
    found = sum(np.intersect1d(some, true).size for some, true in zip(near, truth, strict=True))
    return 100.0 * found / truth.size
