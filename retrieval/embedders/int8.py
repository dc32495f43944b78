"""Models quantised to int8, their ranges taken from pictures of the memory they serve."""

import contextlib
import hashlib
import itertools
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
from PIL import Image

from retrieval.cachedir import cache_key, make_whole, start_afresh
from retrieval.embedders.agreement import Agreement, agreement_once, measure_agreement, probe_pictures
from retrieval.embedders.converted import INT8, ConvertedModel, read_model, write_model
from retrieval.embedders.execution import Execution, Processor
from retrieval.embedders.openvino_embedder import OpenVinoEmbedder, openvino_execution, openvino_runtime
from retrieval.errors import ImageError, InvalidArgument
from retrieval.images import ImageLike, decode

T = TypeVar("T")
CALIBRATION_PICTURES: Final = 128
_MEASURED_PICTURES: Final = 32
_log = logging.getLogger(__name__)


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
