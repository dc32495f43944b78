"""Shifted variants of a picture: ways in which a query can differ from what is remembered."""

from collections.abc import Callable
from typing import Final

import numpy as np
from PIL import Image, ImageFilter, ImageOps

_ROTATION_DEGREES: Final = 30.0
_NOISE_DEVIATION: Final = 40.0  # of 255
_BLUR_PER_SIDE: Final = 1 / 16  # radius as a part of the short side


def rotated(picture: Image.Image, seed: int) -> Image.Image:
    """Turn by 30 degrees; the corners take the picture's own corner colour."""
    return picture.rotate(_ROTATION_DEGREES, Image.Resampling.BICUBIC, fillcolor=picture.getpixel((0, 0)))


def inverted(picture: Image.Image, seed: int) -> Image.Image:
    """Swap light and dark."""
    return ImageOps.invert(picture)


def noisy(picture: Image.Image, seed: int) -> Image.Image:
    """Add Gaussian noise, the same for the same seed."""
    noise = np.random.default_rng(seed).normal(0.0, _NOISE_DEVIATION, (picture.height, picture.width, 1))
    return Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8))


def blurred(picture: Image.Image, seed: int) -> Image.Image:
    """Blur with a Gaussian."""
    return picture.filter(ImageFilter.GaussianBlur(min(picture.size) * _BLUR_PER_SIDE))


def edges_only(picture: Image.Image, seed: int) -> Image.Image:
    """Keep outlines alone, light on dark."""
    return picture.convert("L").filter(ImageFilter.FIND_EDGES).convert("RGB")


VARIANTS: Final[dict[str, Callable[[Image.Image, int], Image.Image]]] = {
    "original": lambda picture, seed: picture,
    "rotated": rotated,
    "inverted": inverted,
    "noisy": noisy,
    "blurred": blurred,
    "edges": edges_only,
}
