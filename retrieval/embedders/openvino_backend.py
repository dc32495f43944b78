"""Embedding with OpenVINO: the fast path on CPUs. Nothing here imports torch."""

import hashlib
import json
import logging
import os
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from retrieval.embedders.base import (
    Checkpoint,
    EmbedderIdentity,
    Execution,
    LoadedModel,
    Processor,
    instruction_sets,
    to_length_1,
)
from retrieval.errors import EmbedderError
from retrieval.support.cachedir import (
    cache_folder,
    cache_key,
    drop,
    drop_unused,
    folder_bytes,
    is_of_this_layout,
    loading,
    make_whole,
    note_use,
    start_afresh,
)
from retrieval.support.outside import parse_json

# Pictures a request. Streams of one core each, working on four at a time, beat all cores on one batch of 16:
# ViT-S in bfloat16 58 images/s against 50, EfficientNet-Lite0 in float32 411 against 356 (2 cores).
_CHUNK: Final = 4
_ROUNDS: Final = 2  # chunks a stream and batch
_HINTS: Final = {"float32": "f32", "bfloat16": "bf16"}
_KEPT: Final = {"CACHE_MODE": "OPTIMIZE_SIZE"}  # of what compiling finds out: all but the weights


_importing = threading.Lock()


def openvino_runtime() -> Any:  # noqa: ANN401 - OpenVINO is untyped
    """Import OpenVINO without its telemetry, which reports every conversion to Google Analytics unless told not to."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    with _importing:
        import openvino

        # Its bindings look up numpy on the first array that they see. Where two threads meet in that, one holds the
        # lock of the lookup and the other Python's, and both wait forever.
        _ = openvino.Tensor(np.zeros(1, np.float32)).data
    return openvino


@cache
def this_processor() -> Processor:
    """Return the processor as OpenVINO and the system tell it."""
    core = openvino_runtime().Core()
    return Processor(
        name=str(core.get_property("CPU", "FULL_DEVICE_NAME")),
        bfloat16="BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"),
        instructions=instruction_sets(),
        cores=os.cpu_count() or 1,
    )


def openvino_execution(
    precision: str, processor: Processor, *, calibration: str = "", agreement: float | None = None, reason: str = ""
) -> Execution:
    """Return how a model runs by OpenVINO in a precision."""
    engine = f"openvino {openvino_runtime().__version__} on {processor}"
    return Execution("openvino", precision, "cpu", calibration, agreement, reason, engine)


class OpenVinoEmbedder:
    """A converted model on the CPU, compiled when first needed: once for single pictures, once for many.

    What compiling for single pictures found out is kept beside the model, without its weights: 0.07 s instead of 0.4 s
    the next time.
    """

    def __init__(
        self, model: Path, identity: EmbedderIdentity, execution: Execution, processor: Processor | None = None
    ) -> None:
        """Say what is to run; nothing is read yet.

        Args:
            model: an .xml file with its weights beside it, in a folder that holds nothing but this model.
            identity: what model it is.
            execution: in which precision it runs.
            processor: where; None for this machine's.
        """
        self._model = model
        self._identity = identity
        self._execution = execution
        self._processor = processor or this_processor()
        self._lock = threading.Lock()  # held while compiling, and by the one request for single pictures
        self._single: Any = None  # that request, once there is one
        self._thread = threading.local()  # each thread of the pool has a request of its own

    @property
    def identity(self) -> EmbedderIdentity:
        """Name, weights, preprocessing and pooling."""
        return self._identity

    @property
    def execution(self) -> Execution:
        """Backend and precision."""
        return self._execution

    @property
    def batch_size(self) -> int:
        """How many pictures at a time keep every core busy."""
        return (os.cpu_count() or 1) * _CHUNK * _ROUNDS

    @property
    def compiled(self) -> Path:
        """The folder in which is kept what compiling for single pictures found out.

        OpenVINO 2026.4.1 names its file by the model and the performance hint alone: in a folder for all precisions,
        what was compiled in float32 was loaded for bfloat16, gave no finite vector on a processor with AMX,
        and broke the next process.
        """
        version = openvino_runtime().__version__
        settings = self._settings("LATENCY") | _KEPT | {"shape": "any number of pictures"}
        return self._model.parent / cache_key(openvino=version, processor=asdict(self._processor), **settings)

    def prepare(self, image: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
        """Return a decoded RGB picture scaled and cropped for the model."""
        assert self._identity.preprocessing is not None
        return self._identity.preprocessing.scale_and_crop(image)

    def embed(self, pixels: UInt8[np.ndarray, "batch height width 3"]) -> Float[np.ndarray, "batch dimension"]:
        """Return one float32 vector of length 1 per picture.

        Raises:
            EmbedderError: the pictures are not as `prepare` makes them.
            RuntimeError: OpenVINO cannot compile or run the model.
        """
        assert self._identity.preprocessing is not None
        side = self._identity.preprocessing.crop
        if pixels.shape[1:] != (side, side, 3):  # OpenVINO would say so as if what is kept of the model were damaged
            raise EmbedderError(
                f"got pictures as an array of shape {pixels.shape}: ({len(pixels)}, {side}, {side}, 3) expected, as"
                " prepare() makes them"
            )
        return to_length_1(self._one(pixels) if len(pixels) == 1 else self._many(pixels))

    def _one(self, pixels: UInt8[np.ndarray, "1 height width 3"]) -> Float[np.ndarray, "1 dimension"]:
        with self._lock:
            return self._first(pixels) if self._single is None else self._features(self._single, pixels)

    def _first(self, pixels: UInt8[np.ndarray, "1 height width 3"]) -> Float[np.ndarray, "1 dimension"]:
        """Compile for single pictures, or load what that found out before, and embed the first."""
        compiled = self.compiled
        start_afresh(compiled)
        kept = compiled.is_dir()
        with loading(compiled if kept else self._model.parent):
            request = (self._load(compiled) if kept else self._compile_into(compiled)).create_infer_request()
            features = self._features(request, pixels)
        if kept and not np.isfinite(features).all():
            drop(compiled)  # whatever it is of: the next process does without
        else:
            self._single = request
        return features

    def _load(self, compiled: Path) -> Any:  # noqa: ANN401 - OpenVINO is untyped
        # OpenVINO recognises a model by its file only as it lies there, with any number of pictures.
        return self._compile(self._model, "LATENCY", {"CACHE_DIR": str(compiled), **_KEPT})

    def _compile_into(self, compiled: Path) -> Any:  # noqa: ANN401 - OpenVINO is untyped
        made: list[Any] = []
        with suppress(OSError):  # a folder that cannot be written
            make_whole(compiled, lambda aside: made.append(self._load(aside)), is_whole=Path.is_dir)
        return made[0] if made else self._compile(self._model, "LATENCY", {})

    def _many(self, pixels: UInt8[np.ndarray, "batch height width 3"]) -> Float[np.ndarray, "batch dimension"]:
        missing = -len(pixels) % _CHUNK
        whole = np.concatenate([pixels, pixels[:1].repeat(missing, axis=0)]) if missing else pixels
        with self._lock:
            pool = self._pool
        chunks = (whole[start : start + _CHUNK] for start in range(0, len(whole), _CHUNK))
        # Several batches may be under way at once: what one leaves idle at its end the next one takes.
        return np.concatenate(list(pool.map(self._chunk, chunks)))[: len(pixels)]

    def _chunk(self, pixels: UInt8[np.ndarray, "chunk height width 3"]) -> Float[np.ndarray, "chunk dimension"]:
        return self._features(self._thread.request, pixels)

    @staticmethod
    def _features(request: Any, pixels: np.ndarray) -> np.ndarray:  # noqa: ANN401 - OpenVINO is untyped
        (features,) = request.infer(pixels).values()
        return np.asarray(features)

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        with loading(self._model.parent):
            graph = openvino_runtime().Core().read_model(self._model)  # mapped, not read
            _, height, width, channels = graph.input().partial_shape
            graph.reshape([_CHUNK, height, width, channels])  # of a fixed size: up to 17 % faster
            model = self._compile(graph, "THROUGHPUT", {})
        streams = model.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")

        def own_request() -> None:
            self._thread.request = model.create_infer_request()

        # One more than there are streams, so that each has its next chunk waiting.
        return ThreadPoolExecutor(streams + 1, thread_name_prefix="openvino", initializer=own_request)

    def _compile(self, model: Any, hint: str, kept: dict[str, str]) -> Any:  # noqa: ANN401 - OpenVINO is untyped
        return openvino_runtime().Core().compile_model(model, "CPU", self._settings(hint) | kept)

    def _settings(self, hint: str) -> dict[str, str]:
        # int8 leaves a few layers out.
        rest = "bf16" if self._processor.bfloat16 else "f32"
        precision = _HINTS.get(self._execution.precision, rest)
        return {"PERFORMANCE_HINT": hint, "INFERENCE_PRECISION_HINT": precision}


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
