"""What an embedder is (weights and preprocessing), how it runs, and the check of what it gives."""

import hashlib
import itertools
import json
import math
import platform
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from retrieval.errors import EmbedderError, EmbedderMismatch, InvalidArgument, UnusableVectors, VisualMemoryWarning
from retrieval.images import ImageLike
from retrieval.support.parsing import parse_json
from retrieval.vectors import as_array, length

_LONGEST_TO_SHORTEST: Final = 16  # sides of a picture that is scaled as a whole
_LENGTH_ERROR: Final = 1e-5  # below which a vector has length 1


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Short side to ``resize`` (bicubic, antialiased), centre crop of ``crop``, then (x / 255 - mean) / std."""

    resize: int  # pixels
    crop: int  # pixels
    mean: tuple[float, float, float]  # per channel, of values in 0..1
    std: tuple[float, float, float]

    def scale_and_crop(self, image: Image.Image) -> UInt8[np.ndarray, "crop crop 3"]:
        """Return the part of an RGB picture that the model sees; mean and deviation are the model's first step.

        Rounding of the long side and of the crop's corner follows the Hugging Face image processors, down to the
        pixel. A very long picture is cut to its middle, which is all that the crop takes: scaled as a whole, a line of
        65,535 × 1 pixels would fill gigabytes.
        """
        short = min(image.size)
        width, height = (min(side, _LONGEST_TO_SHORTEST * short) for side in image.size)
        if (width, height) != image.size:
            left, top = (image.width - width) // 2, (image.height - height) // 2
            image = image.crop((left, top, left + width, top + height))
        across, down = (_part(side, int(side * self.resize / short), self.crop) for side in image.size)
        box = (across.start, down.start, across.end, down.end)
        scaled = image.resize((across.size, down.size), Image.Resampling.BICUBIC, box=box)
        corner = (across.cut, down.cut, across.cut + self.crop, down.cut + self.crop)
        return np.asarray(scaled.crop(corner))


@dataclass(frozen=True, slots=True)
class _Part:
    """What of one side of a picture is scaled, to how many pixels, and how many are then cut off before the crop."""

    start: float
    end: float
    size: int
    cut: int


def _part(side: int, scaled: int, crop: int) -> _Part:
    """Scale the crop alone where that gives the very pixels of scaling the whole side, else the whole side.

    Pillow takes the part's ends as single-precision numbers and places its filter at ``start + (x + 0.5) * ratio`` in
    double precision. Where ends and ratio have few binary digits all of that is exact, and the same wherever the part
    begins: so it is with the short side, scaled to 256. Elsewhere 1 or 2 in 100,000 values would differ by 1, measured
    on 711 pictures.
    """
    cut = (scaled - crop) // 2
    ends = cut * side / scaled, (cut + crop) * side / scaled
    denominator = scaled // math.gcd(side, scaled)
    is_exact = denominator & (denominator - 1) == 0 and all(np.float32(end) == end for end in ends)
    return _Part(*ends, crop, 0) if is_exact else _Part(0.0, float(side), scaled, cut)


IMAGENET = Preprocessing(256, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""DINOv2's own k-NN evaluation: short side 256, crop 224, ImageNet mean and standard deviation."""

