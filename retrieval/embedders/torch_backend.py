"""The whole way from pixels to pooled features as one torch module, which other backends convert as it is."""

import contextlib
import hashlib
import platform
import threading
import warnings
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image

from retrieval.embedders.base import EmbedderIdentity, Execution, to_length_1
from retrieval.errors import VisualMemoryWarning
from retrieval.support.allocator import keep_freed_memory

Pool = Callable[[torch.nn.Module, torch.Tensor], torch.Tensor]


class EmbeddingModule(torch.nn.Module):
    """Takes pixels (batch, height, width, 3) as uint8 and gives float32 features (batch, dimension).

    Mean and deviation are taken off here, so that a quarter of the bytes travel and no core waits for them. Scaling to
    length 1 is left to the embedder: in int8 the vectors would no longer have that length.
    """

    def __init__(self, backbone: torch.nn.Module, pool: Pool, identity: EmbedderIdentity) -> None:
        super().__init__()
        assert identity.preprocessing is not None
        self.identity = identity
        self.backbone = backbone.float()
        self.pool = pool
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.register_buffer("mean", 255 * torch.tensor(identity.preprocessing.mean))
        self.register_buffer("std", 255 * torch.tensor(identity.preprocessing.std))
        self.dtype = torch.float32  # of what the backbone is given
        self.eval().requires_grad_(False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return one row of features per picture."""
        channels_last = (pixels.float() - self.mean) / self.std
        return self.pool(self.backbone, channels_last.to(self.dtype).permute(0, 3, 1, 2)).float()


def weights_digest(state: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 of a model's tensors, whatever file format they came in."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


# On CPUs a batch of 8 is as fast as any, and a small one keeps memory small; GPUs want many more.
_BATCH_SIZES: Final = {"cpu": 8, "cuda": 128, "mps": 64}
# Full batches before torch.compile, which takes a minute that a short run never earns back. On CPUs it gains nothing:
# 13.5 against 13.4 images/s with a ViT-S in float32.
_COMPILE_AFTER: Final[dict[str, int | None]] = {"cpu": None, "cuda": 100, "mps": None}


def has_native(device: str, precision: str, instructions: Mapping[str, Any] | None = None) -> bool:
    """Tell whether a device computes in a lower precision by itself, rather than emulating it.

    Args:
        device: ``cpu``, ``cuda`` or ``mps``.
        precision: ``bfloat16`` or ``float16``.
        instructions: of the processor: which of avx512_bf16, amx_bf16 and their like it has; None asks torch.
    """
    if device == "cpu":
        known = torch.cpu.get_capabilities() if instructions is None else instructions
        return precision == "bfloat16" and any(known[name] for name in known if name.endswith("bf16"))
    if device == "cuda" and precision == "bfloat16":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return True


def device_name(device: str) -> str:
    """Return the name of a device as its maker gives it."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return str(torch.cpu.get_capabilities().get("cpu_name", platform.processor())) if device == "cpu" else device


class TorchEmbedder:
    """A loaded model on a device, in a precision.

    On CPUs bfloat16 means autocast, which is closer to float32 than bfloat16 weights are (cosine 0.99996 instead of
    0.99991 with a ViT-S) and about as fast. On GPUs the weights themselves are of the lower precision.
    """

    def __init__(self, module: EmbeddingModule, execution: Execution, *, compile_after: int | None = None) -> None:
        device, precision = execution.device, execution.precision
        self.identity = module.identity
        self.execution = execution
        self.batch_size = _BATCH_SIZES[device]  # that keep the device busy; less after it ran out of memory
        self._autocast = device == "cpu" and precision == "bfloat16"
        if not self._autocast:
            module.dtype = getattr(torch, precision)
            module.backbone.to(module.dtype)
        # Convolutions run two to three times as fast on this layout; transformers do not notice it.
        self._module = module.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._compile_after = _COMPILE_AFTER[device] if compile_after is None else compile_after
        self._full_batches = 0
        # A GPU is fed by two threads in turn; on a CPU two at once would only take each other's cores.
        self._turn = threading.Lock() if device == "cpu" else contextlib.nullcontext()
        if device == "cpu":
            keep_freed_memory()

    @cached_property
    def _compiled(self) -> Any:  # noqa: ANN401 - what torch.compile returns is untyped
        return torch.compile(self._module, dynamic=False)

    def prepare(self, image: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
        """Return a decoded RGB picture scaled and cropped for the model."""
        return self.identity.prepare(image)

    def embed(self, pixels: UInt8[np.ndarray, "batch height width 3"]) -> Float[np.ndarray, "batch dimension"]:
        """Return one float32 vector of length 1 per picture; what does not fit into memory at once goes in halves."""
        with self._turn:
            try:
                return self._run(pixels)
            except torch.OutOfMemoryError:
                if len(pixels) == 1:
                    raise
                half = len(pixels) // 2
                self.batch_size = min(self.batch_size, half)
                torch.cuda.empty_cache()
        return np.concatenate([self.embed(pixels[:half]), self.embed(pixels[half:])])

    def _run(self, pixels: UInt8[np.ndarray, "batch height width 3"]) -> Float[np.ndarray, "batch dimension"]:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=self._autocast):
            inputs = torch.from_numpy(pixels)
            if self.execution.device == "cuda":
                inputs = inputs.pin_memory()  # a copy from pinned memory runs beside the computation
            inputs = inputs.to(self.execution.device, non_blocking=True)
            return to_length_1(self._forward(inputs).cpu().numpy())

    def _forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Run the compiled module on full batches once there have been many; another size would be compiled afresh."""
        if len(inputs) == self.batch_size:
            self._full_batches += 1
            if self._compile_after is not None and self._full_batches > self._compile_after:
                try:
                    return self._compiled(inputs)  # type: ignore[no-any-return]
                except torch.OutOfMemoryError:
                    raise
                except Exception as error:  # no compiler, an unknown GPU: whatever it is, there is another way
                    self._compile_after = None
                    what = f"torch.compile does not work here ({type(error).__name__}): embedding goes on without it"
                    warnings.warn(what, VisualMemoryWarning, stacklevel=2)
        return self._module(inputs)  # type: ignore[no-any-return]
