"""How well and how fast one way of running a model does beside float32, measured on real photographs."""

import json
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Final

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from retrieval.cachedir import cache_folder, cache_key, drop_unused, note_use
from retrieval.embedders.base import Embedder
from retrieval.embedders.execution import Execution
from retrieval.outside import parse_json

_ALONE: Final = 8  # pictures that are embedded each alone as well
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Agreement:
    """One way of running a model beside float32."""

    smallest: float  # cosine, of batches and of single pictures
    mean: float  # cosine
    speedup: float  # pictures a second, as a multiple of float32's


def probe_pictures() -> list[Image.Image]:
    """Return eight parts of the two photographs that scikit-learn carries."""
    pictures = []
    for name in ("china.jpg", "flower.jpg"):
        with (files("sklearn.datasets") / "images" / name).open("rb") as stream:
            whole = Image.open(stream).convert("RGB")
        width, height = whole.size
        parts = ((0, 0, width, height), (0, 0, height, height), (width // 2, 0, width, height), (200, 100, 440, 340))
        pictures += [whole.crop(part) for part in parts]
    return pictures


def measure_agreement(
    tried: Callable[[], Embedder], reference: Embedder, pixels: UInt8[np.ndarray, "batch height width 3"]
) -> Agreement:
    """Embed prepared pictures both ways, in a batch and each alone. Vectors that are not finite agree with nothing.

    Args:
        tried: makes the embedder. It is called twice: the second is to find what the first left in the cache, as the
            embedders of later processes will.
        reference: gives, in a batch, the vectors that are right.
        pixels: the pictures.
    """
    expected, expected_seconds = _timed(reference, pixels)
    first, second = tried(), tried()
    found, found_seconds = _timed(first, pixels)
    alone = [embedder.embed(one[None]) for embedder in (first, second) for one in pixels[:_ALONE]]
    right = np.concatenate([expected, expected[:_ALONE], expected[:_ALONE]])
    cosines = np.nan_to_num((right * np.concatenate([found, *alone])).sum(axis=1), nan=-1.0)
    return Agreement(float(cosines.min()), float(cosines.mean()), expected_seconds / found_seconds)


def _timed(
    embedder: Embedder, pixels: UInt8[np.ndarray, "batch height width 3"]
) -> tuple[Float[np.ndarray, "batch dimension"], float]:
    embedder.embed(pixels[: len(pixels) // 2])  # the first call compiles and warms up
    started = time.perf_counter()
    vectors = embedder.embed(pixels)
    return vectors, time.perf_counter() - started


def agreement_once(model: str, execution: Execution, measure: Callable[[], Agreement]) -> Agreement:
    """Return what was measured for a model and a way of running it on this machine, measuring it only once.

    Args:
        model: a checkpoint's key, or the name of the folder of an int8 copy.
        execution: precision, libraries and processor.
        measure: does the measuring.
    """
    key = cache_key(model=model, precision=execution.precision, device=execution.device, engine=execution.engine)
    path = cache_folder("measured") / f"{key}.json"
    try:
        known = Agreement(**parse_json(path.read_text()))
        note_use(path)
        return known
    except (OSError, ValueError, TypeError):
        _log.info("Measuring %s beside float32, once", execution.precision)
    measured = measure()
    fresh = path.with_suffix(f".{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        drop_unused(path.parent)
        fresh.write_text(json.dumps(asdict(measured), indent=1))
        fresh.replace(path)
    except OSError as error:  # then it is measured again the next time
        _log.debug("%s could not be written: %s", path, error)
    return measured
