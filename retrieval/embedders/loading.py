"""From what was asked for to what runs: device, then backend, then the fastest precision that is safe."""

import os
import platform
import warnings
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import UInt8

from retrieval.embedders.agreement import Agreement, agreement_once, measure_agreement, probe_pictures
from retrieval.embedders.base import Embedder, EmbedderIdentity
from retrieval.embedders.checkpoint import Checkpoint
from retrieval.embedders.execution import LEAST_AGREEMENT, Execution, Requested
from retrieval.errors import InvalidArgument, VisualMemoryWarning

if TYPE_CHECKING:
    from retrieval.embedders.converted import ConvertedModel
    from retrieval.embedders.int8 import Calibration

_GPU_FILES: Final = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # NVIDIA, NVIDIA below Windows, AMD
_LOWER: Final = {"cpu": ("bfloat16",), "cuda": ("float16", "bfloat16"), "mps": ("float16",)}  # fastest first
_EMULATED: Final = "the processor has no bfloat16 of its own, and would emulate it slowly"


def load(checkpoint: Checkpoint, requested: Requested, calibration: "Calibration | None") -> Embedder:
    """Return a checkpoint's embedder; see `retrieval.embedders.load_embedder`."""
    device = choose_device("cpu" if requested.precision == "int8" else requested.device)
    if device == "cpu" and requested.backend != "torch":
        needed = requested.backend == "openvino" or requested.precision == "int8"
        if find_spec("openvino") is not None:
            try:
                return _load_openvino(checkpoint, requested.precision, calibration)
            except (OSError, RuntimeError) as error:  # RuntimeError: all that OpenVINO raises
                trouble = f"OpenVINO cannot run {checkpoint.name} here ({_first_line(error)})"
                if needed:
                    raise InvalidArgument(f"{trouble}: use --backend torch") from error
                warnings.warn(f"{trouble}: torch does, more slowly", VisualMemoryWarning, stacklevel=3)
        elif needed:
            raise InvalidArgument("OpenVINO is not installed: pip install openvino, or use --backend torch")
    return _load_torch(checkpoint, device, requested.precision)


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


def _load_openvino(checkpoint: Checkpoint, precision: str, calibration: "Calibration | None") -> Embedder:
    from retrieval.embedders.converted import converted
    from retrieval.embedders.int8 import has_copy
    from retrieval.embedders.openvino_embedder import OpenVinoEmbedder, has_bfloat16

    if precision == "bfloat16" and not has_bfloat16():
        raise InvalidArgument(f"{_EMULATED}: use --precision float32")
    model = converted(checkpoint)
    # A memory that was asked to be int8 is asked in int8, where its copy of the model is at hand.
    own_copy = precision == "auto" and calibration is not None and has_copy(model, calibration.digest)
    if precision == "int8" or own_copy:
        return _load_int8(model, calibration)
    if precision == "auto":
        execution = _safe_openvino(checkpoint, model)
    else:
        execution = Execution("openvino", precision, "cpu", reason="as asked for")
    return OpenVinoEmbedder(model.model, model.identity, execution)


def _load_int8(model: "ConvertedModel", calibration: "Calibration | None") -> Embedder:
    from retrieval.embedders.int8 import int8_copy
    from retrieval.embedders.openvino_embedder import OpenVinoEmbedder

    if calibration is None:
        raise InvalidArgument("int8 takes its ranges from pictures: give calibration=, or use it with a memory")
    file, digest, agreement = int8_copy(model, calibration)
    reason = f"as asked for; cosine to float32 {agreement.mean:.4f} on average, at least {agreement.smallest:.4f}"
    return OpenVinoEmbedder(
        file, model.identity, Execution("openvino", "int8", "cpu", digest, agreement.smallest, reason)
    )


def _safe_openvino(checkpoint: Checkpoint, model: "ConvertedModel") -> Execution:
    from retrieval.embedders.openvino_embedder import OpenVinoEmbedder, has_bfloat16, openvino_runtime, processor_name

    if not has_bfloat16():
        return Execution("openvino", "float32", "cpu", reason=_EMULATED)

    def way(precision: str) -> Embedder:
        return OpenVinoEmbedder(model.model, model.identity, Execution("openvino", precision, "cpu"))

    def measure() -> Agreement:
        return measure_agreement(way("bfloat16"), way("float32"), _probes(model.identity))

    where = f"bfloat16 by openvino {openvino_runtime().__version__} on {processor_name()}"
    return _judged("openvino", "bfloat16", "cpu", agreement_once(checkpoint.key, where, measure))


def _load_torch(checkpoint: Checkpoint, device: str, precision: str) -> Embedder:
    from retrieval.embedders.torch_embedder import TorchEmbedder, has_native

    if precision != "auto":
        if precision != "float32" and not has_native(device, precision):
            raise InvalidArgument(f"{_EMULATED}: use --precision float32")
        return TorchEmbedder(checkpoint.load(), Execution("torch", precision, device, reason="as asked for"))
    return TorchEmbedder(checkpoint.load(), _safe_torch(checkpoint, device))


def _safe_torch(checkpoint: Checkpoint, device: str) -> Execution:
    import torch

    from retrieval.embedders.torch_embedder import TorchEmbedder, device_name, has_native

    refused = Execution("torch", "float32", device, reason=_EMULATED)
    for precision in _LOWER[device]:
        if not has_native(device, precision):
            continue

        def measure(precision: str = precision) -> Agreement:
            reference, tried = (
                TorchEmbedder(checkpoint.load(), Execution("torch", tested, device))
                for tested in ("float32", precision)
            )
            return measure_agreement(tried, reference, _probes(reference.identity))

        where = f"{precision} by torch {torch.__version__} on {device_name(device)}"
        judged = _judged("torch", precision, device, agreement_once(checkpoint.key, where, measure))
        if judged.precision == precision:
            return judged
        refused = judged
    return refused


def _judged(backend: str, precision: str, device: str, agreement: Agreement) -> Execution:
    """Take a lower precision if it agrees with float32 and is faster, else float32, and say why."""
    figures = f"cosine to float32 at least {agreement.smallest:.5f}, {agreement.speedup:.1f} × its speed, measured here"
    if agreement.smallest >= LEAST_AGREEMENT and agreement.speedup > 1:
        return Execution(backend, precision, device, agreement=agreement.smallest, reason=figures)
    return Execution(backend, "float32", device, reason=f"{precision} was refused: {figures}")


def _probes(identity: EmbedderIdentity) -> UInt8[np.ndarray, "pictures height width 3"]:
    assert identity.preprocessing is not None
    return np.stack([identity.preprocessing.scale_and_crop(picture) for picture in probe_pictures()])


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
