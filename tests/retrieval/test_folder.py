"""Folders laid out as <label>/<image>: order, ids, and names of any bytes."""

import os
from pathlib import Path

import pytest

from retrieval.errors import FolderError, NotAnImage
from retrieval.images import decode
from retrieval.sources import expect_outside, files_below, list_labelled_files


def test_files_come_sorted_with_their_label_and_path_below_the_folder(tmp_path: Path) -> None:
    for name in ("b/2", "b/1", "a/deep/x", ".git/config", "a/.DS_Store", "loose"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [(file.id, file.label) for file in list_labelled_files(tmp_path)]
    assert found == [("a/deep/x", "a"), ("b/1", "b"), ("b/2", "b")]


LEFT_BEHIND = ["@eaDir", ".thumbnails", "__MACOSX", "#recycle", "@Recycle", "$RECYCLE.BIN", "lost+found"]


@pytest.mark.parametrize("name", LEFT_BEHIND)
def test_what_systems_leave_beside_pictures_is_no_class_and_no_picture(tmp_path: Path, name: str) -> None:
    for path in (f"{name}/1.jpg", f"cat/{name}/1.jpg/THUMB.jpg", "cat/1.jpg", "cat/Thumbs.db", "cat/._1.jpg"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    assert [file.id for file in list_labelled_files(tmp_path)] == ["cat/1.jpg"]
    assert list(files_below(tmp_path)) == [tmp_path / "cat" / "1.jpg"]


def test_files_come_as_they_are_found_and_a_folder_that_cannot_be_read_comes_itself(tmp_path: Path) -> None:
    for name in ("b/2", "a/1", "0"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [path.relative_to(tmp_path).as_posix() for path in files_below(tmp_path)] == ["0", "a/1", "b/2"]
    assert list(files_below(tmp_path / "absent")) == [tmp_path / "absent"]


def test_names_that_are_no_utf_8_become_text(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path / "caf") + b"\xe9"
    os.mkdir(folder)
    Path(os.fsdecode(folder), "1.png").touch()
    (file,) = list_labelled_files(tmp_path)
    assert (file.label, file.id) == ("caf\\xe9", "caf\\xe9/1.png") and file.path.exists()


def test_links_are_followed_but_never_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "pictures" / "a").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "1").touch()
    (tmp_path / "pictures" / "a" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "pictures" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "circle").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "pictures" / "self").symlink_to(tmp_path / "pictures")
    found = [file.id for file in list_labelled_files(tmp_path / "pictures")]
    assert found == ["a/linked/1", "b/1"]


def test_nothing_is_written_inside_the_pictures(tmp_path: Path) -> None:
    expect_outside(tmp_path / "pictures-too", tmp_path / "pictures")
    with pytest.raises(FolderError, match="lies inside .*: put it elsewhere"):
        expect_outside(tmp_path / "pictures" / "x", tmp_path / "pictures")


def test_a_missing_folder_and_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="is not there: a folder laid out as <label>/<image> expected"):
        list_labelled_files(tmp_path / "absent")
    with pytest.raises(FolderError, match="is not there"):
        list_labelled_files("x" * 300)
    (tmp_path / "file").touch()
    with pytest.raises(FolderError, match="is not a folder"):
        list_labelled_files(tmp_path / "file")


def test_a_folder_whose_path_is_too_long_is_told_as_one_unreadable_file(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").touch()
    here = os.open(tmp_path / "a", os.O_RDONLY)
    for _ in range(20):  # by steps, since no path of more than 4,096 bytes can be given
        os.mkdir("deep" * 60, dir_fd=here)
        deeper = os.open("deep" * 60, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)
    first, too_long = list_labelled_files(tmp_path)
    assert (first.id, too_long.label) == ("a/1.png", "a") and len(os.fsencode(too_long.path)) >= 4_096
    with pytest.raises(NotAnImage, match="cannot be read: File name too long"):
        decode(too_long.path)
