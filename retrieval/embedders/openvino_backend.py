"""Embedding with OpenVINO: the fast path on CPUs. It runs without torch once a model is converted.

First come the models as OpenVINO takes them, kept in a cache: converted, and int8 copies of these; then what runs them.
"""

import hashlib
import itertools
import json
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout, suppress
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from retrieval.embedders.base import (
    CALIBRATION_PICTURES,
    Calibration,
    EmbedderIdentity,
    Execution,
    Processor,
    instruction_sets,
    to_length_1,
)
from retrieval.errors import EmbedderError, ImageError, InvalidArgument
from retrieval.images import ImageLike, decode
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
from retrieval.support.parsing import parse_json

if TYPE_CHECKING:
    from retrieval.embedders.checkpoints import Checkpoint
    from retrieval.embedders.torch_backend import EmbeddingModule

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


def openvino_execution(precision: str, processor: Processor, *, calibration: str = "") -> Execution:
    """Return how a model runs by OpenVINO in a precision."""
    engine = f"openvino {openvino_runtime().__version__} on {processor}"
    return Execution("openvino", precision, "cpu", calibration, engine=engine)


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


def converted(checkpoint: "Checkpoint") -> ConvertedModel:
    """Return a checkpoint's converted model, converting it now where these libraries did not do so before.

    Raises:
        EmbedderError: the weights cannot be loaded.
        OSError: the cache cannot be written.
        RuntimeError: OpenVINO cannot convert the model.
    """
    release = openvino_runtime().__version__
    about = f"openvino {release.partition('-')[0]}, {checkpoint.libraries}"
    folder = cache_folder("models") / cache_key(model=checkpoint.key, openvino=release)
    start_afresh(folder)
    known = _read(folder)
    if known is not None:
        return known
    module = checkpoint.load()
    _log.info("Converting %s for OpenVINO, once", checkpoint.name)
    drop_unused(folder.parent, besides=f"*{INT8}*")  # those cannot be made again from the same pictures
    make_whole(folder, lambda aside: _convert(module, aside, about), is_whole=lambda made: _read(made) is not None)
    return ConvertedModel(folder, module.identity, about)


def converted_models() -> list[tuple[str, int]]:
    """Return what each kept model is, and the bytes it takes with what was compiled of it."""
    found = []
    for folder in sorted(cache_folder("models").glob("[!.]*")):
        model = _read(folder)
        about = f"{model.identity.fingerprint}, {model.about}" if model else "of an earlier version: never loaded"
        found.append((about, folder_bytes(folder)))
    return found


def _write(model: Any, folder: Path, identity: EmbedderIdentity, about: str) -> None:  # noqa: ANN401 - untyped
    """Write a model with its weights as they are, since float32 must stay float32, and a record of it."""
    path = folder / _MODEL
    openvino_runtime().save_model(model, path, compress_to_fp16=False)
    record = {"identity": json.loads(identity.to_json()), "about": about, "files": _measured(path)}
    (folder / _RECORD).write_text(json.dumps(record))


def _read(folder: Path) -> ConvertedModel | None:
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


def _convert(module: "EmbeddingModule", folder: Path, about: str) -> None:
    import torch

    assert module.identity.preprocessing is not None
    side = module.identity.preprocessing.crop
    example = torch.zeros(2, side, side, 3, dtype=torch.uint8)
    with warnings.catch_warnings():  # of branches that tracing fixes: the size of pictures is fixed
        warnings.simplefilter("ignore")
        model = openvino_runtime().convert_model(module, example_input=example)
    model.reshape([-1, side, side, 3])  # any number of pictures, all of one size
    _write(model, folder, module.identity, about)


def find_int8(model: ConvertedModel, digest: str, processor: Processor) -> ConvertedModel | None:
    """Return the int8 copy of a model that took its ranges from the pictures with a digest; None where there is none.

    One that other libraries made is taken too, where these made none: its file is read by later ones, and the vectors
    of a memory were made by that very copy.
    """
    folder = _int8_folder(model, digest, processor)
    for copy in (folder, *sorted(folder.parent.glob(f"*{INT8}{digest}"))):
        start_afresh(copy)
        known = _read(copy)
        if known is not None and known.identity == model.identity:
            return known
    return None


def int8_copy(
    model: ConvertedModel, calibration: Calibration, processor: Processor
) -> tuple[ConvertedModel, str, Iterator[np.ndarray]]:
    """Return an int8 copy, the digest of the pictures its ranges were taken from, and some of these as the model sees.

    Raises:
        InvalidArgument: nncf, which makes such copies, is not installed, or none of the pictures can be used.
        OSError: the cache cannot be written.
    """
    if calibration.digest and (copy := find_int8(model, calibration.digest, processor)):
        return copy, calibration.digest, _usable_pixels(model, calibration.pictures)
    pixels = list(itertools.islice(_usable_pixels(model, calibration.pictures), CALIBRATION_PICTURES))
    if not pixels:
        raise InvalidArgument("int8 takes its ranges from pictures of the memory, and none was usable: give some")
    digest = hashlib.sha256(b"".join(hashlib.sha256(some.tobytes()).digest() for some in pixels)).hexdigest()[:16]
    copy = find_int8(model, digest, processor) or _quantised(model, pixels, digest, processor)
    return copy, digest, iter(pixels)


def _int8_folder(model: ConvertedModel, digest: str, processor: Processor) -> Path:
    made_by = {"nncf": version("nncf") if find_spec("nncf") else "", "processor": asdict(processor)}
    return model.folder.with_name(cache_key(model=model.folder.name, **made_by) + INT8 + digest)


