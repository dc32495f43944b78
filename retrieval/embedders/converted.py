"""Models converted for OpenVINO, kept so that a later process maps them from disk and never imports torch."""

import json
import logging
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from retrieval.cachedir import cache_folder, folder_bytes, make_whole
from retrieval.embedders.base import EmbedderIdentity
from retrieval.embedders.checkpoint import Checkpoint, LoadedModel
from retrieval.embedders.openvino_embedder import openvino_runtime

_FORMAT: Final = 1
_MODEL: Final = "float32.xml"
_RECORD: Final = "identity.json"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ConvertedModel:
    """A folder that holds a model's converted copies, and what model it is."""

    folder: Path
    identity: EmbedderIdentity

    @property
    def model(self) -> Path:
        """The float32 model: an .xml file with its weights beside it."""
        return self.folder / _MODEL

    def int8_folder(self, calibration: str) -> Path:
        """Return where the int8 copy lies, or is to lie, that took its ranges from these pictures."""
        return self.folder / f"int8-{calibration}"


def converted(checkpoint: Checkpoint) -> ConvertedModel:
    """Return a checkpoint's converted model, converting it now where that was not done before.

    Raises:
        EmbedderError: the weights cannot be loaded.
        OSError: the cache cannot be written.
        RuntimeError: OpenVINO cannot convert the model.
    """
    folder = cache_folder("models") / checkpoint.key
    known = _read(folder)
    if known is not None:
        return known
    loaded = checkpoint.load()
    _log.info("Converting %s for OpenVINO, once", checkpoint.name)
    make_whole(folder, lambda aside: _convert(loaded, aside), is_whole=lambda made: _read(made) is not None)
    return ConvertedModel(folder, loaded.identity)


def converted_models() -> list[tuple[str, int]]:
    """Return each converted model's fingerprint and the bytes it takes, with its int8 copies."""
    folders = sorted(cache_folder("models").glob("*"))
    known = ((folder, _read(folder)) for folder in folders)
    return [(model.identity.fingerprint, folder_bytes(folder)) for folder, model in known if model is not None]


def save_model(model: Any, path: Path) -> None:  # noqa: ANN401 - OpenVINO is untyped
    """Write a model with its weights as they are: float32 must stay float32."""
    openvino_runtime().save_model(model, path, compress_to_fp16=False)


def _convert(loaded: LoadedModel, folder: Path) -> None:
    import torch

    preprocessing = loaded.identity.preprocessing
    assert preprocessing is not None
    side = preprocessing.crop
    example = torch.zeros(2, side, side, 3, dtype=torch.uint8)
    with warnings.catch_warnings():  # of branches that tracing fixes: the size of pictures is fixed
        warnings.simplefilter("ignore")
        model = openvino_runtime().convert_model(loaded.module, example_input=example)
    model.reshape([-1, side, side, 3])  # any number of pictures, all of one size
    save_model(model, folder / _MODEL)
    weights = os.path.getsize((folder / _MODEL).with_suffix(".bin"))
    record = {"format": _FORMAT, "weights_bytes": weights, "identity": json.loads(loaded.identity.to_json())}
    (folder / _RECORD).write_text(json.dumps(record))


def _read(folder: Path) -> ConvertedModel | None:
    try:
        record = json.loads((folder / _RECORD).read_text())
        weights = os.path.getsize((folder / _MODEL).with_suffix(".bin"))
        if record["format"] == _FORMAT and record["weights_bytes"] == weights and (folder / _MODEL).is_file():
            return ConvertedModel(folder, EmbedderIdentity.from_json(json.dumps(record["identity"])))
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None
