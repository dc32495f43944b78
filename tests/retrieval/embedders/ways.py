"""Ways to run an embedder in tests, and pictures to run it on."""

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from retrieval.embedders.base import IMAGENET, Embedder, EmbedderIdentity, Execution, Processor
from retrieval.embedders.openvino_backend import ConvertedModel, OpenVinoEmbedder, openvino_execution, this_processor
from retrieval.images import decode
from tests.conftest import draw

if TYPE_CHECKING:
    import torch

    from retrieval.embedders.torch_backend import Pool, TorchEmbedder

PICTURES: Final = [draw((40 * number, 90, 200 - 30 * number), number, (260 + 7 * number, 240)) for number in range(6)]
PIXELS: Final = np.random.default_rng(1).integers(0, 256, (8, 224, 224, 3), dtype=np.uint8)
ROOT: Final = Path(__file__).parents[3]


def embed(embedder: Embedder, pictures: list[Image.Image] = PICTURES) -> np.ndarray:
    """Return a picture's vector a row, computed in one batch."""
    return embedder.embed(np.stack([embedder.prepare(decode(picture)) for picture in pictures]))


def embed_alone(embedder: Embedder) -> np.ndarray:
    """Return the same rows, each computed by itself."""
    return np.concatenate([embed(embedder, [picture]) for picture in PICTURES])


def openvino_embedder(model: ConvertedModel, precision: str, processor: Processor | None = None) -> OpenVinoEmbedder:
    """Return a converted model's embedder."""
    return OpenVinoEmbedder(model, openvino_execution(precision, processor or this_processor()), processor)


def torch_embedder(pool: "Pool", *, compile_after: int | None = None) -> "TorchEmbedder":
    """Return an embedder of a module without weights: what pools is what is tested."""
    import torch

    from retrieval.embedders.torch_backend import EmbeddingModule, TorchEmbedder

    identity = EmbedderIdentity("small", "no weights", IMAGENET, "mean", 8, "")
    made = EmbeddingModule(torch.nn.Conv2d(3, 8, 32, stride=32), pool, identity)
    return TorchEmbedder(made, Execution("torch", "float32", "cpu"), compile_after=compile_after)


def mean_of_squares(backbone: "torch.nn.Module", pixels: "torch.Tensor") -> "torch.Tensor":
    """Pool features in a way that has something to compile."""
    features: Any = backbone(pixels)
    pooled: torch.Tensor = (features**2).mean(dim=(2, 3))
    return pooled


def run_python(program: str, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a program in a process of its own."""
    return subprocess.run(
        [sys.executable, "-W", "error::retrieval.errors.VisualMemoryWarning", "-c", program, *arguments]
        if arguments
        else [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
