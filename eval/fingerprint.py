"""What a run is made with: what can change a result, by which runs are told apart, and what else is worth knowing."""

import hashlib
import json
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np

from agent.stages import Stages
from eval.types import Dataset, Sample, StoredPicture
from retrieval.images import ImageLike
from retrieval.view import MemoryView

_DIGITS: Final = 16  # of a digest, in hexadecimal


def describe_settings(
    memory: MemoryView, datasets: Mapping[str, Dataset], *, k: int, stages: Stages | None, centre: str | None
) -> dict[str, Any]:
    """Return everything that can change a result, in JSON's types (`RunInfo.settings`)."""
    return {
        "memory": {"id": memory.settings.memory_id, "version": memory.version, "items": len(memory)},
        "embedder": memory.settings.embedder.weights_digest,
        "precision": memory.requested.precision,
        "index": memory.build_index() if len(memory) else "none",
        "k": k,
        **({"centre": centre} if centre else {}),
        **({"rerank": stages.rerank.settings()} if stages and stages.rerank else {}),
        **{f"dataset {name}": _digest(dataset) for name, dataset in datasets.items()},
    }


def describe(memory: MemoryView, datasets: Mapping[str, Dataset], paths: Mapping[str, str]) -> dict[str, Any]:
    """Return where things lie and what figures need beside the log (`RunInfo.about`), in JSON's types."""
    known = set(memory.stats().labels)
    return {
        "version": version("visual-memory-agent"),
        "memory": str(memory.path.resolve()),
        "embedder": memory.settings.embedder.name,
        "datasets": {name: paths.get(name, "") for name in datasets},
        "queries": {name: len(dataset.samples) for name, dataset in datasets.items()},
        "classes": len(known),
        "subsets": {name: sorted(dataset.subset) for name, dataset in datasets.items() if dataset.subset},
        "excluded": {name: dataset.excluded for name, dataset in datasets.items()},
        "absent": {
            name: sorted(frozenset().union(*{sample.labels for sample in dataset.samples}) - known)
            for name, dataset in datasets.items()
        },
    }


def _digest(dataset: Dataset) -> str:
    digest = hashlib.sha256()
    for sample in dataset.samples:
        digest.update(json.dumps([sample.id, sorted(sample.labels)]).encode())
    return f"{len(dataset.samples)} queries, {digest.hexdigest()[:16]}"


def picture_mark(sample: Sample) -> str:
    """Return what tells a picture from another of the same name: of a file its size and its time, which reads none."""
    image: ImageLike | StoredPicture = sample.image
    if isinstance(image, bytes):
        return hashlib.sha256(image).hexdigest()[:_DIGITS]
    if isinstance(image, str | Path):
        try:
            status = os.stat(image)
        except OSError:
            return "missing"  # decoding says what is wrong
        return f"{status.st_size}:{status.st_mtime_ns}"
    if isinstance(image, StoredPicture):
        return image.fingerprint
    return hashlib.sha256(np.asarray(image).tobytes()).hexdigest()[:_DIGITS]
