"""DINOv2 and CLIP through transformers: from the hub, from its cache, or from a local folder."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from retrieval.embedders.preprocessing import CLIP, IMAGENET, Preprocessing
from retrieval.embedders.torch_embedder import TorchEmbedder
from retrieval.errors import MissingWeights, UnknownEmbedder

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Family:
    """Models that share an architecture: how transformers calls it, how features are pooled and pictures prepared."""

    model_class: str  # in transformers
    pool: Callable[["torch.nn.Module", "torch.Tensor"], "torch.Tensor"]
    pooling: str
    preprocessing: Preprocessing
    dimension_field: str  # in the checkpoint's configuration


_CLASS_TOKEN = "normalised class token"
FAMILIES: Final[dict[str, Family]] = {  # by `model_type` in a checkpoint's config.json
    "dinov2": Family(
        "Dinov2Model", lambda m, x: m(pixel_values=x).pooler_output, _CLASS_TOKEN, IMAGENET, "hidden_size"
    ),
    "dinov2_with_registers": Family(
        "Dinov2WithRegistersModel",
        lambda m, x: m(pixel_values=x).pooler_output,
        _CLASS_TOKEN,
        IMAGENET,
        "hidden_size",
    ),
    "clip": Family(
        "CLIPVisionModelWithProjection",
        lambda m, x: m(pixel_values=x).image_embeds,
        "projected class token",
        CLIP,
        "projection_dim",
    ),
}
FAMILIES["clip_vision_model"] = FAMILIES["clip"]  # the picture half of a CLIP checkpoint, saved alone


def load_from_hub(name: str, repository: str, family: str, *, device: str = "auto") -> TorchEmbedder:
    """Return a model by its hub repository: from the hub's cache where it is there, else downloaded.

    Raises:
        MissingWeights: not in the cache, and the hub cannot be reached.
    """
    cached = is_cached(repository)
    if not cached:
        _expect_on_hub(name, repository)
    return _load(repository, FAMILIES[family], name=name, origin=name, device=device, local=cached)


def load_from_folder(folder: Path, *, device: str = "auto") -> TorchEmbedder:
    """Return a model from a folder that transformers saved.

    Raises:
        UnknownEmbedder: the folder holds no checkpoint of a known family.
        MissingWeights: the weights are not there or damaged.
    """
    try:
        model_type = str(json.loads((folder / "config.json").read_text())["model_type"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnknownEmbedder(
            f"{folder} holds no saved model: a folder with config.json and model.safetensors expected"
        ) from error
    if model_type not in FAMILIES:
        raise UnknownEmbedder(f"{folder} holds a {model_type!r} model: one of {', '.join(FAMILIES)} expected")
    place = folder.resolve()
    return _load(place, FAMILIES[model_type], name=place.name, origin=str(place), device=device, local=True)


def is_cached(repository: str) -> bool:
    """Tell whether a repository's configuration and weights lie in the hub's cache on this machine."""
    from huggingface_hub import try_to_load_from_cache

    def cached(file: str) -> bool:
        return isinstance(try_to_load_from_cache(repository, file), str)

    return cached("config.json") and (cached("model.safetensors") or cached("pytorch_model.bin"))


def _model_class(family: Family) -> Any:  # noqa: ANN401 - transformers is untyped here
    import transformers

    transformers.utils.logging.set_verbosity_error()  # unused text weights of CLIP are no news
    transformers.utils.logging.disable_progress_bar()  # reading a file takes under a second; downloads keep theirs
    return getattr(transformers, family.model_class)


def _expect_on_hub(name: str, repository: str) -> None:
    """Ask the hub once, before transformers asks six times over half a minute."""
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(repository, timeout=10)
    except Exception as error:  # offline, refused, renamed: all have the same two cures
        raise MissingWeights(
            f"the weights of {name} are not in the hub cache and the hub cannot be reached: run"
            f" `hf download {repository}` once with a network, or give a folder that holds the model:"
            " --embedder FOLDER"
        ) from error


def _load(place: str | Path, family: Family, *, name: str, origin: str, device: str, local: bool) -> TorchEmbedder:
    try:
        # What is here is loaded without asking the hub, which may be out of reach.
        module, report = _model_class(family).from_pretrained(place, output_loading_info=True, local_files_only=local)
    except Exception as error:  # a damaged file fails in whichever library reads it first
        raise MissingWeights(f"the weights in {place} cannot be read, fetch or copy them again: {error}") from error
    if report["missing_keys"]:  # transformers would fill them with random numbers
        missing = sorted(report["missing_keys"])
        raise MissingWeights(
            f"the weights in {place} are incomplete, {len(missing)} are missing ({missing[0]}, …): save the whole model"
        )
    return TorchEmbedder(
        module,
        family.pool,
        name=name,
        origin=origin,
        pooling=family.pooling,
        dimension=int(getattr(module.config, family.dimension_field)),
        preprocessing=_preprocessing(family, module),
        device=device,
    )


def _preprocessing(family: Family, module: "torch.nn.Module") -> Preprocessing:
    if family.preprocessing is not CLIP:
        return family.preprocessing
    side = int(module.config.image_size)  # type: ignore[union-attr, arg-type]
    return replace(CLIP, resize=side, crop=side)  # CLIP takes pictures of one size alone, 224 in most of its models
