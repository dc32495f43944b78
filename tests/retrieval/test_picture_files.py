"""Broken metadata cost no picture, files made to take long are refused in time, and only ImageError comes out."""

import io
import struct
import subprocess
import sys
import textwrap
import time
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from retrieval.errors import DamagedImage, ImageError, ImageTooLarge
from retrieval.images import decode, format_and_mode
from tests.conftest import shared_data

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 36, 3), np.uint8))
TURNED = Image.Exif()
TURNED[0x0112] = 6


def encode(form: str, picture: Image.Image = PICTURE, **options: Any) -> bytes:
    encoded = io.BytesIO()
    picture.save(encoded, form, **options)
    return encoded.getvalue()


def same(one: Image.Image, other: Image.Image) -> bool:
    return np.array_equal(np.asarray(one), np.asarray(other))


def chunk(kind: bytes, content: bytes, *, checksum: int | None = None) -> bytes:
    found = zlib.crc32(kind + content) if checksum is None else checksum
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", found)


def png_with(*chunks: bytes, behind: bool = False) -> bytes:
    png = encode("PNG")
    place = len(png) - 12 if behind else 33
    return png[:place] + b"".join(chunks) + png[place:]


def made_png(width: int, height: int, pixels: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def jpeg_with(marker: int, content: bytes, *, times: int = 1) -> bytes:
    jpeg = encode("JPEG")
    return jpeg[:2] + times * (bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content) + jpeg[2:]


def tiff_with(*tags: tuple[int, int, int, int], **options: Any) -> bytes:
    """Return a TIFF with further tags: number, type, count, offset."""
    tiff = encode("TIFF", **options)
    (place,) = struct.unpack("<I", tiff[4:8])
    (count,) = struct.unpack("<H", tiff[place : place + 2])
    entries = [tiff[place + 2 + 12 * one : place + 14 + 12 * one] for one in range(count)]
    entries = sorted(entries + [struct.pack("<HHII", *tag) for tag in tags], key=lambda entry: entry[1::-1])
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return tiff[:4] + struct.pack("<I", len(tiff)) + tiff[8:] + directory


LONG_TEXT = zlib.compress(bytes(2**21))  # Pillow takes 1 MiB

BROKEN_METADATA: dict[str, Callable[[], bytes]] = {
    "PNG, a profile of 2 MB": lambda: png_with(chunk(b"iCCP", b"p\0\0" + LONG_TEXT)),
    "PNG, long texts": lambda: png_with(*[chunk(b"zTXt", b"k\0\0" + LONG_TEXT)] * 40),
    "PNG, a long text behind": lambda: png_with(chunk(b"iTXt", b"k\0\1\0\0\0" + LONG_TEXT), behind=True),
    "PNG, a wrong checksum": lambda: png_with(chunk(b"tEXt", b"Comment\0hello", checksum=1)),
    "PNG, a short density": lambda: png_with(chunk(b"pHYs", b"\0"), chunk(b"gAMA", b"")),
    "PNG, a frame that is none": lambda: png_with(chunk(b"acTL", b"\0" * 8), chunk(b"fcTL", b"\0")),
    "JPEG, a short JFIF": lambda: jpeg_with(0xE0, b"JFIF\0"),
    "JPEG, a short Adobe": lambda: jpeg_with(0xEE, b"Adobe"),
    "JPEG, a short profile": lambda: jpeg_with(0xE2, b"ICC_PROFILE\0"),
    "JPEG, no pictures beside": lambda: jpeg_with(0xE2, b"MPF\0II*\0\x08\0\0\0\xff\xff"),
    "JPEG, EXIF of nothing": lambda: jpeg_with(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff"),
    "TIFF, a text outside of the file": lambda: tiff_with((271, 2, 1_000_000, 2**31)),
    "TIFF, a profile outside of the file": lambda: tiff_with((34675, 7, 2**31, 2**31), compression="tiff_lzw"),
    "TIFF, a density that is text": lambda: tiff_with((282, 2, 4, 0x41414141)),
    "TIFF, EXIF outside of the file": lambda: tiff_with((34665, 4, 1, 2**31)),
    "GIF, a comment of 2 MB": lambda: _gif_with(b"!\xfe" + (b"\xff" + b"x" * 255) * 8_000 + b"\0"),
    "WebP, EXIF that is cut off": lambda: encode("WEBP", lossless=True, exif=TURNED)[:-20],
}


def _gif_with(block: bytes) -> bytes:
    gif = encode("GIF", PICTURE.quantize(16))
    palette_end = 13 + (3 << (gif[10] & 7) + 1)
    return gif[:palette_end] + block + gif[palette_end:]


@pytest.mark.parametrize("name", BROKEN_METADATA)
def test_broken_metadata_cost_no_picture(name: str) -> None:
    form = name.split(",")[0].upper()
    plain = _gif_with(b"") if form == "GIF" else encode(form, lossless=True) if form == "WEBP" else encode(form)
    assert same(decode(BROKEN_METADATA[name]()), decode(plain))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_orientation_outlives_the_metadata(form: str) -> None:
    upright, turned = decode(encode(form)), decode(encode(form, exif=TURNED))
    assert same(turned, upright.transpose(Image.Transpose.ROTATE_270))


def test_an_orientation_is_read_where_editors_write_it() -> None:
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    raw = b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n      34\n" + TURNED.tobytes().hex().encode())
    for encoded in (
        jpeg_with(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp),
        png_with(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)),
        png_with(chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp)), behind=True),
        png_with(chunk(b"zTXt", raw)),
        png_with(chunk(b"eXIf", TURNED.tobytes()[6:]), behind=True),
        encode("WEBP", xmp=xmp),
    ):
        assert decode(encoded).size == (24, 36)


