"""How well and how fast one way of running a model does beside float32, measured on real photographs."""

import contextlib
import hashlib
import itertools
import json
import logging
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from retrieval.embedders.base import Embedder, Execution, Processor
from retrieval.embedders.openvino_backend import (
    INT8,
    ConvertedModel,
    OpenVinoEmbedder,
    openvino_execution,
    openvino_runtime,
    read_model,
    write_model,
)
from retrieval.errors import ImageError, InvalidArgument
from retrieval.images import ImageLike, decode
from retrieval.support.cachedir import cache_folder, cache_key, drop_unused, make_whole, note_use, start_afresh
from retrieval.support.outside import parse_json

_ALONE: Final = 8  # pictures that are embedded each alone as well
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Agreement:
    """One way of running a model beside float32."""

    smallest: float  # cosine, of batches and of single pictures
    mean: float  # cosine
    speedup: float  # pictures a second, as a multiple of float32's


def probe_pictures() -> list[Image.Image]:
    """Return eight parts of the two photographs that scikit-learn carries."""
    pictures = []
    for name in ("china.jpg", "flower.jpg"):
        with (files("sklearn.datasets") / "images" / name).open("rb") as stream:
            whole = Image.open(stream).convert("RGB")
        width, height = whole.size
        parts = ((0, 0, width, height), (0, 0, height, height), (width // 2, 0, width, height), (200, 100, 440, 340))
        pictures += [whole.crop(part) for part in parts]
    return pictures


def measure_agreement(
    tried: Callable[[], Embedder], reference: Embedder, pixels: UInt8[np.ndarray, "batch height width 3"]
) -> Agreement:
    """Embed prepared pictures both ways, in a batch and each alone. Vectors that are not finite agree with nothing.

    Args:
        tried: makes the embedder. It is called twice: the second is to find what the first left in the cache, as the
            embedders of later processes will.
        reference: gives, in a batch, the vectors that are right.
        pixels: the pictures.
    """
    expected, expected_seconds = _timed(reference, pixels)
    first, second = tried(), tried()
    found, found_seconds = _timed(first, pixels)
    alone = [embedder.embed(one[None]) for embedder in (first, second) for one in pixels[:_ALONE]]
    right = np.concatenate([expected, expected[:_ALONE], expected[:_ALONE]])
    cosines = np.nan_to_num((right * np.concatenate([found, *alone])).sum(axis=1), nan=-1.0)
    return Agreement(float(cosines.min()), float(cosines.mean()), expected_seconds / found_seconds)


def _timed(
    embedder: Embedder, pixels: UInt8[np.ndarray, "batch height width 3"]
) -> tuple[Float[np.ndarray, "batch dimension"], float]:
    embedder.embed(pixels[: len(pixels) // 2])  # the first call compiles and warms up
    started = time.perf_counter()
    vectors = embedder.embed(pixels)
    return vectors, time.perf_counter() - started


def agreement_once(model: str, execution: Execution, measure: Callable[[], Agreement]) -> Agreement:
    """Return what was measured for a model and a way of running it on this machine, measuring it only once.

    Args:
        model: a checkpoint's key, or the name of the folder of an int8 copy.
        execution: precision, libraries and processor.
        measure: does the measuring.
    """
    key = cache_key(model=model, precision=execution.precision, device=execution.device, engine=execution.engine)
    path = cache_folder("measured") / f"{key}.json"
    try:
        known = Agreement(**parse_json(path.read_text()))
        note_use(path)
        return known
    except (OSError, ValueError, TypeError):
        _log.info("Measuring %s beside float32, once", execution.precision)
    measured = measure()
    fresh = path.with_suffix(f".{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        drop_unused(path.parent)
        fresh.write_text(json.dumps(asdict(measured), indent=1))
        fresh.replace(path)
    except OSError as error:  # then it is measured again the next time
        _log.debug("%s could not be written: %s", path, error)
    return measured


T = TypeVar("T")
CALIBRATION_PICTURES: Final = 128
_MEASURED_PICTURES: Final = 32


@dataclass(frozen=True, slots=True)
class Calibration:
    """What int8's ranges are, or were, taken from."""

    pictures: Iterable[ImageLike]  # read only where no copy with these ranges is at hand
    digest: str = ""  # of the pictures that a memory's vectors were made with, where that is known


def pick(pictures: Sequence[T]) -> list[T]:
    """Return as many as int8 needs, from all over a sequence."""
    number = min(len(pictures), CALIBRATION_PICTURES)
    return [pictures[len(pictures) * place // number] for place in range(number)]


def find_int8(model: ConvertedModel, digest: str, processor: Processor) -> ConvertedModel | None:
    """Return the int8 copy of a model that took its ranges from the pictures with a digest; None where there is none.

    One that other libraries made is taken too, where these made none: its file is read by later ones, and the vectors
    of a memory were made by that very copy.
    """
    folder = _folder(model, digest, processor)
    for copy in (folder, *sorted(folder.parent.glob(f"*{INT8}{digest}"))):
        start_afresh(copy)
        known = read_model(copy)
        if known is not None and known.identity == model.identity:
            return known
    return None


def int8_copy(
    model: ConvertedModel, calibration: Calibration, processor: Processor
) -> tuple[ConvertedModel, Execution, Agreement]:
    """Return an int8 copy, how it runs, and how it agrees with float32 on some of its pictures.

    Raises:
        InvalidArgument: nncf, which makes such copies, is not installed, or none of the pictures can be used.
        OSError: the cache cannot be written.
    """
    digest = calibration.digest
    copy = find_int8(model, digest, processor) if digest else None
    if copy is None:
        pixels = _usable_pixels(model, calibration, CALIBRATION_PICTURES)
        if not pixels:
            raise InvalidArgument("int8 takes its ranges from pictures of the memory, and none was usable: give some")
        digest = hashlib.sha256(b"".join(hashlib.sha256(some.tobytes()).digest() for some in pixels)).hexdigest()[:16]
        copy = find_int8(model, digest, processor) or _quantised(model, pixels, digest, processor)
    else:
        pixels = []
    made, execution = copy, openvino_execution("int8", processor, calibration=digest)

    def measure() -> Agreement:
        some = pixels[:_MEASURED_PICTURES] or _usable_pixels(model, calibration, _MEASURED_PICTURES)
        some = some or [_prepared(model, picture) for picture in probe_pictures()]
        reference = OpenVinoEmbedder(
            model.model, model.identity, openvino_execution("float32", processor), processor=processor
        )
        return measure_agreement(
            lambda: OpenVinoEmbedder(made.model, made.identity, execution, processor), reference, np.stack(some)
        )

    return made, execution, agreement_once(made.folder.name, execution, measure)


def _folder(model: ConvertedModel, digest: str, processor: Processor) -> Path:
    made_by = {"nncf": version("nncf") if find_spec("nncf") else "", "processor": asdict(processor)}
    return model.folder.with_name(cache_key(model=model.folder.name, **made_by) + INT8 + digest)


def _quantised(model: ConvertedModel, pixels: list[np.ndarray], digest: str, processor: Processor) -> ConvertedModel:
    if find_spec("nncf") is None:
        raise InvalidArgument("int8 needs nncf: pip install 'visual-memory-agent[int8]', or use --precision bfloat16")
    folder = _folder(model, digest, processor)
    about = f"int8 by nncf {version('nncf')}, {model.about}"
    make_whole(
        folder, lambda aside: _quantise(model, pixels, aside, about), is_whole=lambda made: read_model(made) is not None
    )
    return ConvertedModel(folder, model.identity, about)


def _quantise(model: ConvertedModel, pixels: list[np.ndarray], folder: Path, about: str) -> None:
    """Write an int8 copy."""
    runtime = openvino_runtime()  # before nncf, whose telemetry it keeps out as well
    import nncf

    _log.info("Quantising %s to int8 with %d pictures, once", model.identity.name, len(pixels))
    logging.getLogger("nncf").setLevel(logging.ERROR)  # its own way changes handlers that others gave it, too
    graph = runtime.Core().read_model(model.model)
    attends = any(op.get_type_name() == "ScaledDotProductAttention" for op in graph.get_ops())
    with contextlib.redirect_stdout(sys.stderr):  # where its progress bars belong
        quantised = nncf.quantize(
            graph,
            nncf.Dataset([some[None] for some in pixels]),
            subset_size=len(pixels),
            model_type=nncf.ModelType.TRANSFORMER if attends else None,
            fast_bias_correction=attends,  # the slow one halves the votes that change with convolutions
        )
    write_model(quantised, folder, model.identity, about)


def _usable_pixels(model: ConvertedModel, calibration: Calibration, number: int) -> list[np.ndarray]:
    """Return the first pictures that can be used, as many as are needed, as the model sees them."""
    return [_prepared(model, picture) for picture in itertools.islice(_usable(calibration.pictures), number)]


def _prepared(model: ConvertedModel, picture: Image.Image) -> np.ndarray:
    assert model.identity.preprocessing is not None
    return model.identity.preprocessing.scale_and_crop(picture)


def _usable(pictures: Iterable[ImageLike]) -> Iterator[Image.Image]:
    for picture in pictures:
        with contextlib.suppress(ImageError):
            yield decode(picture)
