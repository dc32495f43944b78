"""Queries, and what stands in for weights and a model's judgement: shared by the tests of this room."""

import hashlib
from typing import Final

import numpy as np
from PIL import Image

from prompts.types import ImagePart, Prompt, TextPart
from retrieval.embedders.base import Execution, foreign_vectors
from retrieval.images import thumbnail
from tests.conftest import draw
from tests.gemini_protocol import Call

PICTURE = ImagePart(thumbnail(draw((200, 30, 30), 1), longest_side=64))
PROMPT = Prompt("test", (TextPart("Neighbour 1:"), PICTURE, TextPart("query:"), PICTURE), {"A": "cat", "B": "dog"})
_SIDE: Final = 4  # pixels to which a picture is scaled


class Colours:
    """An embedder by colours alone, on a grid of 4 × 4: next to no time, no weights, no library."""

    identity = foreign_vectors("colours", 3 * _SIDE**2)
    execution = Execution("numpy", "float32", "cpu")
    batch_size = 16

    def prepare(self, image: Image.Image) -> np.ndarray:
        """Return the picture at that size."""
        return np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.BOX))

    def embed(self, pixels: np.ndarray) -> np.ndarray:
        """Return the colours, taken from grey, as unit vectors."""
        vectors = pixels.reshape(len(pixels), -1).astype(np.float32) - 127.5
        scaled: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return scaled


def noise(number: int) -> Image.Image:
    """Return a small picture unlike any other number's."""
    return Image.fromarray(
        np.random.default_rng(number).integers(0, 255, (8, 8, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    )


def code_for(picture: bytes) -> str:
    """Return the code that the server answers for a query, of the first three candidates."""
    return "ABC"[hashlib.sha256(picture).digest()[0] % 3]


def answer_by_picture(call: Call) -> str:
    return f'{{"evidence": [1], "ranking": ["{code_for(call.images[-1])}"], "confidence": 0.9}}'
