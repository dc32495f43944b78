"""What a finished run leaves behind, made up: for tests of the tables that take runs by their figures alone."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from retrieval.voting import METHODS

OURS = "ours: dinov2-vits14, 1,281,167 items of 1,000 classes, k 50"


def figures(
    top1: float,
    *,
    masked: float | None = None,
    reranked: float | None = None,
    count: int = 100_000,
    absent: Sequence[str] = (),
) -> dict[str, Any]:
    """Return a data set's figures as metrics.json holds them; the other methods are tenths of points from rank."""
    by_method = {method: top1 + place / 10 for place, method in enumerate(METHODS)}
    return {
        "count": count,
        "labels_not_in_memory": list(absent),
        "per_class": dict.fromkeys(f"class {number}" for number in range(1000)),
        "top1": by_method,
        "interval": {method: [value - 2, value + 2] for method, value in by_method.items()},
        "top1_by_k": {method: [top1 - 5, value] for method, value in by_method.items()},
        "masked": None if masked is None else {method: masked for method in METHODS},
        "masked_interval": None if masked is None else {method: [masked - 1, masked + 1] for method in METHODS},
        "masked_classes": None if masked is None else 200,
        "rerank": None if reranked is None else {"top1": reranked, "interval": [reranked - 3, reranked + 3]},
    }


def finished_run(
    folder: Path,
    datasets: Mapping[str, Mapping[str, Any]],
    *,
    model: str = "",
    embedder: str = "dinov2-vits14",
    classes: int = 1000,
    unfinished: Sequence[dict[str, object]] = (),
    **settings: object,
) -> Path:
    """Write what a run leaves behind."""
    every = {"format": 2, "memory": {"id": "m", "version": 1, "items": 1_281_167}, "k": 50} | settings
    every |= {f"dataset {name}": "digest" for name in datasets}
    if model:
        every["rerank"] = {"model": model}
    folder.mkdir()
    content = {"embedder": embedder, "classes": classes, "unfinished": list(unfinished), "settings": every}
    (folder / "metrics.json").write_text(json.dumps(content | {"datasets": datasets}))
    return folder
