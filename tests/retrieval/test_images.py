"""The decoder takes every accepted format in every colour mode, and refuses the rest by type."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from retrieval.errors import DamagedImage, EmptyImage, ImageError, ImageTooLarge, NotAnImage
from retrieval.images import decode, thumbnail

COLOUR = (200, 100, 50)


def encode(picture: Image.Image, form: str, **options: object) -> bytes:
    encoded = io.BytesIO()
    picture.save(encoded, form, **options)
    return encoded.getvalue()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_every_accepted_format_decodes_to_its_colour(form: str) -> None:
    decoded = decode(encode(Image.new("RGB", (20, 10), COLOUR), form))
    assert decoded.mode == "RGB" and decoded.size == (20, 10)
    assert np.abs(np.asarray(decoded, int)[5, 10] - COLOUR).max() <= 6


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_every_colour_mode_becomes_rgb(mode: str) -> None:
    form = "TIFF" if mode == "CMYK" else "PNG"
    decoded = decode(encode(Image.new("RGB", (8, 8), (255, 255, 255)).convert(mode), form))
    assert decoded.mode == "RGB" and decoded.getpixel((4, 4)) == (255, 255, 255)


def test_a_cmyk_jpeg_keeps_its_colour() -> None:
    decoded = decode(encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"))
    red, green, blue = np.asarray(decoded)[8, 8]
    assert red > 230 and green < 30 and blue < 30


def test_transparency_is_laid_over_white() -> None:
    assert decode(encode(Image.new("RGBA", (4, 4), (0, 0, 0, 0)), "PNG")).getpixel((0, 0)) == (255, 255, 255)


def test_a_transparent_palette_colour_is_laid_over_white() -> None:
    picture = Image.new("P", (4, 4), 0)
    picture.putpalette([10, 20, 30] + [0] * 765)
    assert decode(encode(picture, "PNG", transparency=0)).getpixel((0, 0)) == (255, 255, 255)


def test_16_bit_grey_is_scaled_and_not_clipped() -> None:
    grey = Image.fromarray(np.full((4, 4), 32768, np.uint16))
    assert decode(encode(grey, "PNG")).getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_fewer_bits_in_a_file_of_16_keep_their_brightness(form: str, bits: int) -> None:
    grey = np.array([[0, 2**bits // 2, 2**bits - 1]], np.uint16)
    assert np.asarray(decode(encode(Image.fromarray(grey), form)))[0, :, 0].tolist() == [0, 128, 255]


def test_two_exposures_by_one_camera_stay_comparable() -> None:
    light, dark = (decode(encode(Image.fromarray(np.full((4, 4), peak, np.uint16)), "PNG")) for peak in (4_000, 2_000))
    assert (np.asarray(light)[0, 0, 0], np.asarray(dark)[0, 0, 0]) == (249, 125)


def _deep_png(values: np.ndarray, colours: int) -> bytes:
    """Return a PNG of 16 bits a channel, as Pillow writes none."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colours, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("colours", "channels"), [(2, 3), (4, 2), (6, 4)])
@pytest.mark.parametrize("bits", [12, 16])
def test_12_bits_of_colour_in_16_are_told_apart(colours: int, channels: int, bits: int) -> None:
    greys = np.linspace(0, 2**bits - 1, 256).round().astype(np.uint16)
    values = np.repeat(greys[None, :, None], channels, axis=2)
    if channels in (2, 4):
        values[..., -1] = 65_535  # opaque
    assert np.abs(np.asarray(decode(_deep_png(values, colours)), int)[0, :, 1] - np.arange(256)).max() <= 1


