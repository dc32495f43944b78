"""Contact sheets: how many, how large, what stands on them and what is left to the text."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prompts.mosaic import Tile, caption_lines, draw_sheets, tile_pixels
from prompts.render import Exemplar, render
from prompts.template import load_template
from prompts.types import ImagePart, Prompt
from retrieval.images import thumbnail

COLOURS = [(200, 30, 30), (30, 160, 60), (40, 60, 200)]


def picture(number: int, size: tuple[int, int] = (224, 160)) -> bytes:
    return thumbnail(Image.new("RGB", size, COLOURS[number % 3]), longest_side=224)


def tiles(count: int) -> list[Tile]:
    return [Tile(f"class {number}", picture(number)) for number in range(count)]


def pixels(part: ImagePart) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(part.encoded)))


def ask(labels: list[str], *, name: str = "mosaic_v1", pictures: bool = True) -> Prompt:
    exemplars = [Exemplar(label, picture(n) if pictures else None) for n, label in enumerate(labels)]
    return render(load_template(name), picture(0), exemplars, dict.fromkeys(labels, 0.5))


@pytest.mark.parametrize(
    ("count", "layout", "spans", "last"),
    [
        (50, (5, 10), [(1, 50)], (10, 5)),
        (50, (4, 4), [(1, 16), (17, 32), (33, 48), (49, 50)], (2, 1)),
        (7, (5, 10), [(1, 7)], (7, 1)),
        (1, (5, 10), [(1, 1)], (1, 1)),
        (5, (2, 2), [(1, 4), (5, 5)], (1, 1)),
        (3, (12, 1), [(1, 3)], (1, 3)),
    ],
)
def test_sheets_are_as_many_and_as_large_as_they_must_be(
    count: int, layout: tuple[int, int], spans: list[tuple[int, int]], last: tuple[int, int]
) -> None:
    sheets = draw_sheets(tiles(count), layout, labels=True)
    assert [(sheet.first, sheet.last) for sheet in sheets] == spans
    side = tile_pixels(layout, labels=True)
    width, height = sheets[-1].picture.size or (0, 0)
    assert (width // side, height // side) == last


@pytest.mark.parametrize("layout", [(5, 10), (10, 5), (4, 4), (1, 1), (1, 12), (12, 1), (12, 12)])
def test_a_sheet_stays_within_four_squares_of_768_pixels_and_its_tiles_can_be_made_out(layout: tuple[int, int]) -> None:
    words = [Tile("two lines of words", one.picture) for one in tiles(layout[0] * layout[1])]
    (sheet,) = draw_sheets(words, layout, labels=True)
    shown = Image.open(io.BytesIO(sheet.picture.encoded))
    assert shown.size == sheet.picture.size and max(shown.size) <= 2 * 768
    assert 80 < tile_pixels(layout, labels=True) <= 224


def test_a_tile_stands_where_its_number_says() -> None:
    (sheet,) = draw_sheets(tiles(6), (2, 3), labels=False)
    side = tile_pixels((2, 3), labels=False) + 4
    for place in range(6):
        middle = pixels(sheet.picture)[place // 3 * side + side // 2, place % 3 * side + side // 2]
        assert np.abs(middle.astype(int) - COLOURS[place % 3]).max() < 12


def test_numbers_and_labels_are_drawn() -> None:
    plain, labelled = (draw_sheets(tiles(2), (1, 2), labels=labels)[0].picture for labels in (False, True))
    assert labelled.size is not None and plain.size is not None and labelled.size[1] == plain.size[1] + 20
    corner = pixels(plain)[3:18, 3:12]
    assert corner.min() < 40 and corner.max() > 200  # white on black
    assert (pixels(labelled)[-16:] < 100).any()


def test_a_sheet_has_no_metadata_and_says_what_was_drawn_into_it() -> None:
    given = tiles(2)
    (sheet,) = draw_sheets([*given, Tile("none", None), Tile("damaged", b"no picture")], (5, 10), labels=True)
    opened = Image.open(io.BytesIO(sheet.picture.encoded))
    assert opened.format == "JPEG" and not opened.getexif() and set(opened.info) <= {
        "jfif", "jfif_version", "jfif_unit", "jfif_density"
    }  # fmt: skip
    assert sheet.picture.drawn == tuple(hashlib.sha256(one.picture or b"").hexdigest() for one in given)


@pytest.mark.parametrize(
    ("label", "lines"),
    [
        ("dog", ("dog",)),
        ("German shorthaired pointer", ("German", "shorthaired pointer")),
        ("", ()),
        ("Käse", ()),
        ("犬", ()),
        ("a\nb", ()),
        ("x" * 100, ()),
        ("word " * 40, ()),
    ],
)
def test_a_label_stands_beneath_a_tile_where_it_can_be_read(label: str, lines: tuple[str, ...]) -> None:
    found = caption_lines(label, 160)
    assert bool(found) == bool(lines) and " ".join(found) == " ".join(lines)


def test_labels_that_cannot_be_drawn_stand_in_the_text_by_number() -> None:
    prompt = ask(["cat", "Käse", "<script>" * 30])
    assert '2 = "Käse"' in prompt.text and '3 = "<script>' in prompt.text and '1 = "cat"' not in prompt.text
    assert [part.size is not None for part in prompt.parts if isinstance(part, ImagePart)] == [True, False]


def test_with_labels_in_the_text_none_are_drawn(tmp_path: Path) -> None:
    body = load_template("mosaic_v1").body
    mine = tmp_path / "mine.md"
    mine.write_text(f"---\nabout: Mine.\nneighbors: mosaic\nsheet: 2x2\nlabels: text\n---\n{body}")
    text = ask(["cat", "dog"], name=str(mine)).text
    assert '1 = "cat"' in text and '2 = "dog"' in text


def test_neighbours_without_any_picture_are_told_by_their_labels() -> None:
    prompt = ask(["cat", "dog"], pictures=False)
    assert "No picture is kept of any neighbour." in prompt.text and '2 = "dog"' in prompt.text
    assert len([part for part in prompt.parts if isinstance(part, ImagePart)]) == 1


def test_sheets_say_which_neighbours_they_hold() -> None:
    text = ask([f"class {number}" for number in range(20)], name="mosaic_v1@4x4").text
    assert "Sheet 1, neighbours 1 to 16:\n[picture 1]" in text and "Sheet 2, neighbours 17 to 20:\n[picture 2]" in text
