"""The one door through which pictures come in: decoding that expects anything, thumbnails without metadata."""

import contextlib
import io
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias

import numpy as np
from jaxtyping import UInt16
from PIL import Image, UnidentifiedImageError

from retrieval.errors import DamagedImage, EmptyImage, ImageError, ImageTooLarge, NotAnImage
from retrieval.picture_files import MAX_SIDE, PictureFile, open_picture_file

ImageLike: TypeAlias = str | Path | bytes | Image.Image | np.ndarray
"""A path, an encoded file's bytes, a Pillow image, or a uint8 array (height, width[, 3 or 4])."""

MAX_PIXELS: Final = 89_478_485
"""The largest picture decoded: Pillow's own threshold against decompression bombs, 256 MiB as RGB."""

FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")  # Pillow's JPEG takes multi-picture files too
_LARGE_PIXELS: Final = 2**25  # larger pictures are decoded one at a time: several threads would fill the memory
_one_large = threading.Lock()
_BAND_PIXELS: Final = 2**20  # converted at a time: what lies between a large picture and its RGB stays small
_WHITES: Final = (1, 255, 1_023, 4_095, 16_383, 65_535)  # what values reach to: fractions, and 8 to 16 bits
_BREAKS_OFF: Final = "breaks off: the file is shorter than its picture"
_FEW_GREYS, _MANY_VALUES = 3, 64  # so many values in so few greys: far ends that are no part of the picture
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

    The format is told by content, whatever the file is called. The orientation is applied, the first frame of an
    animation taken, transparency laid over white; other metadata are not looked at, so that broken ones cost nothing.
    Colour profiles are not applied, as in the embedders' reference pipelines.

    Values wider than 8 bits are scaled by what they use: white is the first of 1, 255, 1,023, 4,095, 16,383 and 65,535
    that the highest value comes up to, or that value itself where it is no more than a quarter of that. So 10, 12 and
    14 bits in a file of 16 keep their brightness, and two exposures of one camera stay comparable. Where there are
    negative values, the lowest is black and the highest white. NaN is black, infinity white.

    Decoding takes 1 GB of memory at most beside the file, measured on every format.

    Raises:
        EmptyImage: no bytes.
        NotAnImage: not a picture in one of ``FORMATS``, or a path that cannot be read.
        DamagedImage: the picture breaks off or does not decode, or its values cannot be told apart in 8 bits.
        ImageTooLarge: more than ``max_pixels`` pixels, a side of more than ``MAX_SIDE``, or a file made to take very
            long; nothing was decoded.
    """
    if isinstance(image, Image.Image):
        return _upright_rgb(image, "the picture", max_pixels)
    if isinstance(image, np.ndarray):
        is_grey_or_colour = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))
        if image.dtype != np.uint8 or not is_grey_or_colour or 0 in image.shape:
            raise ImageError(
                f"got an array of {image.dtype} with shape {image.shape}:"
                " uint8 of shape (height, width), (height, width, 3) or (height, width, 4) expected"
            )
        return _upright_rgb(Image.fromarray(image), "the picture", max_pixels)
    if not isinstance(image, str | Path | bytes):
        raise ImageError(
            f"got {type(image).__name__} as a picture: a path, encoded bytes, a Pillow image or a uint8 array expected"
        )
    name = "the picture" if isinstance(image, bytes) else str(image)
    with io.BytesIO(image) if isinstance(image, bytes) else _open_file(Path(image), name) as stream:
        return _decode_file(stream, name, max_pixels)


def format_and_mode(encoded: bytes) -> tuple[str, str]:
    """Return Pillow's names for the format and the colours of an encoded picture.

    Raises:
        ImageError: as `decode`, of what shows before decoding.
    """
    with contextlib.closing(_identify(_picture_file(io.BytesIO(encoded), "the picture"), "the picture")) as opened:
        return opened.format or "", opened.mode


def thumbnail(image: Image.Image, *, longest_side: int, quality: int = 85) -> bytes:
    """Return a decoded picture as JPEG bytes, scaled down to fit ``longest_side`` pixels, with no metadata."""
    small = image.copy()
    # As sharp as bicubic to the eye, and 0.9 ms for a photograph of ImageNet's size where Lanczos takes 2.4.
    small.thumbnail((longest_side, longest_side), Image.Resampling.HAMMING)
    small.info = {}
    encoded = io.BytesIO()
    small.save(encoded, "JPEG", quality=quality)
    return encoded.getvalue()


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


def _decode_file(stream: BinaryIO, name: str, max_pixels: int) -> Image.Image:
    file = _picture_file(stream, name)
    with contextlib.closing(_identify(file, name)) as opened:
        _expect_size(opened, name, max_pixels)
        is_large = opened.width * opened.height > _LARGE_PIXELS
        with _one_large if is_large else contextlib.nullcontext(), _naming(name, file):
            rgb = _to_rgb(opened, name, file)
    turn = _TURNS.get(file.orientation)
    return rgb if turn is None else rgb.transpose(turn)


def _picture_file(stream: BinaryIO, name: str) -> PictureFile:
    if not stream.read(1):
        raise EmptyImage(f"{name} is empty: replace the file")
    stream.seek(0)
    return open_picture_file(stream, name)


def _identify(file: PictureFile, name: str) -> Image.Image:
    try:
        with _naming(name, file):
            return Image.open(file.stream, formats=(file.format,))
    except Image.DecompressionBombError as error:
        raise ImageTooLarge(f"{name} has more pixels than the limit: scale it down first ({error})") from error
    except UnidentifiedImageError as error:
        if file.format == "BMP":  # two letters, with which a text may begin
            raise NotAnImage(f"{name} is not a picture: JPEG, PNG, WebP, BMP, GIF or TIFF expected") from error
        if file.ends_early():
            raise DamagedImage(f"{name} {_BREAKS_OFF}; replace the file") from error
        raise DamagedImage(
            f"{name} is a {file.format} that is damaged, or of a kind that is not read: save it anew as PNG or JPEG"
        ) from error


@contextlib.contextmanager
def _naming(name: str, file: PictureFile | None = None) -> Iterator[None]:
    """Turn what decoders raise, which is almost any type on hostile bytes, into one sentence on a picture."""
    try:
        yield
    except (ImageError, Image.DecompressionBombError, UnidentifiedImageError):
        raise
    except MemoryError as error:
        raise ImageTooLarge(f"{name} takes more memory than there is: scale it down first") from error
    except Exception as error:
        what = _BREAKS_OFF if file and file.ends_early() else "is damaged"
        raise DamagedImage(f"{name} {what}; replace the file") from error


def _upright_rgb(picture: Image.Image, name: str, max_pixels: int) -> Image.Image:
    """Return what `decode` does, of a picture in memory."""
    _expect_size(picture, name, max_pixels)
    with _naming(name):
        rgb = _to_rgb(picture, name)
    try:
        turn = _TURNS.get(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged metadata make no damaged picture
        return rgb
    return rgb if turn is None else rgb.transpose(turn)


def _expect_size(picture: Image.Image, name: str, max_pixels: int) -> None:
    width, height = picture.size
    if width * height > max_pixels:
        raise ImageTooLarge(
            f"{name} has {width} × {height} pixels, more than the limit of {max_pixels:,}: scale it down first"
        )
    if max(width, height) > MAX_SIDE:
        raise ImageTooLarge(
            f"{name} has {width} × {height} pixels, and no side may be longer than {MAX_SIDE:,}: scale it down first"
        )


def _to_rgb(image: Image.Image, name: str, file: PictureFile | None = None) -> Image.Image:
    low_bytes = _rawmode_of_low_bytes(image)
    image.load()
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        image = _grey_to_8_bits(image, name)
    elif low_bytes and file and max(high for _, high in image.getextrema()[:3]) < 64:  # type: ignore[misc]
        image = _colours_to_8_bits(image, _decode_otherwise(file, low_bytes))
    rgb = _by_bands(image, "RGB", _over_white) if image.has_transparency_data else image.convert("RGB")
    rgb.info = {}
    return rgb


def _by_bands(image: Image.Image, mode: str, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Convert a picture some rows at a time, pixel by pixel the same as at once."""
    boxes = list(_bands(image))
    if len(boxes) == 1:
        return convert(image)
    result = Image.new(mode, image.size)
    for box in boxes:
        result.paste(convert(image.crop(box)), box)
    return result


