"""How well and how fast one way of running a model does beside float32, measured on real photographs."""

import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.resources import files

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from retrieval.cachedir import cache_folder
from retrieval.embedders.base import Embedder

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Agreement:
    """One way of running a model beside float32."""

    smallest: float  # cosine
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
    tried: Embedder, reference: Embedder, pixels: UInt8[np.ndarray, "batch height width 3"]
) -> Agreement:
    """Embed prepared pictures both ways. Vectors that are not finite agree with nothing."""
    expected, expected_seconds = _timed(reference, pixels)
    found, found_seconds = _timed(tried, pixels)
    cosines = np.nan_to_num((expected * found).sum(axis=1), nan=-1.0)
    return Agreement(float(cosines.min()), float(cosines.mean()), expected_seconds / found_seconds)


def _timed(
    embedder: Embedder, pixels: UInt8[np.ndarray, "batch height width 3"]
) -> tuple[Float[np.ndarray, "batch dimension"], float]:
    embedder.embed(pixels[: len(pixels) // 2])  # the first call compiles and warms up
    started = time.perf_counter()
    vectors = embedder.embed(pixels)
    return vectors, time.perf_counter() - started


def agreement_once(model: str, way: str, measure: Callable[[], Agreement]) -> Agreement:
    """Return what was measured for a model and a way of running it on this machine, measuring it only once.

    Args:
        model: a checkpoint's key.
        way: precision, processor and libraries, in words.
        measure: does the measuring.
    """
    path = cache_folder("measured") / f"{model}.json"
    known: dict[str, dict[str, float]] = {}
    try:
        known = dict(json.loads(path.read_text()))
        return Agreement(**known[way])
    except (OSError, ValueError, KeyError, TypeError):
        _log.info("Measuring %s beside float32, once", way.split()[0])
    measured = measure()
    fresh = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(json.dumps(known | {way: asdict(measured)}, indent=1))
        fresh.replace(path)
    except OSError as error:  # then it is measured again the next time
        _log.debug("%s could not be written: %s", path, error)
    return measured
