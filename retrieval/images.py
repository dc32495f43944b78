"""The one door through which pictures come in: decoding that expects anything, thumbnails without metadata."""

import io
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias

import numpy as np
from PIL import Image, UnidentifiedImageError

from retrieval.errors import DamagedImage, EmptyImage, ImageError, ImageTooLarge, NotAnImage

ImageLike: TypeAlias = str | Path | bytes | Image.Image | np.ndarray
"""A path, an encoded file's bytes, a Pillow image, or a uint8 array (height, width[, 3 or 4])."""

MAX_PIXELS: Final = 89_478_485
"""The largest picture decoded: Pillow's own threshold against decompression bombs, 256 MiB as RGB."""

FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")  # Pillow's JPEG takes multi-picture files too
_WHITE: Final = (255, 255, 255, 255)
_ORIENTATION: Final = 0x0112  # the EXIF tag
_TURNS: Final = {  # by its value; 1 is upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(image: ImageLike, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Return a picture as upright 8-bit RGB without any metadata.

    The format is told by content, whatever the file is called. EXIF orientation is applied, the first frame of an
    animation taken, transparency laid over white, 16-bit and floating-point grey scaled to 8 bits. Colour profiles
    are not applied, as in the embedders' reference pipelines.

    Raises:
        EmptyImage: no bytes.
        NotAnImage: not a picture in one of ``FORMATS``, or a path that cannot be read.
        DamagedImage: the picture breaks off or does not decode.
        ImageTooLarge: more than ``max_pixels`` pixels; nothing was decoded.
    """
    if isinstance(image, Image.Image):
        return _upright_rgb(image, "the picture", max_pixels)
    if isinstance(image, np.ndarray):
        return _upright_rgb(_from_array(image), "the picture", max_pixels)
    if not isinstance(image, str | Path | bytes):
        raise ImageError(
            f"got {type(image).__name__} as a picture: a path, encoded bytes, a Pillow image or a uint8 array expected"
        )
    name = "the picture" if isinstance(image, bytes) else str(image)
    with io.BytesIO(image) if isinstance(image, bytes) else _open_file(Path(image), name) as stream:
        return _upright_rgb(_identify(stream, name), name, max_pixels)


def thumbnail(image: Image.Image, *, longest_side: int, quality: int = 85) -> bytes:
    """Return a decoded picture as JPEG bytes, scaled down to fit ``longest_side`` pixels, with no metadata."""
    small = image.copy()
    # As sharp as bicubic to the eye, and 0.9 ms for a photograph of ImageNet's size where Lanczos takes 2.4.
    small.thumbnail((longest_side, longest_side), Image.Resampling.HAMMING)
    small.info = {}
    encoded = io.BytesIO()
    small.save(encoded, "JPEG", quality=quality)
    return encoded.getvalue()


def _open_file(path: Path, name: str) -> BinaryIO:
    try:
        if path.exists() and not path.is_file():  # a folder, or a pipe that would be waited for
            raise NotAnImage(f"{name} is not a file: a picture expected")
        return path.open("rb")
    except FileNotFoundError as error:
        raise NotAnImage(f"no such file: {name}") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        reason = getattr(error, "strerror", None) or error
        raise NotAnImage(f"{name} cannot be read: {reason}") from error


def _identify(stream: BinaryIO, name: str) -> Image.Image:
    """Read no more than the head of the file: what is no picture may be large."""
    try:
        if not stream.read(1):
            raise EmptyImage(f"{name} is empty: replace the file")
        stream.seek(0)
        return Image.open(stream, formats=FORMATS)
    except EmptyImage:
        raise
    except Image.DecompressionBombError as error:
        raise ImageTooLarge(f"{name} has more pixels than the limit: scale it down first ({error})") from error
    except UnidentifiedImageError as error:
        raise NotAnImage(f"{name} is not a picture: JPEG, PNG, WebP, BMP, GIF or TIFF expected") from error
    except Exception as error:  # headers that break a format's own parser
        raise DamagedImage(f"{name} breaks off or is damaged: replace the file") from error


def shown_picture(picture: bytes | None, *, longest_side: int) -> Image.Image | None:
    """Return a kept picture at a size to be looked at; None where there is none, or a damaged one."""
    if picture is None:
        return None
    try:
        image = decode(picture)
    except ImageError:
        return None
    image.thumbnail((longest_side, longest_side))
    return image


def _upright_rgb(opened: Image.Image, name: str, max_pixels: int) -> Image.Image:
    width, height = opened.size
    if width * height > max_pixels:
        raise ImageTooLarge(
            f"{name} has {width} × {height} pixels, more than the limit of {max_pixels:,}: scale it down first"
        )
    try:
        rgb = _upright(_to_rgb(opened), opened)
    except Exception as error:  # Pillow's decoders raise almost any type on hostile bytes
        raise DamagedImage(f"{name} breaks off or is damaged: replace the file") from error
    rgb.info = {}
    return rgb


def _from_array(pixels: np.ndarray) -> Image.Image:
    grey_or_colour = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))
    if pixels.dtype != np.uint8 or not grey_or_colour or 0 in pixels.shape:
        raise ImageError(
            f"got an array of {pixels.dtype} with shape {pixels.shape}:"
            " uint8 of shape (height, width), (height, width, 3) or (height, width, 4) expected"
        )
    return Image.fromarray(pixels)


def _upright(rgb: Image.Image, opened: Image.Image) -> Image.Image:
    try:
        turn = _TURNS.get(opened.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged metadata make no damaged picture
        return rgb
    return rgb if turn is None else rgb.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    image.load()
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        image = Image.fromarray(_grey_to_8_bits(np.asarray(image)))
    if image.has_transparency_data:
        above = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", above.size, _WHITE), above)
    return image.convert("RGB")


def _grey_to_8_bits(grey: np.ndarray) -> np.ndarray:
    """Scale wide grey values by the range their type and their peak tell."""
    ranges = {"u": (65535.0,), "i": (255.0, 65535.0), "f": (1.0, 255.0, 65535.0)}[grey.dtype.kind]
    peak = float(grey.max())
    full_scale = next((limit for limit in ranges if peak <= limit), peak)
    return np.clip(grey * (255.0 / full_scale), 0, 255).round().astype(np.uint8)