def test_damaged_pixels_stay_an_error() -> None:
    png = bytearray(encode("PNG"))
    place = png.index(b"IDAT") + 200
    png[place : place + 40] = bytes(40)
    with pytest.raises(DamagedImage, match="the picture is damaged; replace the file"):
        decode(bytes(png))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_only_a_file_that_is_cut_short_is_said_to_break_off(form: str) -> None:
    whole = encode(form)
    with pytest.raises(DamagedImage, match="the picture breaks off: the file is shorter than its picture"):
        decode(whole[: len(whole) * 3 // 4])


def _scans(times: int) -> bytes:
    """Return a progressive JPEG whose last scan comes so many times more."""
    jpeg = encode("JPEG", progressive=True)
    last = jpeg[jpeg.rindex(b"\xff\xc4") : -2]
    return jpeg[:-2] + times * last + jpeg[-2:]


def _thin() -> bytes:
    packer = zlib.compressobj(9)
    return made_png(1, 89_000_000, b"".join([packer.compress(bytes(2_000_000)) for _ in range(89)] + [packer.flush()]))


def _run_lengths(side: int) -> bytes:
    rows = b"\1\5\0\0" * side + b"\0\1"
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(rows), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1078 + len(rows), 0, 0, 1078) + header + bytes(1024) + rows


MADE_TO_TAKE_LONG: dict[str, tuple[Callable[[], bytes], str | None]] = {
    "scans of a JPEG": (lambda: _scans(3_000), "has more than 100 scans over its pixels"),
    "tables of a JPEG": (lambda: jpeg_with(0xDB, bytes(65) * 900, times=30), "has more than 1 MiB of tables"),
    "empty comments of a JPEG": (
        lambda: jpeg_with(0xFE, b"", times=2_000_000),
        "consists of more than 262,144 parts",
    ),
    "EXIF of a JPEG": (lambda: jpeg_with(0xE1, b"Exif\0\0" + bytes(60_000), times=600), None),
    "a PNG as wide as a hair": (_thin, "has 1 × 89000000 pixels, and no side may be longer than 65,535"),
    "empty chunks of a PNG": (lambda: png_with(*[chunk(b"IDAT", b"")] * 300_000), "consists of more than"),
    "a comment of a GIF": (lambda: _gif_with(b"!\xfe" + (b"\xff" + b"x" * 255) * 100_000 + b"\0"), None),
    "run lengths of a BMP": (lambda: _run_lengths(9_000), "is a BMP with run lengths and more than 16,777,216 pixels"),
    "tags of a TIFF": (lambda: tiff_with(*[(60_000 + one, 7, 2_500, 8) for one in range(5_000)]), None),
    "strips of a TIFF": (lambda: tiff_with((324, 4, 300_000, 8)) + bytes(2**21), "has more than 262,144 strips"),
    "a tile of a TIFF": (lambda: tiff_with((322, 4, 1, 60_000), (323, 4, 1, 60_000)), "has tiles of 60000 × 60000"),
    "the canvas of a WebP": (lambda: _canvas(16_000), "is a WebP of 16000 × 16000 pixels, more than the limit"),
}


def _canvas(side: int) -> bytes:
    webp = bytearray(encode("WEBP", exif=TURNED))
    webp[24:30] = 2 * (side - 1).to_bytes(3, "little")
    return bytes(webp)


@pytest.mark.parametrize("name", MADE_TO_TAKE_LONG)
def test_what_is_made_to_take_long_is_refused_or_decoded_in_time(name: str) -> None:
    make, message = MADE_TO_TAKE_LONG[name]
    encoded = make()
    began = time.process_time()
    if message is None:
        assert decode(encoded).size == PICTURE.size
    else:
        with pytest.raises(ImageTooLarge, match=message):
            decode(encoded)
    assert time.process_time() - began < 3


def test_a_photograph_of_many_scans_and_a_panorama_decode() -> None:
    assert decode(_scans(80)).size == PICTURE.size
    behind = encode("JPEG", progressive=True) + b"\xff\xda" * 500  # a film behind its picture, as telephones write it
    assert decode(behind).size == PICTURE.size
    assert decode(encode("PNG", Image.new("L", (65_535, 40)))).size == (65_535, 40)


def test_ordinary_photographs_decode_to_the_same_pixels_as_by_pillow_alone() -> None:
    for path in sorted(shared_data("imagenet-sample").iterdir())[:12]:
        assert same(decode(path), Image.open(path).convert("RGB"))


def test_format_and_mode_are_told_of_pictures_with_broken_metadata() -> None:
    assert format_and_mode(jpeg_with(0xE0, b"JFIF\0")) == ("JPEG", "RGB")


@pytest.mark.parametrize("kind", ["float", "transparent"])
def test_a_picture_takes_twelve_bytes_of_memory_a_pixel_at_most(kind: str) -> None:
    """So that 89 megapixels come to 1 GiB."""
    script = """
        import io, sys
        from PIL import Image
        from retrieval.images import decode
        encoded, side = io.BytesIO(), 3_000
        if sys.argv[1] == "float":
            Image.new("F", (side, side), 0.5).save(encoded, "TIFF", compression="tiff_deflate")
        else:
            Image.new("RGBA", (side, side), (9, 9, 9, 9)).save(encoded, "PNG", compress_level=1)
        encoded = encoded.getvalue()
        size = lambda name: next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))
        open("/proc/self/clear_refs", "w").write("5")  # forget the highest mark so far
        before = size("VmRSS")
        decode(encoded)
        print((size("VmHWM") - before) * 1024 / side**2)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), kind], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 12


def _kinds() -> dict[str, bytes]:
    alpha = PICTURE.convert("RGBA")
    alpha.putalpha(PICTURE.convert("L"))
    frames: dict[str, Any] = {"save_all": True, "append_images": [PICTURE.rotate(20), PICTURE.rotate(40)]}
    grey = np.random.default_rng(1).random((24, 36)).astype(np.float32)
    kinds = {
        "baseline": encode("JPEG", exif=TURNED, icc_profile=b"x" * 100),
        "progressive": encode("JPEG", progressive=True),
        "cmyk": encode("JPEG", PICTURE.convert("CMYK")),
        "grey": encode("JPEG", PICTURE.convert("L")),
        "16 bits": encode("PNG", Image.fromarray((grey * 4_095).astype(np.uint16))),
        "apng": encode("PNG", **frames),
        "lossy": encode("WEBP", exif=TURNED),
        "lossless": encode("WEBP", alpha, lossless=True),
        "animated webp": encode("WEBP", **frames),
        "gif": encode("GIF", **frames),
        "float": encode("TIFF", Image.fromarray(grey)),
        "pages": encode("TIFF", **frames, compression="tiff_lzw"),
        "big tiff": encode("TIFF", big_tiff=True),
    }
    kinds |= {f"png {mode}": encode("PNG", PICTURE.convert(mode)) for mode in ("1", "L", "P")} | {"bmp": encode("BMP")}
    kinds |= {f"tiff {way}": encode("TIFF", compression=way) for way in ("jpeg", "tiff_deflate", "packbits")}
    return kinds | {"png RGBA": encode("PNG", alpha), "bmp P": encode("BMP", PICTURE.quantize(9))}


def test_mutated_pictures_of_every_kind_give_a_picture_or_an_image_error() -> None:
    kinds = list(_kinds().items())
    for number in range(600):
        draw = np.random.default_rng([20, number])
        kind, whole = kinds[number % len(kinds)]
        hostile = bytearray(whole)
        for _ in range(draw.integers(1, 4)):
            place, length = (
                int(draw.integers(0, 1 + min(len(hostile), draw.choice([200, 10**6])))),
                int(draw.integers(1, 60)),
            )
            mutation: list[tuple[int, bytes]] = [
                (place + length, bytes(draw.integers(0, 256, length, np.uint8))),  # noise
                (place + 4, draw.choice([b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0\0\0\1"])),  # a length
                (place, bytes(hostile[place : place + length]) * 40),  # again and again
                (place + length, b""),  # a gap
                (len(hostile), b""),  # the end
            ]
            end, content = mutation[draw.integers(0, len(mutation))]
            hostile[place:end] = content
        try:
            assert decode(bytes(hostile)).mode == "RGB"
        except ImageError:
            pass
        except BaseException as error:
            raise AssertionError(f"picture {number}, {kind}") from error