def _quantised(model: ConvertedModel, pixels: list[np.ndarray], digest: str, processor: Processor) -> ConvertedModel:
    if find_spec("nncf") is None:
        raise InvalidArgument("int8 needs nncf: pip install 'visual-memory-agent[int8]', or use --precision bfloat16")
    folder, about = _int8_folder(model, digest, processor), f"int8 by nncf {version('nncf')}, {model.about}"

    def quantise(aside: Path) -> None:
        runtime = openvino_runtime()  # before nncf, whose telemetry it keeps out as well
        import nncf

        _log.info("Quantising %s to int8 with %d pictures, once", model.identity.name, len(pixels))
        logging.getLogger("nncf").setLevel(logging.ERROR)  # its own way changes handlers that others gave it, too
        graph = runtime.Core().read_model(model.model)
        attends = any(op.get_type_name() == "ScaledDotProductAttention" for op in graph.get_ops())
        with redirect_stdout(sys.stderr):  # where its progress bars belong
            quantised = nncf.quantize(
                graph,
                nncf.Dataset([some[None] for some in pixels]),
                subset_size=len(pixels),
                model_type=nncf.ModelType.TRANSFORMER if attends else None,
                fast_bias_correction=attends,  # the slow one halves the votes that change with convolutions
            )
        _write(quantised, aside, model.identity, about)

    make_whole(folder, quantise, is_whole=lambda made: _read(made) is not None)
    return ConvertedModel(folder, model.identity, about)


def _usable_pixels(model: ConvertedModel, pictures: Iterable[ImageLike]) -> Iterator[np.ndarray]:
    """Yield the pictures that can be used, as the model sees them."""
    for picture in pictures:
        with suppress(ImageError):
            yield model.identity.prepare(decode(picture))


class OpenVinoEmbedder:
    """A converted model on the CPU, compiled when first needed: once for single pictures, once for many.

    What compiling for single pictures found out is kept beside the model, without its weights: 0.07 s instead of 0.4 s
    the next time.
    """

    def __init__(self, model: ConvertedModel, execution: Execution, processor: Processor | None = None) -> None:
        """Say what is to run, in which precision, and on which processor (None: this one); nothing is read yet."""
        self.identity = model.identity
        self.execution = execution
        self.batch_size = (os.cpu_count() or 1) * _CHUNK * _ROUNDS  # pictures that keep every core busy
        self._model = model.model
        self._processor = processor or this_processor()
        self._lock = threading.Lock()  # held while compiling, and by the one request for single pictures
        self._single: Any = None  # that request, once there is one
        self._thread = threading.local()  # each thread of the pool has a request of its own

    @property
    def compiled(self) -> Path:
        """The folder in which is kept what compiling for single pictures found out.

        OpenVINO 2026.4.1 names its file by the model and the performance hint alone: in a folder for all precisions,
        what was compiled in float32 was loaded for bfloat16, gave no finite vector on a processor with AMX,
        and broke the next process.
        """
        release = openvino_runtime().__version__
        settings = self._settings("LATENCY") | _KEPT | {"shape": "any number of pictures"}
        return self._model.parent / cache_key(openvino=release, processor=asdict(self._processor), **settings)

    def prepare(self, image: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
        """Return a decoded RGB picture scaled and cropped for the model."""
        return self.identity.prepare(image)

    def embed(self, pixels: UInt8[np.ndarray, "batch height width 3"]) -> Float[np.ndarray, "batch dimension"]:
        """Return one float32 vector of length 1 per picture.

        Raises:
            EmbedderError: the pictures are not as `prepare` makes them.
            RuntimeError: OpenVINO cannot compile or run the model.
        """
        assert self.identity.preprocessing is not None
        side = self.identity.preprocessing.crop
        if pixels.shape[1:] != (side, side, 3):  # OpenVINO would say so as if what is kept of the model were damaged
            raise EmbedderError(
                f"got pictures as an array of shape {pixels.shape}: ({len(pixels)}, {side}, {side}, 3) expected, as"
                " prepare() makes them"
            )
        if len(pixels) > 1:
            return to_length_1(self._many(pixels))
        with self._lock:
            return to_length_1(self._first(pixels) if self._single is None else _features(self._single, pixels))

    def _first(self, pixels: UInt8[np.ndarray, "1 height width 3"]) -> Float[np.ndarray, "1 dimension"]:
        """Compile for single pictures, or load what that found out before, and embed the first."""
        compiled = self.compiled
        start_afresh(compiled)
        known = compiled.is_dir()
        with loading(compiled if known else self._model.parent):
            request = (self._load(compiled) if known else self._compile_into(compiled)).create_infer_request()
            features = _features(request, pixels)
        if known and not np.isfinite(features).all():
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
        found = pool.map(lambda chunk: _features(self._thread.request, chunk), chunks)
        return np.concatenate(list(found))[: len(pixels)]

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

    def _compile(self, model: Any, hint: str, caching: dict[str, str]) -> Any:  # noqa: ANN401 - OpenVINO is untyped
        return openvino_runtime().Core().compile_model(model, "CPU", self._settings(hint) | caching)

    def _settings(self, hint: str) -> dict[str, str]:
        rest = "bf16" if self._processor.bfloat16 else "f32"  # for the few layers that int8 leaves out
        return {"PERFORMANCE_HINT": hint, "INFERENCE_PRECISION_HINT": _HINTS.get(self.execution.precision, rest)}


def _features(request: Any, pixels: np.ndarray) -> np.ndarray:  # noqa: ANN401 - OpenVINO is untyped
    (features,) = request.infer(pixels).values()
    return np.asarray(features)