@pytest.mark.parametrize("strange", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_none_does_not_darken_the_others(strange: float) -> None:
    values = np.linspace(0, 1, 256, dtype=np.float32)[None]
    values[0, 7] = strange
    decoded = np.asarray(decode(encode(Image.fromarray(values), "TIFF")))[0, :, 0]
    assert np.array_equal(np.delete(decoded, 7), np.delete(np.arange(256), 7))
    assert decoded[7] == (255 if strange == np.inf else 0)


@pytest.mark.parametrize("peak", [0.02, 1.01, 3.0, 90_000.0, 3e38])
def test_the_highest_of_floating_point_values_is_white_where_no_range_is_usual(peak: float) -> None:
    values = np.array([[0, peak / 2, peak]], np.float32)
    assert np.asarray(decode(encode(Image.fromarray(values), "TIFF")))[0, :, 0].tolist() == [0, 128, 255]


def test_negative_values_are_scaled_from_the_lowest_to_the_highest() -> None:
    values = np.array([[-1_000, 0, 1_000]], np.int32)
    assert np.asarray(decode(encode(Image.fromarray(values), "TIFF")))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("far", [1e30, -9_999.0])
def test_values_that_one_far_from_them_makes_the_same_are_refused(far: float) -> None:
    values = np.random.default_rng(0).random((32, 32)).astype(np.float32)
    values[0, 0] = far
    with pytest.raises(DamagedImage, match="nearly all of them are one grey: scale them to 0..1, with NaN where"):
        decode(encode(Image.fromarray(values), "TIFF"))
    with pytest.raises(DamagedImage, match="holds no finite number"):
        decode(encode(Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF"))


@pytest.mark.parametrize(("value", "expected"), [(0.5, 128), (127.0, 127)])
def test_floating_point_grey_is_scaled_by_its_range(value: float, expected: int) -> None:
    grey = Image.fromarray(np.full((4, 4), value, np.float32))
    assert decode(encode(grey, "TIFF")).getpixel((0, 0)) == (expected,) * 3


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    assert decode(encode(Image.new("RGB", (20, 10)), "JPEG", exif=exif)).size == (10, 20)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_as_pillow_turns_it(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.random.default_rng(0).integers(0, 255, (6, 9, 3), np.uint8)
    encoded = encode(Image.fromarray(pixels), "PNG", exif=exif)
    turned = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded)))
    assert np.array_equal(np.asarray(decode(encoded)), np.asarray(turned))


def test_the_first_frame_of_an_animation_is_taken() -> None:
    frames = [Image.new("RGB", (6, 6), colour) for colour in [(250, 0, 0), (0, 250, 0)]]
    animation = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.asarray(decode(animation))[3, 3, 0] > 200


def test_a_picture_under_a_wrong_name_is_told_by_its_content(tmp_path: Path) -> None:
    renamed = tmp_path / "photo.jpg"
    renamed.write_bytes(encode(Image.new("RGB", (5, 5)), "PNG"))
    assert decode(renamed).size == (5, 5)


def test_a_multi_picture_jpeg_of_a_telephone_decodes() -> None:
    two = encode(Image.new("RGB", (8, 8), COLOUR), "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    assert decode(two).size == (8, 8)


def test_arrays_and_pillow_images_are_taken() -> None:
    pixels = np.full((7, 9, 3), 90, np.uint8)
    assert np.array_equal(np.asarray(decode(pixels)), pixels)
    assert np.array_equal(np.asarray(decode(Image.fromarray(pixels))), pixels)


def test_a_callers_pillow_image_stays_as_it_was() -> None:
    picture = Image.new("RGB", (4, 4))
    picture.info["comment"] = "mine"
    decode(picture)
    assert picture.info == {"comment": "mine"}


def test_an_empty_file_is_refused() -> None:
    with pytest.raises(EmptyImage, match="is empty"):
        decode(b"")


@pytest.mark.parametrize("content", [b"just text", b"%PDF-1.7 ...", b"<svg/>", b"\x00" * 64])
def test_what_is_no_picture_is_refused(content: bytes) -> None:
    with pytest.raises(NotAnImage, match="is not a picture"):
        decode(content)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotAnImage, match="no such file: .*absent.png"):
        decode(tmp_path / "absent.png")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NotAnImage, match="is not a file"):
        decode(tmp_path / "pipe")


def test_of_a_large_file_that_is_no_picture_only_the_head_is_read(tmp_path: Path) -> None:
    with (tmp_path / "film.mp4").open("wb") as film:
        film.truncate(2**40)  # a terabyte of nothing: reading it would not end
    with pytest.raises(NotAnImage, match="is not a picture"):
        decode(tmp_path / "film.mp4")


def test_a_folder_is_no_picture(tmp_path: Path) -> None:
    with pytest.raises(NotAnImage, match="is not a file: a picture expected"):
        decode(tmp_path)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_a_picture_that_breaks_off_is_refused_or_no_picture_at_all(form: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    whole = encode(Image.fromarray(noise), form)
    for kept in (len(whole) // 2, len(whole) // 4, 40, 12):
        with pytest.raises((DamagedImage, NotAnImage)):
            decode(whole[:kept])


def test_flipped_bytes_give_a_picture_or_a_typed_error() -> None:
    draw = np.random.default_rng(1)
    for form in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"):
        whole = encode(Image.fromarray(draw.integers(0, 255, (24, 24, 3), np.uint8)), form)
        for _ in range(60):
            hostile = bytearray(whole)
            for position in draw.integers(0, len(whole), 8):
                hostile[position] = draw.integers(0, 256)
            try:
                decode(bytes(hostile))
            except ImageError:
                pass


def test_a_decompression_bomb_is_refused_before_it_is_decoded() -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100))
    with pytest.raises(ImageTooLarge, match="more .*pixels"):
        decode(bomb)


def test_the_pixel_limit_is_the_callers() -> None:
    with pytest.raises(ImageTooLarge, match="100 × 100 pixels, more than the limit of 9,999"):
        decode(Image.new("RGB", (100, 100)), max_pixels=9_999)


@pytest.mark.parametrize("image", [None, 3, ["a.png"]])
def test_what_can_be_no_picture_is_refused_by_type(image: object) -> None:
    with pytest.raises(ImageError, match="as a picture: a path, encoded bytes, a Pillow image or a uint8 array"):
        decode(image)  # type: ignore[arg-type]


def test_an_array_that_is_no_picture_is_refused() -> None:
    with pytest.raises(ImageError, match="got an array of float64 with shape"):
        decode(np.zeros((4, 4, 3)))


def test_a_thumbnail_fits_its_side_and_carries_no_metadata() -> None:
    exif = Image.Exif()
    exif[0x010E] = "secret description"
    exif.get_ifd(0x8825)[1] = "N"  # GPS
    picture = encode(Image.new("RGB", (400, 200), COLOUR), "JPEG", exif=exif, comment=b"secret comment")
    small = thumbnail(decode(picture), longest_side=100)
    opened = Image.open(io.BytesIO(small))
    assert opened.size == (100, 50) and not opened.getexif()
    assert b"secret" not in small and b"Exif" not in small


def test_a_small_picture_is_not_blown_up() -> None:
    small = thumbnail(Image.new("RGB", (10, 8)), longest_side=100)
    assert Image.open(io.BytesIO(small)).size == (10, 8)
