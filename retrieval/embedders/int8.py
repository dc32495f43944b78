"""Models quantised to int8, their ranges taken from pictures of the memory they serve."""

import contextlib
import hashlib
import json
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
from PIL import Image

from retrieval.cachedir import make_whole
from retrieval.embedders.agreement import Agreement, measure_agreement
from retrieval.embedders.converted import ConvertedModel, save_model
from retrieval.embedders.execution import Execution
from retrieval.embedders.openvino_embedder import OpenVinoEmbedder, openvino_runtime
from retrieval.errors import ImageError, InvalidArgument
from retrieval.images import ImageLike, decode

T = TypeVar("T")
CALIBRATION_PICTURES: Final = 128
_MEASURED_PICTURES: Final = 32
_MODEL: Final = "model.xml"
_AGREEMENT: Final = "agreement.json"
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


def int8_copy(model: ConvertedModel, calibration: Calibration) -> tuple[Path, str, Agreement]:
    """Return an int8 copy, the digest of what it was calibrated with, and how it agrees with float32 there.

    Raises:
        InvalidArgument: nncf, which makes such copies, is not installed, or none of the pictures can be used.
        OSError: the cache cannot be written.
    """
    if has_copy(model, calibration.digest):
        known = model.int8_folder(calibration.digest)
        return known / _MODEL, calibration.digest, _agreement(known)
    reference = OpenVinoEmbedder(model.model, model.identity, Execution("openvino", "float32", "cpu"))
    pixels = [reference.prepare(picture) for picture in _usable(calibration.pictures)]
    if not pixels:
        raise InvalidArgument("int8 takes its ranges from pictures of the memory, and none was usable: give some")
    digest = hashlib.sha256(b"".join(hashlib.sha256(some.tobytes()).digest() for some in pixels)).hexdigest()[:16]
    folder = model.int8_folder(digest)
    if not _is_whole(folder):
        make_whole(folder, lambda aside: _quantise(model, pixels, aside), is_whole=_is_whole)
    return folder / _MODEL, digest, _agreement(folder)


def has_copy(model: ConvertedModel, digest: str) -> bool:
    """Tell whether an int8 copy lies ready that was calibrated with these pictures."""
    return bool(digest) and _is_whole(model.int8_folder(digest))


def _quantise(model: ConvertedModel, pixels: list[np.ndarray], folder: Path) -> None:
    """Write an int8 copy, and how it agrees with float32 on some of the pictures."""
    if find_spec("nncf") is None:
        raise InvalidArgument("int8 needs nncf: pip install 'visual-memory-agent[int8]', or use --precision bfloat16")
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
    save_model(quantised, folder / _MODEL)
    copy = OpenVinoEmbedder(folder / _MODEL, model.identity, Execution("openvino", "int8", "cpu"))
    reference = OpenVinoEmbedder(model.model, model.identity, Execution("openvino", "float32", "cpu"))
    measured = measure_agreement(copy, reference, np.stack(pixels[:_MEASURED_PICTURES]))
    (folder / _AGREEMENT).write_text(json.dumps(asdict(measured)))


def _usable(pictures: Iterable[ImageLike]) -> Iterator[Image.Image]:
    """Yield the first pictures that can be used, as many as are needed."""
    usable = 0
    for picture in pictures:
        try:
            yield decode(picture)
        except ImageError:
            continue
        usable += 1
        if usable == CALIBRATION_PICTURES:
            return


def _is_whole(folder: Path) -> bool:
    return (folder / _AGREEMENT).is_file()  # written last


def _agreement(folder: Path) -> Agreement:
    return Agreement(**json.loads((folder / _AGREEMENT).read_text()))
