"""From what was asked for to what runs: device, then backend, then the fastest precision that is safe.

How well and how fast a precision does beside float32 is measured on real photographs, once on each machine.
"""

import itertools
import json
import logging
import os
import platform
import time
import uuid
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from importlib.util import find_spec
from typing import Final

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from retrieval.embedders.base import (
    LEAST_AGREEMENT,
    Calibration,
    Checked,
    Embedder,
    Execution,
    Processor,
    Requested,
    instruction_sets,
    reason_of,
)
from retrieval.embedders.checkpoints import Checkpoint
from retrieval.errors import InvalidArgument, VisualMemoryWarning
from retrieval.support.cachedir import cache_folder, cache_key, drop_unused, note_use
from retrieval.support.parsing import parse_json

_GPU_FILES: Final = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # NVIDIA, NVIDIA below Windows, AMD
_LOWER: Final = {"cpu": ("bfloat16",), "cuda": ("float16", "bfloat16"), "mps": ("float16",)}  # fastest first
_EMULATED: Final = "the processor has no bfloat16 of its own, and would emulate it slowly"
_ALONE: Final = 8  # pictures that are embedded each alone as well
_MEASURED_PICTURES: Final = 32
_log = logging.getLogger(__name__)

Way = Callable[[Execution], Embedder]
"""From precision and device to a model's embedder that runs so."""


def load(
    checkpoint: Checkpoint,
    requested: Requested,
    calibration: Calibration | None,
    processor: Processor | None = None,
) -> Embedder:
    """Return a checkpoint's embedder; see `retrieval.embedders.load_embedder`.

    Args:
        checkpoint: the model.
        requested: how it is to run.
        calibration: pictures for int8.
        processor: what OpenVINO is to take the processor for; None asks it.
    """

    def in_float32() -> Embedder:  # by which everything else is measured, with nothing from the cache
        return _load_torch(checkpoint, "cpu", "float32")

    device = choose_device("cpu" if requested.precision == "int8" else requested.device)
    if device == "cpu" and requested.backend != "torch":
        needed = requested.backend == "openvino" or requested.precision == "int8"
        if find_spec("openvino") is not None:
            try:
                return Checked(_load_openvino(checkpoint, requested.precision, calibration, processor), in_float32)
            except (OSError, RuntimeError) as error:  # RuntimeError: all that OpenVINO raises
                trouble = f"OpenVINO cannot run {checkpoint.name} here ({reason_of(error)})"
                if needed:
                    raise InvalidArgument(f"{trouble}: use --backend torch") from error
                warnings.warn(f"{trouble}: torch does, more slowly", VisualMemoryWarning, stacklevel=3)
        elif needed:
            raise InvalidArgument("OpenVINO is not installed: pip install openvino, or use --backend torch")
    loaded = _load_torch(checkpoint, device, requested.precision)
    exact = device == "cpu" and loaded.execution.precision == "float32"
    return Checked(loaded, None if exact else in_float32)


def choose_device(device: str) -> str:
    """Return the device to run on: the one asked for, or for ``auto`` the best there is: cuda, mps, cpu.

    Raises:
        InvalidArgument: a device that this machine lacks.
    """
    if device == "cpu" or (device == "auto" and not _may_have_gpu()):
        return "cpu"
    import torch

    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, there in present.items() if there)
    if not present[device]:
        raise InvalidArgument(f"device {device!r} is not on this machine: use --device auto or cpu")
    return device


def _may_have_gpu() -> bool:
    """Tell whether it is worth importing torch, which takes a second, to ask it for a GPU."""
    if "+cpu" in version("torch"):
        return False
    return platform.system() != "Linux" or any(map(os.path.exists, _GPU_FILES))


def _load_openvino(
    checkpoint: Checkpoint, precision: str, calibration: Calibration | None, processor: Processor | None
) -> Embedder:
    from retrieval.embedders import openvino_backend as openvino

    processor = processor or openvino.this_processor()
    if precision == "bfloat16" and not processor.bfloat16:
        raise InvalidArgument(f"{_EMULATED}: use --precision float32")
    model = openvino.converted(checkpoint)
    exact, tried = (openvino.openvino_execution(one, processor) for one in ("float32", "bfloat16"))

    def way(execution: Execution) -> Embedder:
        return openvino.OpenVinoEmbedder(model, execution, processor)

    # A memory that was asked to be int8 is asked in int8, where its copy of the model is at hand.
    own_copy = precision == "auto" and calibration and openvino.find_int8(model, calibration.digest, processor)
    if precision == "int8" or own_copy:
        if calibration is None:
            raise InvalidArgument("int8 takes its ranges from pictures: give calibration=, or use it with a memory")
        copy, digest, pixels = openvino.int8_copy(model, calibration, processor)
        in_int8 = openvino.openvino_execution("int8", processor, calibration=digest)

        def measure() -> Agreement:
            some = list(itertools.islice(pixels, _MEASURED_PICTURES))
            some = some or [model.identity.prepare(picture) for picture in probe_pictures()]
            return measure_agreement(
                lambda: openvino.OpenVinoEmbedder(copy, in_int8, processor), way(exact), np.stack(some)
            )

        agreement = agreement_once(copy.folder.name, in_int8, measure)
        figures = f"cosine to float32 {agreement.mean:.4f} on average, at least {agreement.smallest:.4f}"
        execution = replace(in_int8, agreement=agreement.smallest, reason=f"as asked for; {figures}")
        return openvino.OpenVinoEmbedder(copy, execution, processor)
    if precision != "auto":
        execution = replace(tried if precision == "bfloat16" else exact, reason="as asked for")
    elif processor.bfloat16:
        execution = _judged(checkpoint, tried, exact, way)
    else:
        execution = replace(exact, reason=_EMULATED)
    return way(execution)


def _load_torch(checkpoint: Checkpoint, device: str, precision: str) -> Embedder:
    from retrieval.embedders.torch_backend import TorchEmbedder, device_name, has_native

    on = f"{device_name(device)} {instruction_sets()}" if device == "cpu" else device_name(device)

    def by_torch(precision: str) -> Execution:
        return Execution("torch", precision, device, engine=f"{checkpoint.libraries} on {on}")

    def way(execution: Execution) -> Embedder:
        return TorchEmbedder(checkpoint.load(), execution)

    if precision != "auto":
        if precision != "float32" and not has_native(device, precision):
            raise InvalidArgument(f"{_EMULATED}: use --precision float32")
        return way(replace(by_torch(precision), reason="as asked for"))
    exact = by_torch("float32")
    execution = replace(exact, reason=_EMULATED)
    for lower in _LOWER[device]:
        if has_native(device, lower):
            execution = _judged(checkpoint, by_torch(lower), exact, cache(way))
            if execution.precision == lower:
                break
    return way(execution)


def _judged(checkpoint: Checkpoint, tried: Execution, exact: Execution, way: Way) -> Execution:
    """Take a lower precision if it agrees with float32 and is faster, else float32, and say why."""

    def measure() -> Agreement:
        reference = way(exact)
        pixels = np.stack([reference.prepare(picture) for picture in probe_pictures()])
        return measure_agreement(lambda: way(tried), reference, pixels)

    agreement = agreement_once(checkpoint.key, tried, measure)
    figures = f"cosine to float32 at least {agreement.smallest:.5f}, {agreement.speedup:.1f} × its speed, measured here"
    if agreement.smallest >= LEAST_AGREEMENT and agreement.speedup > 1:
        return replace(tried, agreement=agreement.smallest, reason=figures)
    return replace(exact, reason=f"{tried.precision} was refused: {figures}")


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
