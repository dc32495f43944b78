"""The whole way from pixels to pooled features as one torch module, which other backends convert as it is."""

import hashlib
from collections.abc import Callable, Mapping

import torch

from retrieval.embedders.base import EmbedderIdentity
from retrieval.embedders.checkpoint import LoadedModel
from retrieval.embedders.preprocessing import Preprocessing

Pool = Callable[[torch.nn.Module, torch.Tensor], torch.Tensor]


class EmbeddingModule(torch.nn.Module):
    """Takes pixels (batch, height, width, 3) as uint8 and gives float32 features (batch, dimension).

    Mean and deviation are taken off here, so that a quarter of the bytes travel and no core waits for them. Scaling to
    length 1 is left to the embedder: in int8 the vectors would no longer have that length.
    """

    def __init__(self, backbone: torch.nn.Module, pool: Pool, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.backbone = backbone
        self.pool = pool
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.register_buffer("mean", 255 * torch.tensor(preprocessing.mean))
        self.register_buffer("std", 255 * torch.tensor(preprocessing.std))
        self.dtype = torch.float32  # of what the backbone is given

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return one row of features per picture."""
        channels_last = (pixels.float() - self.mean) / self.std
        return self.pool(self.backbone, channels_last.to(self.dtype).permute(0, 3, 1, 2)).float()

    def to_precision(self, dtype: torch.dtype) -> None:
        """Turn the backbone's weights, and what it is given, into another type."""
        self.backbone.to(dtype)
        self.dtype = dtype


def loaded_model(
    backbone: torch.nn.Module,
    pool: Pool,
    *,
    name: str,
    origin: str,
    pooling: str,
    dimension: int,
    preprocessing: Preprocessing,
) -> LoadedModel:
    """Return a backbone with its identity, ready to run or to be converted."""
    digest = weights_digest(backbone.state_dict())
    identity = EmbedderIdentity(name, digest, preprocessing, pooling, dimension, origin)
    module = EmbeddingModule(backbone.float(), pool, preprocessing)
    return LoadedModel(module.eval().requires_grad_(False), identity)


def weights_digest(state: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 of a model's tensors, whatever file format they came in."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
