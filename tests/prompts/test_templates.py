"""Templates: released ones never change, headers say what they may, mosaics come in other layouts."""

from pathlib import Path

import pytest

from prompts.template import load_template, template_names
from prompts.types import UnknownPrompt

RELEASED = {
    "describe_then_decide_v1": "de4efafdd4493492cef0ea96df2f7bb958623412e17bb469bcdbe6e8ea01497b",
    "labels_only_v1": "1142d36541656060a9f59a6de41d41e0f3d0bbd44401b550794d738c14f183ed",
    "mosaic_v1": "4111b62a4ae9df2a290c74602292e0ceb39fe926754dc6b832b9a9092e998567",
    "rerank_balanced_v1": "2ab0bd75ac7b0ea8312ad6e2d09918320d9c3537afc2879dba98f98b043cdc6b",
    "rerank_scores_v1": "efc2888f7aa21006e1fd4acad4a87509f6a1291508c13f2e21badc41160137e7",
    "rerank_v1": "603b7e87bec9918d420b999516ca8bc8da327f424b04d9645371da1bb3d848e9",
    "zero_shot_v1": "3ff530a0f428016cbc7dc3e3d3e97715acc82b79db4c4e589475f1cba1ac8a1d",
}


def write(folder: Path, header: str, body: str = "{{ query }}") -> str:
    (folder / "mine.md").write_text(f"---\n{header}\n---\n{body}")
    return str(folder / "mine.md")


def test_a_released_template_never_changes() -> None:
    digests = {name: load_template(name).digest for name in template_names()}
    changed = "kept replies and runs name it: leave a released template as it was, and add one that ends in _v2"
    assert digests == RELEASED, changed


@pytest.mark.parametrize("name", RELEASED)
def test_a_released_template_says_its_version_and_what_it_is_for(name: str) -> None:
    template = load_template(name)
    assert name.endswith(f"_v{template.version}") and len(template.about) > 50


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("rerank_v1", "nearest"),
        ("rerank_balanced_v1", "balanced"),
        ("labels_only_v1", "labels"),
        ("zero_shot_v1", "none"),
        ("mosaic_v1", "mosaic"),
    ],
)
def test_a_template_says_what_it_shows_of_the_neighbours(name: str, shown: str) -> None:
    assert load_template(name).neighbors == shown


def test_a_mosaic_in_another_layout_has_another_name_and_digest() -> None:
    own, other = load_template("mosaic_v1"), load_template("mosaic_v1@4x4")
    assert (own.sheet, other.sheet, other.name) == ((5, 10), (4, 4), "mosaic_v1@4x4")
    assert own.digest != other.digest and own.body == other.body


def test_ones_own_mosaic_takes_a_layout_too(tmp_path: Path) -> None:
    path = write(tmp_path, "about: Mine.\nneighbors: mosaic\nlabels: text")
    assert load_template(path).sheet == (5, 10)
    assert load_template(f"{path}@2x3").sheet == (2, 3) and load_template(f"{path}@2x3").labels == "text"


def test_a_header_of_the_first_release_still_loads(tmp_path: Path) -> None:
    template = load_template(write(tmp_path, "about: Short.\nneighbors: balanced"))
    assert (template.about, template.neighbors, template.answer) == ("Short.", "balanced", "ranking")


@pytest.mark.parametrize("changed", ["answer: described ranking", "candidates: all", "neighbors: none"])
def test_templates_of_one_text_and_another_header_have_different_digests(tmp_path: Path, changed: str) -> None:
    plain = load_template(write(tmp_path, "about: x")).digest
    assert load_template(write(tmp_path, f"about: x\n{changed}")).digest != plain


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("about: x\ncolour: red", "has the line 'colour: red': one each of about, version, .* expected"),
        ("about: x\nversion", "has the line 'version': one each of"),
        ("about: x\nabout: y", "has the line 'about: y': one each of"),
        ("about: x\nanswer: poem", "says 'answer: poem': answer is one of ranking, described ranking"),
        ("about: x\nneighbors: far", "neighbors is one of nearest, balanced, labels, none, mosaic"),
        ("about: x\nsheet: 5x10", "has sheet: only one with neighbors: mosaic does"),
        ("about: x\nneighbors: mosaic\nsheet: 0x4", "sheets of '0x4': rows and columns like 5x10 expected, 12 of each"),
        ("about: x\nneighbors: mosaic\nsheet: wide", "sheets of 'wide': rows and columns"),
    ],
)
def test_a_header_that_says_something_else_is_refused(tmp_path: Path, header: str, message: str) -> None:
    with pytest.raises(UnknownPrompt, match=message):
        load_template(write(tmp_path, header))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rerank_v1@4x4", "rerank_v1 is no mosaic, so that it has no layout; leave out @4x4"),
        ("mosaic_v1@40x4", "mosaic_v1@40x4 has sheets of '40x4'"),
        ("mosaic_v9@4x4", "no prompt 'mosaic_v9'"),
        ("mosaic_v1@four", "no prompt 'mosaic_v1@four'"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(name: str, message: str) -> None:
    with pytest.raises(UnknownPrompt, match=message):
        load_template(name)
