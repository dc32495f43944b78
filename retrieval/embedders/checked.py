"""The last thing before vectors leave an embedder: each is looked at, and what is no vector is computed again."""

import warnings
from collections.abc import Callable
from functools import cached_property
from typing import Final

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from retrieval.embedders.base import Embedder, EmbedderIdentity, Execution, to_length_1
from retrieval.errors import EmbedderError, UnusableVectors, VisualMemoryWarning
from retrieval.vectors import as_array, length

_LENGTH_ERROR: Final = 1e-5  # below which a vector has length 1


class Checked:
    """An embedder that gives finite vectors of length 1, or says for which pictures it has none."""

    def __init__(self, embedder: Embedder, again: Callable[[], Embedder] | None = None) -> None:
        """Wrap an embedder.

        Args:
            embedder: makes the vectors.
            again: makes the embedder that computes in float32, by another path, what the first cannot; None where
                there is no other path.
        """
        self._embedder = embedder
        self._make_again = again
        self._told = False

    @property
    def identity(self) -> EmbedderIdentity:
        """Name, weights, preprocessing and pooling."""
        return self._embedder.identity

    @property
    def execution(self) -> Execution:
        """Backend and precision of the vectors that need not be computed again."""
        return self._embedder.execution

    @property
    def batch_size(self) -> int:
        """How many pictures at a time keep the device busy."""
        return self._embedder.batch_size

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
        except RuntimeError as error:  # all that OpenVINO raises, and torch
            if self._make_again is None:
                raise
            return _all_usable(self._compute_again(pixels, f"{self.execution.backend} failed ({reason_of(error)})"))
        unusable = _unusable(vectors)
        if unusable.size and self._make_again is not None:
            what = f"what the model gives is zero or not finite for {unusable.size} of {len(pixels)} pictures"
            vectors = vectors.copy()
            vectors[unusable] = self._compute_again(pixels[unusable], what)
        return _all_usable(vectors) if unusable.size else vectors

    def _rows(self, given: object, number: int) -> Float[np.ndarray, "batch dimension"]:
        """Return what an embedder gives as float32 of length 1, whatever library and precision it comes from."""
        rows, shape = as_array(given), (number, self.identity.dimension)
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
        if not self._told:
            self._told = True
            warnings.warn(
                f"{self.identity.name} in {self.execution.precision} by {self.execution.backend}: {reason}; they are"
                " computed again in float32 by torch, more slowly",
                VisualMemoryWarning,
                stacklevel=4,
            )
        size = self._again.batch_size
        return np.concatenate([self._again.embed(pixels[row : row + size]) for row in range(0, len(pixels), size)])

    @cached_property
    def _again(self) -> Embedder:
        assert self._make_again is not None
        return self._make_again()


def reason_of(error: Exception) -> str:
    """Return the first line of an error that says something: OpenVINO begins with places in its own source."""
    lines = (line for line in str(error).splitlines() if line and not line.startswith(("Exception from", "Check '")))
    return next(lines, type(error).__name__)


def _unusable(vectors: Float[np.ndarray, "batch dimension"]) -> Int[np.ndarray, " unusable"]:
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.linalg.norm(vectors, axis=1)
    return np.flatnonzero(~((lengths > 0) & (lengths < np.inf)))


def _all_usable(vectors: Float[np.ndarray, "batch dimension"]) -> Float[np.ndarray, "batch dimension"]:
    rows = tuple(_unusable(vectors).tolist())
    if rows:
        raise UnusableVectors(
            f"what the model gives is zero or not finite, in float32 too, for {len(rows)} of {len(vectors)} pictures"
            f" (the first is number {rows[0] + 1}): leave them out",
            rows=rows,
            vectors=vectors,
        )
    return vectors