def _bands(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    rows = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield 0, top, image.width, min(top + rows, image.height)


def _over_white(image: Image.Image) -> Image.Image:
    above = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", above.size, _WHITE), above).convert("RGB")


def _grey_to_8_bits(grey: Image.Image, name: str) -> Image.Image:
    """Scale wide grey values by the range that the finite ones of them use; see `decode`."""
    bands = (np.asarray(grey.crop(box)) for box in _bands(grey))
    ends = [(finite.min(), finite.max()) for band in bands if (finite := band[np.isfinite(band)]).size]
    if not ends:
        raise DamagedImage(f"{name} holds no finite number: replace the file")
    lowest, highest = (float(end) for end in (min(low for low, _ in ends), max(high for _, high in ends)))
    black, white = (lowest, highest) if lowest < 0 else (0.0, _full_scale(highest))
    scale = 255 / (white - black or 1)

    def scaled(band: Image.Image) -> Image.Image:
        values = (np.asarray(band, np.float64) - black) * scale
        return Image.fromarray(np.nan_to_num(values, nan=0, posinf=255).clip(0, 255).round().astype(np.uint8))

    result = _by_bands(grey, "L", scaled)
    has_far_ends = lowest < 0 or white > _WHITES[-1]
    has_many_values = (len(np.unique(np.asarray(grey.crop(box)))) > _MANY_VALUES for box in _bands(grey))
    if has_far_ends and np.count_nonzero(result.histogram()) <= _FEW_GREYS and any(has_many_values):
        raise DamagedImage(
            f"{name} has values from {lowest:g} to {highest:g}, and in that range nearly all of them are one grey:"
            " scale them to 0..1, with NaN where there is no value"
        )
    return result


def _full_scale(highest: float) -> float:
    return next((white for white in _WHITES if white / 4 < highest <= white), highest)


def _rawmode_of_low_bytes(image: Image.Image) -> str | None:
    """Return how Pillow reads the low bytes of colours in 16 bits, of which it decodes the high ones; else None."""
    tile = next(iter(getattr(image, "tile", ())), None)
    rawmode = "" if tile is None else tile.args if isinstance(tile.args, str) else str((tile.args or ("",))[0])
    if image.mode not in ("RGB", "RGBA") or ";16" not in rawmode:
        return None
    if rawmode == "LA;16B":  # four bytes: of grey the high and the low one, then those of alpha
        return "RGBA"
    native = "L" if sys.byteorder == "little" else "B"
    return rawmode[:-1] + {"L": "B", "B": "L"}[rawmode[-1].replace("N", native)]


def _decode_otherwise(file: PictureFile, rawmode: str) -> Image.Image:
    """Decode a file once more, with other bytes of each pixel taken."""
    file.stream.seek(0)
    again: Any = Image.open(file.stream, formats=(file.format,))
    again.tile = [
        tile._replace(args=rawmode if isinstance(tile.args, str) else (rawmode, *tile.args[1:])) for tile in again.tile
    ]
    again.load()
    return Image.merge("RGB", [again.getchannel("G")] * 3) if rawmode == "RGBA" else again


def _colours_to_8_bits(high: Image.Image, low: Image.Image) -> Image.Image:
    """Scale colours that use a quarter of their 16 bits or less by the bits they use; transparency stays as it is."""

    def values(box: tuple[int, int, int, int]) -> UInt16[np.ndarray, "height width 3"]:
        above, below = (np.asarray(half.crop(box))[..., :3].astype(np.uint16) for half in (high, low))
        return above << 8 | below

    scale = 255 / (_full_scale(max(float(values(box).max()) for box in _bands(high))) or 1)
    for box in _bands(high):
        pixels = np.array(high.crop(box))
        pixels[..., :3] = (values(box) * scale).round()
        high.paste(Image.fromarray(pixels, high.mode), box)
    return high
