"""Folders laid out as <label>/<image>: order, ids, and names of any bytes."""

import os
from pathlib import Path

import pytest

from retrieval.errors import FolderError
from retrieval.folder import list_labelled_files


def test_files_come_sorted_with_their_label_and_path_below_the_folder(tmp_path: Path) -> None:
    for name in ("b/2", "b/1", "a/deep/x", ".git/config", "a/.DS_Store", "loose"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [(file.id, file.label) for file in list_labelled_files(tmp_path)]
    assert found == [("a/deep/x", "a"), ("b/1", "b"), ("b/2", "b")]


def test_names_that_are_no_utf_8_become_text(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path / "caf") + b"\xe9"
    os.mkdir(folder)
    Path(os.fsdecode(folder), "1.png").touch()
    (file,) = list_labelled_files(tmp_path)
    assert (file.label, file.id) == ("caf\\xe9", "caf\\xe9/1.png") and file.path.exists()


def test_a_missing_folder_and_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="is not there: a folder laid out as <label>/<image> expected"):
        list_labelled_files(tmp_path / "absent")
    with pytest.raises(FolderError, match="is not there"):
        list_labelled_files("x" * 300)
    (tmp_path / "file").touch()
    with pytest.raises(FolderError, match="is not a folder"):
        list_labelled_files(tmp_path / "file")