CLIP = Preprocessing(224, 224, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""OpenAI's CLIP."""

EFFICIENTNET_LITE = Preprocessing(256, 224, (127 / 255,) * 3, (128 / 255,) * 3)
"""EfficientNet-Lite, trained on (x - 127) / 128; the ImageNet constants cost it 9 points of top-1."""


DEVICES: Final = ("auto", "cpu", "cuda", "mps")
BACKENDS: Final = ("auto", "torch", "openvino")
PRECISIONS: Final = ("auto", "float32", "bfloat16", "float16", "int8")

LEAST_AGREEMENT: Final = 0.9999
"""The smallest cosine to float32 that a lower precision may show and still be taken without being asked for."""


@dataclass(frozen=True, slots=True)
class Processor:
    """What of a processor decides how, and how exactly, it computes. Two that differ share nothing that was compiled.

    Its name alone does not: in the cloud processors of several generations are called "AMD EPYC".
    """

    name: str
    bfloat16: bool  # whether it computes in bfloat16 by itself, rather than emulating it
    instructions: str = ""  # digest of its instruction sets; empty where the system does not tell them
    cores: int = 1

    def __str__(self) -> str:
        """Return name and instruction sets in a few words."""
        return f"{self.name} {self.instructions}".rstrip()


@cache
def instruction_sets() -> str:
    """Return a short digest of this processor's model and instruction sets, as far as the system tells them."""
    try:
        with Path("/proc/cpuinfo").open() as lines:
            first_core = list(itertools.takewhile(str.strip, lines))
    except OSError:
        return hashlib.sha256(platform.processor().encode()).hexdigest()[:8]
    told = ("vendor_id", "cpu family", "model", "stepping", "flags", "CPU ", "Features")  # the last two on Arm
    return hashlib.sha256("".join(line for line in first_core if line.startswith(told)).encode()).hexdigest()[:8]


@dataclass(frozen=True, slots=True)
class Execution:
    """Backend, precision and device. Two that are equal give the same vectors up to the last digits."""

    backend: str = field(compare=False)
    precision: str
    device: str = field(compare=False)
    calibration: str = ""  # digest of the pictures that int8 took its ranges from; else empty
    agreement: float | None = field(default=None, compare=False)  # smallest cosine to float32 that was measured
    reason: str = field(default="", compare=False)  # why it was taken, in a few words for people
    engine: str = field(default="", compare=False)  # what computes: the libraries' versions, and on what processor

    def __str__(self) -> str:
        """Return the line that tells a user what was taken and why."""
        return f"{self.precision} by {self.backend} on {self.device} ({self.reason})"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON takes them."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Requested:
    """How an embedder is asked to run. ``auto`` leaves a choice to what this machine does fastest and safely.

    Raises:
        InvalidArgument: a word that is no choice, or choices that exclude each other.
    """

    device: str = "auto"
    backend: str = "auto"
    precision: str = "auto"

    def __post_init__(self) -> None:
        for what, known in (("device", DEVICES), ("backend", BACKENDS), ("precision", PRECISIONS)):
            word = getattr(self, what)
            if word not in known:
                raise InvalidArgument(f"no {what} {word!r}: choose one of {', '.join(known)}")
        on_gpu = self.device in ("cuda", "mps")
        if self.backend == "openvino" and on_gpu:
            raise InvalidArgument(f"the openvino backend runs on cpu, not on {self.device}: use --backend torch")
        if self.precision == "int8" and (self.backend == "torch" or on_gpu):
            raise InvalidArgument("int8 runs on cpu by openvino alone: use bfloat16 or float16 elsewhere")
        if self.precision == "float16" and (self.device == "cpu" or self.backend == "openvino"):
            raise InvalidArgument("float16 is for GPUs: on cpu use bfloat16 or float32")

    def to_dict(self) -> dict[str, str]:
        """Return the three words, as `load_embedder` takes them."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class EmbedderIdentity:
    """What two embedders must share for their vectors to be comparable. Name and origin are only for people."""

    name: str = field(compare=False)
    weights_digest: str  # SHA-256 over names, types, shapes and values; empty for vectors made elsewhere
    preprocessing: Preprocessing | None  # None for vectors made elsewhere
    pooling: str
    dimension: int
    origin: str = field(compare=False)  # what `load_embedder` takes to load it again

    def to_json(self) -> str:
        """Return the identity as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "EmbedderIdentity":
        """Return the identity that `to_json` wrote."""
        fields = parse_json(text)
        if fields["preprocessing"]:
            stored = fields["preprocessing"]
            fields["preprocessing"] = Preprocessing(
                **stored | {"mean": tuple(stored["mean"]), "std": tuple(stored["std"])}
            )
        return cls(**fields)

    def prepare(self, image: Image.Image) -> UInt8[np.ndarray, "crop crop 3"]:
        """Return a decoded RGB picture scaled and cropped for the model; not of vectors made elsewhere."""
        assert self.preprocessing is not None
        return self.preprocessing.scale_and_crop(image)

    @property
    def fingerprint(self) -> str:
        """The identity in a few words: name, dimension and the head of the weights' digest."""
        return f"{self.name} ({self.dimension}-d, weights {self.weights_digest[:12] or 'unknown'})"


def foreign_vectors(name: str, dimension: int) -> EmbedderIdentity:
    """Return an identity for vectors made elsewhere; a memory created with it is searched by vectors."""
    if not isinstance(dimension, int) or dimension < 1:
        raise InvalidArgument(f"dimension={dimension!r}: a whole number, 1 or more, expected")
    return EmbedderIdentity(name, "", None, "", dimension, "")


def check_embedder(offered: EmbedderIdentity, known: EmbedderIdentity, path: str | Path) -> None:
    """Raise EmbedderMismatch unless the embedder offered is the one that the memory at the path was built by."""
    if offered != known:
        raise EmbedderMismatch(
            f"{path} was built by {known.fingerprint}, not by {offered.fingerprint}:"
            " use the embedder it was built by, or build another memory"
        )


def to_length_1(features: Float[np.ndarray, "batch dimension"]) -> Float[np.ndarray, "batch dimension"]:
    """Return a model's features as unit vectors; features that are all zero, or not finite, give none of length 1."""
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.linalg.norm(features, axis=1, keepdims=True)
        unit: np.ndarray = features / np.maximum(lengths, np.float32(1e-12))
    return unit


@runtime_checkable
class MadeBy(Protocol):
    """What vectors were made by: an embedder, here or elsewhere."""

    @property
    def identity(self) -> EmbedderIdentity:
        """What a memory must insist on."""
        ...

    @property
    def execution(self) -> Execution:
        """How it runs, or ran, which a memory only records."""
        ...


@runtime_checkable
class Embedder(MadeBy, Protocol):
    """Turns decoded pictures into unit vectors, in two steps so that the first can run in threads ahead."""

    @property
    def batch_size(self) -> int:
        """How many pictures at a time keep the device busy."""
        ...

    def prepare(self, image: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
        """Return a decoded RGB picture scaled and cropped for the model; safe to call from many threads."""
        ...

    def embed(self, pixels: UInt8[np.ndarray, "batch height width 3"]) -> Float[np.ndarray, "batch dimension"]:
        """Return one float32 vector of length 1 per picture; safe to call from several threads."""
        ...


def expect_embedder(offered: object) -> Embedder:
    """Return what was offered as an embedder.

    Raises:
        InvalidArgument: it is none.
    """
    if isinstance(offered, type) or not isinstance(offered, Embedder):
        what = f"the class {offered.__name__}" if isinstance(offered, type) else type(offered).__name__
        raise InvalidArgument(
            f"got {what} as an embedder: the name of one, a folder with a saved model, or an object with identity,"
            " execution, batch_size, prepare() and embed() expected (retrieval.embedders.base.Embedder)"
        )
    size = offered.batch_size
    for name, right, expected in (
        ("identity", isinstance(offered.identity, EmbedderIdentity), "an EmbedderIdentity"),
        ("execution", isinstance(offered.execution, Execution), "an Execution"),
        ("batch_size", isinstance(size, int) and size > 0, "a whole number, 1 or more,"),
    ):
        if not right:
            raise InvalidArgument(f"got an embedder whose {name} is {getattr(offered, name)!r}: {expected} expected")
    return offered


T = TypeVar("T")
CALIBRATION_PICTURES: Final = 128


@dataclass(frozen=True, slots=True)
class Calibration:
    """What int8's ranges are, or were, taken from."""

    pictures: Iterable[ImageLike]  # read only where no copy with these ranges is at hand
    digest: str = ""  # of the pictures that a memory's vectors were made with, where that is known


def pick(pictures: Sequence[T]) -> list[T]:
    """Return as many as int8 needs, from all over a sequence."""
    number = min(len(pictures), CALIBRATION_PICTURES)
    return [pictures[len(pictures) * place // number] for place in range(number)]


class Checked:
    """An embedder that gives finite vectors of length 1, or says for which pictures it has none."""

    def __init__(self, embedder: Embedder, again: Callable[[], Embedder] | None = None) -> None:
        """Wrap an embedder.

        Args:
            embedder: makes the vectors.
            again: makes the embedder that computes in float32, by another path, what the first cannot; None where
                there is no other path.
        """
        self.identity = embedder.identity
        self.execution = embedder.execution  # of the vectors that need not be computed again
        self.batch_size = embedder.batch_size
        self._embedder = embedder
        self._make_again = again
        self._again: Embedder | None = None  # made, and said, when first needed
        self._lock = threading.Lock()

    def prepare(self, image: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
        """Return a decoded RGB picture scaled and cropped for the model.

        Raises:
            EmbedderError: the embedder makes no array of numbers of it.
        """
        prepared = np.asarray(self._embedder.prepare(image))
        if prepared.dtype.kind not in "uif" or not prepared.ndim:
            raise EmbedderError(
                f"{self.identity.name} prepares a picture as an array of {prepared.dtype} with shape {prepared.shape}:"
                " pixels expected, uint8 of shape (height, width, 3)"
            )
        return prepared

    def embed(self, pixels: UInt8[np.ndarray, "batch height width 3"]) -> Float[np.ndarray, "batch dimension"]:
        """Return one float32 vector of length 1 per picture.

        Raises:
            UnusableVectors: a picture has none, in float32 either.
            EmbedderError: the embedder gives something else than a row of numbers per picture.
            RuntimeError: the model cannot run, and there is no other path.
        """
        try:
            vectors = self._rows(self._embedder.embed(pixels), len(pixels))
            self.batch_size = self._embedder.batch_size  # less after it ran out of memory
        except RuntimeError as error:  # all that OpenVINO raises, and torch
            if self._make_again is None:
                raise
            vectors = self._compute_again(pixels, f"{self.execution.backend} failed ({reason_of(error)})")
        else:
            unusable = _unusable(vectors)
            if unusable.size and self._make_again is not None:
                what = f"what the model gives is zero or not finite for {unusable.size} of {len(pixels)} pictures"
                vectors = vectors.copy()
                vectors[unusable] = self._compute_again(pixels[unusable], what)
        rows = tuple(_unusable(vectors).tolist())
        if rows:
            raise UnusableVectors(
                f"what the model gives is zero or not finite, in float32 too, for {len(rows)} of {len(vectors)}"
                f" pictures (the first is number {rows[0] + 1}): leave them out",
                rows=rows,
                vectors=vectors,
            )
        return vectors

    def _rows(self, offered: object, number: int) -> Float[np.ndarray, "batch dimension"]:
        """Return what an embedder gives as float32 of length 1, whatever library and precision it comes from."""
        rows, shape = as_array(offered), (number, self.identity.dimension)
        if rows.shape != shape or rows.dtype.kind not in "fiu":
            raise EmbedderError(
                f"{self.identity.name} gives an array of {rows.dtype} with shape {rows.shape} for {number} pictures:"
                f" numbers of shape {shape} expected"
            )
        with np.errstate(over="ignore"):
            features = rows.astype(np.float32, copy=False)
            lengths = length(features)
        return features if (abs(lengths - 1) < _LENGTH_ERROR).all() else to_length_1(features)

    def _compute_again(
        self, pixels: UInt8[np.ndarray, "batch height width 3"], reason: str
    ) -> Float[np.ndarray, "batch dimension"]:
        with self._lock:
            if self._again is None:
                assert self._make_again is not None
                warnings.warn(
                    f"{self.identity.name} in {self.execution.precision} by {self.execution.backend}: {reason}; they"
                    " are computed again in float32 by torch, more slowly",
                    VisualMemoryWarning,
                    stacklevel=4,
                )
                self._again = self._make_again()
        size = self._again.batch_size
        return np.concatenate([self._again.embed(pixels[row : row + size]) for row in range(0, len(pixels), size)])


def reason_of(error: Exception) -> str:
    """Return the first line of an error that says something: OpenVINO begins with places in its own source."""
    lines = (line for line in str(error).splitlines() if line and not line.startswith(("Exception from", "Check '")))
    return next(lines, type(error).__name__)


def _unusable(vectors: Float[np.ndarray, "batch dimension"]) -> Int[np.ndarray, " unusable"]:
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.linalg.norm(vectors, axis=1)
    return np.flatnonzero(~((lengths > 0) & (lengths < np.inf)))
