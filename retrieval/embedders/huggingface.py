"""DINOv2 and CLIP through transformers: from the hub, from its cache, or from a local folder."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from retrieval.embedders.base import CLIP, IMAGENET, Checkpoint, LoadedModel, Preprocessing
from retrieval.errors import MissingWeights, UnknownEmbedder
from retrieval.support.outside import check_proxies, parse_json

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


_CONFIG: Final = "config.json"
_WEIGHTS: Final = ("model.safetensors", "pytorch_model.bin")  # the first that is there is taken, as transformers does
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


def _model_class(family: Family) -> Any:  # noqa: ANN401 - transformers is untyped here
    import transformers

    transformers.utils.logging.set_verbosity_error()  # unused text weights of CLIP are no news
    transformers.utils.logging.disable_progress_bar()  # reading a file takes under a second; downloads keep theirs
    return getattr(transformers, family.model_class)


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


def _load(place: str | Path, family: Family, *, name: str, origin: str) -> LoadedModel:
    from retrieval.embedders.torch_backend import loaded_model

    try:
        # What is here is loaded without asking the hub, which may be out of reach.
        module, report = _model_class(family).from_pretrained(place, output_loading_info=True, local_files_only=True)
    except Exception as error:  # a damaged file fails in whichever library reads it first
        raise MissingWeights(f"the weights in {place} cannot be read, fetch or copy them again: {error}") from error
    if report["missing_keys"]:  # transformers would fill them with random numbers
        missing = sorted(report["missing_keys"])
        raise MissingWeights(
            f"the weights in {place} are incomplete, {len(missing)} are missing ({missing[0]}, …): save the whole model"
        )
    return loaded_model(
        module,
        family.pool,
        name=name,
        origin=origin,
        pooling=family.pooling,
        dimension=int(getattr(module.config, family.dimension_field)),
        preprocessing=_preprocessing(family, module),
    )


def _preprocessing(family: Family, module: "torch.nn.Module") -> Preprocessing:
    if family.preprocessing is not CLIP:
        return family.preprocessing
    side = int(module.config.image_size)  # type: ignore[union-attr, arg-type]
    return replace(CLIP, resize=side, crop=side)  # CLIP takes pictures of one size alone, 224 in most of its models
