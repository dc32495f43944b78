"""Neighbours made of random numbers, and plain votes to compare with."""

from collections.abc import Callable, Sequence

import numpy as np

from eval.experiments.base import Row
from eval.types import Neighborhoods, QueryResults
from tests.eval.made_runs import made_run


def made_neighborhoods(queries: int = 200, *, k: int = 20, name: str = "val") -> Neighborhoods:
    """Return neighbours of which some have a right label."""
    run = made_run({name: queries}, rerank=False, k=k)
    return Neighborhoods(name, "none", run.results[name])


def plain_top1(results: QueryResults, weight: Callable[[int, float], float], k: int) -> float:
    """Return top-1 in percent: each query's first k neighbours vote one by one, and the first leader keeps a tie."""
    right = 0
    for query, truth in enumerate(results.truths):
        gathered: dict[str, float] = {}
        winner = ""
        labels, distances = results.neighbor_labels.of(query)[:k], results.neighbor_distances[query, :k].tolist()
        for rank, (label, distance) in enumerate(zip(labels, distances, strict=True)):
            gathered[label] = gathered.get(label, 0.0) + weight(rank, distance)
            if not winner or gathered[label] > gathered[winner]:
                winner = label
        right += winner in truth
    return 100 * right / len(results)


def column(rows: Sequence[Row], place: int) -> np.ndarray:
    """Return one column of an analysis's table."""
    return np.array([row[place] for row in rows], float)
