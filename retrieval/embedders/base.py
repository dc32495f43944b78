"""What an embedder is: weights and preprocessing. How fast it runs is its own affair."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from retrieval.embedders.execution import Execution
from retrieval.embedders.preprocessing import Preprocessing
from retrieval.errors import EmbedderMismatch, InvalidArgument
from retrieval.outside import parse_json


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
