"""Sheets of pictures for people."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retrieval.curation.sheets import Tile, check_sheet, write_sheet
from retrieval.errors import InvalidArgument, StorageError
from retrieval.images import thumbnail
from tests.conftest import COLOURS, draw

HOSTILE = "<script>alert(1)</script>\n\x1b[31m" + "long" * 100


@pytest.fixture
def rows() -> list[list[Tile]]:
    """Return a row of eight tiles, more than stand side by side, and one of two, one of them without a picture."""
    pictures = [thumbnail(draw(COLOURS["red"], number), longest_side=64) for number in range(8)]
    long = [Tile(picture, (HOSTILE, "'; drop table", "日本")) for picture in pictures]
    return [long, [Tile(None, ("none",)), Tile(b"no picture", ())]]


def test_a_png_holds_every_picture(rows: list[list[Tile]], tmp_path: Path) -> None:
    write_sheet(tmp_path / "sheet.png", HOSTILE, rows)
    with Image.open(tmp_path / "sheet.png") as sheet:
        red, green, _ = np.moveaxis(np.asarray(sheet).astype(int), 2, 0)
        assert ((abs(red - 200) < 12) & (green < 60)).sum() > 8 * 48 * 64 * 0.5
        assert sheet.height > 3 * 160


def test_a_page_holds_texts_as_texts(rows: list[list[Tile]], tmp_path: Path) -> None:
    write_sheet(tmp_path / "sheet.html", HOSTILE, rows)
    page = (tmp_path / "sheet.html").read_text()
    assert "<script" not in page and "\x1b" not in page
    assert "&lt;script&gt;" in page and "日本" in page
    assert page.count("<img") == 8


def test_other_endings_and_places_are_refused(rows: list[list[Tile]], tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="ends with .gif: a sheet of pictures is .png or .html"):
        check_sheet(tmp_path / "sheet.gif")
    with pytest.raises(InvalidArgument, match="300 rows of pictures are too many"):
        write_sheet(tmp_path / "sheet.png", "", [rows[1]] * 300)
    with pytest.raises(StorageError):
        write_sheet(tmp_path / "missing" / "sheet.png", "", rows)
