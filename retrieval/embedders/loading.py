"""From what was asked for to what runs: device, then backend, then the fastest precision that is safe."""

import os
import platform
import warnings
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import UInt8

from retrieval.embedders.base import (
    LEAST_AGREEMENT,
    Checkpoint,
    Embedder,
    EmbedderIdentity,
    Execution,
    Processor,
    Requested,
    instruction_sets,
)
from retrieval.embedders.checked import Checked, reason_of
from retrieval.embedders.precision import Agreement, agreement_once, measure_agreement, probe_pictures
from retrieval.errors import InvalidArgument, VisualMemoryWarning

if TYPE_CHECKING:
    from retrieval.embedders.openvino_backend import ConvertedModel
    from retrieval.embedders.precision import Calibration

_GPU_FILES: Final = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # NVIDIA, NVIDIA below Windows, AMD
_LOWER: Final = {"cpu": ("bfloat16",), "cuda": ("float16", "bfloat16"), "mps": ("float16",)}  # fastest first
_EMULATED: Final = "the processor has no bfloat16 of its own, and would emulate it slowly"


def load(
    checkpoint: Checkpoint,
    requested: Requested,
    calibration: "Calibration | None",
    processor: Processor | None = None,
) -> Embedder:
    """Return a checkpoint's embedder; see `retrieval.embedders.load_embedder`.

    Args:
        checkpoint: the model.
        requested: how it is to run.
        calibration: pictures for int8.
        processor: what OpenVINO is to take the processor for; None asks it.
    """
    device = choose_device("cpu" if requested.precision == "int8" else requested.device)
    if device == "cpu" and requested.backend != "torch":
        needed = requested.backend == "openvino" or requested.precision == "int8"
        if find_spec("openvino") is not None:
            try:
                return Checked(
                    _load_openvino(checkpoint, requested.precision, calibration, processor),
                    lambda: _in_float32(checkpoint),
                )
            except (OSError, RuntimeError) as error:  # RuntimeError: all that OpenVINO raises
                trouble = f"OpenVINO cannot run {checkpoint.name} here ({reason_of(error)})"
                if needed:
                    raise InvalidArgument(f"{trouble}: use --backend torch") from error
                warnings.warn(f"{trouble}: torch does, more slowly", VisualMemoryWarning, stacklevel=3)
        elif needed:
            raise InvalidArgument("OpenVINO is not installed: pip install openvino, or use --backend torch")
    loaded = _load_torch(checkpoint, device, requested.precision)
    exact = device == "cpu" and loaded.execution.precision == "float32"
    return Checked(loaded, None if exact else lambda: _in_float32(checkpoint))


def _in_float32(checkpoint: Checkpoint) -> Embedder:
    """Return the embedder that everything else is measured by: torch in float32, with nothing from the cache."""
    from retrieval.embedders.torch_backend import TorchEmbedder

    return TorchEmbedder(checkpoint.load(), _by_torch(checkpoint, "float32", "cpu"))


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
    checkpoint: Checkpoint, precision: str, calibration: "Calibration | None", processor: Processor | None
) -> Embedder:
    from retrieval.embedders.openvino_backend import OpenVinoEmbedder, converted, openvino_execution, this_processor
    from retrieval.embedders.precision import find_int8, int8_copy

    processor = processor or this_processor()
    if precision == "bfloat16" and not processor.bfloat16:
        raise InvalidArgument(f"{_EMULATED}: use --precision float32")
    model = converted(checkpoint)
    # A memory that was asked to be int8 is asked in int8, where its copy of the model is at hand.
    own_copy = precision == "auto" and calibration and find_int8(model, calibration.digest, processor)
    if precision == "int8" or own_copy:
        if calibration is None:
            raise InvalidArgument("int8 takes its ranges from pictures: give calibration=, or use it with a memory")
        model, execution, agreement = int8_copy(model, calibration, processor)
        figures = f"cosine to float32 {agreement.mean:.4f} on average, at least {agreement.smallest:.4f}"
        execution = replace(execution, agreement=agreement.smallest, reason=f"as asked for; {figures}")
    elif precision == "auto":
        execution = _safe_openvino(checkpoint, model, processor)
    else:
        execution = openvino_execution(precision, processor, reason="as asked for")
    return OpenVinoEmbedder(model.model, model.identity, execution, processor)


def _safe_openvino(checkpoint: Checkpoint, model: "ConvertedModel", processor: Processor) -> Execution:
    from retrieval.embedders.openvino_backend import OpenVinoEmbedder, openvino_execution

    exact, tried = (openvino_execution(precision, processor) for precision in ("float32", "bfloat16"))
    if not processor.bfloat16:
        return replace(exact, reason=_EMULATED)

    def way(execution: Execution) -> Embedder:
        return OpenVinoEmbedder(model.model, model.identity, execution, processor)

    def measure() -> Agreement:
        return measure_agreement(lambda: way(tried), way(exact), _probes(model.identity))

    return _judged(tried, exact, agreement_once(checkpoint.key, tried, measure))


def _load_torch(checkpoint: Checkpoint, device: str, precision: str) -> Embedder:
    from retrieval.embedders.torch_backend import TorchEmbedder, has_native

    if precision == "auto":
        execution = _safe_torch(checkpoint, device)
    elif precision != "float32" and not has_native(device, precision):
        raise InvalidArgument(f"{_EMULATED}: use --precision float32")
    else:
        execution = replace(_by_torch(checkpoint, precision, device), reason="as asked for")
    return TorchEmbedder(checkpoint.load(), execution)


def _by_torch(checkpoint: Checkpoint, precision: str, device: str) -> Execution:
    from retrieval.embedders.torch_backend import device_name

    on = f"{device_name(device)} {instruction_sets()}" if device == "cpu" else device_name(device)
    return Execution("torch", precision, device, engine=f"{checkpoint.libraries} on {on}")


def _safe_torch(checkpoint: Checkpoint, device: str) -> Execution:
    from retrieval.embedders.torch_backend import TorchEmbedder, has_native

    exact = _by_torch(checkpoint, "float32", device)
    refused = replace(exact, reason=_EMULATED)
    for precision in _LOWER[device]:
        if not has_native(device, precision):
            continue
        tried = _by_torch(checkpoint, precision, device)

        def measure(tried: Execution = tried) -> Agreement:
            reference, embedder = (TorchEmbedder(checkpoint.load(), execution) for execution in (exact, tried))
            return measure_agreement(lambda: embedder, reference, _probes(reference.identity))

        judged = _judged(tried, exact, agreement_once(checkpoint.key, tried, measure))
        if judged.precision == precision:
            return judged
        refused = judged
    return refused


def _judged(tried: Execution, exact: Execution, agreement: Agreement) -> Execution:
    """Take a lower precision if it agrees with float32 and is faster, else float32, and say why."""
    figures = f"cosine to float32 at least {agreement.smallest:.5f}, {agreement.speedup:.1f} × its speed, measured here"
    if agreement.smallest >= LEAST_AGREEMENT and agreement.speedup > 1:
        return replace(tried, agreement=agreement.smallest, reason=figures)
    return replace(exact, reason=f"{tried.precision} was refused: {figures}")


def _probes(identity: EmbedderIdentity) -> UInt8[np.ndarray, "pictures height width 3"]:
    assert identity.preprocessing is not None
    return np.stack([identity.preprocessing.scale_and_crop(picture) for picture in probe_pictures()])
