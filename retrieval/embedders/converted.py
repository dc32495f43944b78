"""Models converted for OpenVINO, kept so that a later process maps them from disk and never imports torch."""

import hashlib
import json
import logging
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from retrieval.cachedir import (
    cache_folder,
    cache_key,
    drop_unused,
    folder_bytes,
    is_of_this_layout,
    make_whole,
    note_use,
    start_afresh,
)
from retrieval.embedders.base import EmbedderIdentity
from retrieval.embedders.checkpoint import Checkpoint, LoadedModel
from retrieval.embedders.openvino_embedder import openvino_runtime
from retrieval.outside import parse_json

_MODEL: Final = "model.xml"
_RECORD: Final = "record.json"
INT8: Final = "-int8-"  # in the name of a folder that holds an int8 copy
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ConvertedModel:
    """A folder that holds a model as OpenVINO takes it, in float32 or in int8, and what model it is."""

    folder: Path
    identity: EmbedderIdentity
    about: str  # for people: how it was made

    @property
    def model(self) -> Path:
        """An .xml file with its weights beside it."""
        return self.folder / _MODEL


def converted(checkpoint: Checkpoint) -> ConvertedModel:
    """Return a checkpoint's converted model, converting it now where these libraries did not do so before.

    Raises:
        EmbedderError: the weights cannot be loaded.
        OSError: the cache cannot be written.
        RuntimeError: OpenVINO cannot convert the model.
    """
    version = openvino_runtime().__version__
    about = f"openvino {version.partition('-')[0]}, {checkpoint.libraries}"
    folder = cache_folder("models") / cache_key(model=checkpoint.key, openvino=version)
    start_afresh(folder)
    known = read_model(folder)
    if known is not None:
        return known
    loaded = checkpoint.load()
    _log.info("Converting %s for OpenVINO, once", checkpoint.name)
    drop_unused(folder.parent, besides=f"*{INT8}*")  # those cannot be made again from the same pictures
    make_whole(folder, lambda aside: _convert(loaded, aside, about), is_whole=lambda made: read_model(made) is not None)
    return ConvertedModel(folder, loaded.identity, about)


def converted_models() -> list[tuple[str, int]]:
    """Return what each kept model is, and the bytes it takes with what was compiled of it."""
    found = []
    for folder in sorted(cache_folder("models").glob("[!.]*")):
        model = read_model(folder)
        about = f"{model.identity.fingerprint}, {model.about}" if model else "of an earlier version: never loaded"
        found.append((about, folder_bytes(folder)))
    return found


def write_model(model: Any, folder: Path, identity: EmbedderIdentity, about: str) -> None:  # noqa: ANN401 - untyped
    """Write a model with its weights as they are, since float32 must stay float32, and a record of it."""
    path = folder / _MODEL
    openvino_runtime().save_model(model, path, compress_to_fp16=False)
    record = {"identity": json.loads(identity.to_json()), "about": about, "files": _measured(path)}
    (folder / _RECORD).write_text(json.dumps(record))


def read_model(folder: Path) -> ConvertedModel | None:
    """Return the model that lies whole in a folder, and note its use; None where there is none."""
    if not is_of_this_layout(folder):
        return None
    try:
        record = parse_json((folder / _RECORD).read_text())
        identity = EmbedderIdentity.from_json(json.dumps(record["identity"]))
        if record["files"] != _measured(folder / _MODEL):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    note_use(folder)
    return ConvertedModel(folder, identity, str(record["about"]))


def _measured(model: Path) -> list[object]:
    """Return the digest of a model's layers and the size of its weights, which take too long to be read each time."""
    return [hashlib.sha256(model.read_bytes()).hexdigest(), os.path.getsize(model.with_suffix(".bin"))]


def _convert(loaded: LoadedModel, folder: Path, about: str) -> None:
    import torch

    preprocessing = loaded.identity.preprocessing
    assert preprocessing is not None
    side = preprocessing.crop
    example = torch.zeros(2, side, side, 3, dtype=torch.uint8)
    with warnings.catch_warnings():  # of branches that tracing fixes: the size of pictures is fixed
        warnings.simplefilter("ignore")
        model = openvino_runtime().convert_model(loaded.module, example_input=example)
    model.reshape([-1, side, side, 3])  # any number of pictures, all of one size
    write_model(model, folder, loaded.identity, about)
