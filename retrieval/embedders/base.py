"""What an embedder is: weights and preprocessing. How fast it runs is its own affair."""

import hashlib
import itertools
import json
import math
import os
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from retrieval.errors import EmbedderMismatch, InvalidArgument
from retrieval.support.cachedir import cache_key
from retrieval.support.outside import parse_json

if TYPE_CHECKING:
    from retrieval.embedders.torch_backend import EmbeddingModule


_LONGEST_TO_SHORTEST = 16


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
        pixel.
        """
        image = _without_far_ends(image)
        short = min(image.size)
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


def _without_far_ends(image: Image.Image) -> Image.Image:
    """Cut a very long picture to its middle, which is all that the crop takes.

    Scaled as a whole, a line of 65,535 × 1 pixels would fill gigabytes.
    """
    short = min(image.size)
    width, height = (min(side, _LONGEST_TO_SHORTEST * short) for side in image.size)
    if (width, height) == image.size:
        return image
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


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
        """How it ran."""
        ...


@runtime_checkable
class Embedder(Protocol):
    """Turns decoded pictures into unit vectors, in two steps so that the first can run in threads ahead."""

    @property
    def identity(self) -> EmbedderIdentity:
        """What a memory must insist on."""
        ...

    @property
    def execution(self) -> Execution:
        """How it runs, which a memory only records."""
        ...

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


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in torch, in float32 on the CPU."""

    module: "EmbeddingModule"
    identity: EmbedderIdentity


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a model lies, and how torch loads it."""

    name: str
    origin: str  # what `load_embedder` takes to find it again
    files: tuple[Path, ...]
    recipe: str  # what is made of the weights: class, preprocessing and pooling, in words
    packages: tuple[str, ...]  # whose code they run in, beside torch
    load: Callable[[], LoadedModel]

    @property
    def key(self) -> str:
        """Everything that the loaded model is made of, in one word: the same as long as nothing was replaced.

        Files stand in it by place, size and time of change: reading gigabytes of weights for their digest would take
        longer than starting the model.
        """
        files = []
        for file in self.files:
            place = file.resolve()  # in the hub's cache the name of the content itself
            status = place.stat()
            files.append([os.fsencode(place).hex(), status.st_size, status.st_mtime_ns])
        return cache_key(name=self.name, origin=self.origin, recipe=self.recipe, files=files, by=self.libraries)

    @property
    def libraries(self) -> str:
        """The libraries that its code comes from, with their versions."""
        return ", ".join(f"{package} {version(package)}" for package in ("torch", *self.packages))
