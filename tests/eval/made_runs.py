"""Runs made of nothing but random numbers, for tests of what is shown of a run: any size within seconds."""

from collections.abc import Sequence

import numpy as np

from eval.types import Names, Outcome, QueryResults, Run, RunInfo

ABOUT = {"version": "0", "memory": "/nowhere", "embedder": "none", "absent": {}, "subsets": {}, "excluded": {}}
CODES = ("reranked", "decisive", "none_of_these", "unusable_reply", "timed_out")
SETTINGS = {
    "memory": {"id": "0123456789abcdef", "version": 7, "items": 1_281_167},
    "embedder": "9386950811f5b0b7",
    "precision": "float32",
    "index": "scann",
}
RERANK = {"model": "scripted", "prompt": "rerank_v1 603b7e87bec9918d", "when": "margin<0.5", "shuffles": 0, "seed": 0}


def made_run(queries: dict[str, int], *, rerank: bool, labels: Sequence[str] = (), k: int = 10, **more: object) -> Run:
    """Return a run with so many queries in each data set; neighbours have the right label two times of three."""
    settings = {**SETTINGS, "k": k, **({"rerank": RERANK} if rerank else {}), **more}
    classes = list(labels) or [f"class {number:03}" for number in range(40)]
    results = {
        name: _results(name, count, classes, k=k, rerank=rerank, seed=place)
        for place, (name, count) in enumerate(queries.items())
    }
    held = {name: len(found) + len(found.unreadable) for name, found in results.items()}
    about = ABOUT | {"classes": len(classes), "datasets": dict.fromkeys(queries, ""), "queries": held}
    return Run(RunInfo(settings, about), results)


def _results(name: str, count: int, classes: list[str], *, k: int, rerank: bool, seed: int) -> QueryResults:
    draw = np.random.default_rng(seed)
    truths = draw.integers(len(classes), size=count)
    near = draw.integers(len(classes), size=(count, k)).astype(np.int32)
    hit = draw.random((count, k)) < draw.random((count, 1)) * 1.2
    near[hit] = np.broadcast_to(truths[:, None], near.shape)[hit]
    outcomes = [_outcome(draw, classes, int(truth), row) for truth, row in zip(truths, near, strict=True)]
    return QueryResults(
        ids=[f"{classes[truth]}/{name}_{query:08}.JPEG" for query, truth in enumerate(truths)],
        truths=[frozenset([classes[truth]]) for truth in truths],
        neighbor_ids=Names(near, [f"train/{label}.JPEG" for label in classes]),
        neighbor_labels=Names(near, classes),
        neighbor_distances=np.sort(draw.random((count, k)), axis=1).astype(np.float32),
        unreadable={f"{name}-broken.JPEG": "it breaks off or is damaged: replace the file"},
        outcomes=outcomes if rerank else None,
    )


def _outcome(draw: np.random.Generator, classes: list[str], truth: int, near: np.ndarray) -> Outcome:
    code = CODES[int(draw.choice(len(CODES), p=[0.8, 0.1, 0.05, 0.03, 0.02]))]
    chosen = truth if draw.random() < 0.75 and truth in near else int(near[0])
    calls = int(code != "decisive")
    return Outcome(
        label=classes[chosen],
        answer=classes[chosen] if code == "reranked" else None,
        reason=f"{code}: as the sentence says",
        confidence=round(float(draw.random() ** 0.3), 2) if code == "reranked" else None,
        prompt_tokens=13_000 * calls,
        cached_tokens=0,
        reply_tokens=40 * calls,
        calls=calls,
        calls_saved=0,
        cost=0.0013 * calls,
        full_cost=0.0013,
        seconds=(float(draw.gamma(4, 0.3)),) * calls,
    )


def answers(*, right: int, wrong: int) -> list[str]:
    """Return so many labels that are right, and then so many that are wrong."""
    return ["t"] * right + ["w"] * wrong
