"""One embedder class for every torch model: what differs between families is a function that pools features."""

import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import Float
from PIL import Image

from retrieval.embedders.allocator import keep_freed_memory
from retrieval.embedders.base import EmbedderIdentity
from retrieval.embedders.preprocessing import Preprocessing
from retrieval.errors import InvalidArgument

if TYPE_CHECKING:
    import torch

DEVICES: Final = ("auto", "cpu", "cuda", "mps")
# On CPUs a batch of 8 is as fast as any, and a small one keeps memory small; GPUs want many more.
_BATCH_SIZES: Final = {"cpu": 8, "cuda": 128, "mps": 64}


class TorchEmbedder:
    """A torch module, the function that pools its features, and the preprocessing it was trained with."""

    def __init__(
        self,
        module: "torch.nn.Module",
        pool: Callable[["torch.nn.Module", "torch.Tensor"], "torch.Tensor"],
        *,
        name: str,
        origin: str,
        pooling: str,
        dimension: int,
        preprocessing: Preprocessing,
        device: str = "auto",
    ) -> None:
        import torch

        digest = weights_digest(module.state_dict())
        self._identity = EmbedderIdentity(name, digest, preprocessing, pooling, dimension, origin)
        self._preprocessing = preprocessing
        self._pool = pool
        self.device = choose_device(device)
        # Half precision where the hardware is made for it; on CPUs it would be emulated.
        self._dtype = torch.float32 if self.device == "cpu" else torch.float16
        module = module.eval().requires_grad_(False).to(self.device, self._dtype)
        # Convolutions run two to three times as fast on this layout; transformers do not notice it.
        if self.device == "cpu":
            keep_freed_memory()
        self._module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def identity(self) -> EmbedderIdentity:
        """Name, weights, preprocessing and pooling."""
        return self._identity

    @property
    def batch_size(self) -> int:
        """How many pictures at a time keep the device busy."""
        return _BATCH_SIZES[self.device]

    def prepare(self, image: Image.Image) -> Float[np.ndarray, "3 height width"]:
        """Return a decoded RGB picture as the model's input, float32."""
        return self._preprocessing(image)

    def embed(self, pixels: Float[np.ndarray, "batch 3 height width"]) -> Float[np.ndarray, "batch dimension"]:
        """Return one float32 vector of length 1 per picture."""
        import torch

        with torch.inference_mode():
            inputs = torch.from_numpy(pixels).to(self.device, self._dtype, memory_format=torch.channels_last)
            features = self._pool(self._module, inputs).float()
            unit: np.ndarray = torch.nn.functional.normalize(features, dim=-1).cpu().numpy()
        return unit


def choose_device(device: str) -> str:
    """Return the device to run on: the one asked for, or for ``auto`` the best there is: cuda, mps, cpu.

    Raises:
        InvalidArgument: an unknown device, or one that this machine lacks.
    """
    import torch

    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, there in present.items() if there)
    if device not in present:
        raise InvalidArgument(f"no device {device!r}: choose one of {', '.join(DEVICES)}")
    if not present[device]:
        raise InvalidArgument(f"device {device!r} is not on this machine: use --device auto or cpu")
    return device


def weights_digest(state: Mapping[str, "torch.Tensor"]) -> str:
    """Return the SHA-256 of a model's tensors, whatever file format they came in."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
