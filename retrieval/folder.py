"""Folders of pictures laid out as ``<label>/<image>``, the form most data sets come in."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from retrieval.errors import FolderError


@dataclass(frozen=True, slots=True)
class LabelledFile:
    """A file in a labelled folder; whether it is a picture shows when it is decoded."""

    id: str  # path below the folder, with slashes: "dog/001.jpg"
    label: str  # name of the folder's subfolder: "dog"
    path: Path

    @property
    def source(self) -> str:
        """The path as text, to be kept for people."""
        return as_text(self.path)


def list_labelled_files(folder: str | Path) -> list[LabelledFile]:
    """Return every file below ``folder/<label>/``, at any depth, in a fixed order; hidden files are passed over.

    Raises:
        FolderError: no such folder, or none with labelled files in it.
    """
    root = Path(folder)
    if not os.path.isdir(root):
        what = "not a folder" if os.path.exists(root) else "not there"
        raise FolderError(f"{root} is {what}: a folder laid out as <label>/<image> expected")
    try:
        files = [file for label in sorted(_visible(root)) if label.is_dir() for file in _files_below(root, label)]
        inside = "only files, no label folders" if any(_visible(root)) else "nothing"
        if any(entry.is_dir() for entry in _visible(root)):
            inside = "only empty label folders"
    except OSError as error:
        raise FolderError(f"{error.filename} cannot be read: {error.strerror}; make it readable") from error
    if not files:
        raise FolderError(f"{root} holds {inside}: <label>/<image> expected, one subfolder for each label")
    return files


def _files_below(root: Path, label: Path) -> Iterator[LabelledFile]:
    entered = {os.path.realpath(root)}  # links are followed, but never in a circle
    for folder, subfolders, names in os.walk(label, onerror=_stop, followlinks=True):
        if os.path.realpath(folder) in entered:
            subfolders.clear()
            continue
        entered.add(os.path.realpath(folder))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                path = Path(folder, name)
                yield LabelledFile(as_text(path.relative_to(root).as_posix()), as_text(label.name), path)


def _stop(error: OSError) -> None:
    """Raise what `os.walk` would pass over: a folder left out in silence is a class forgotten."""
    raise error


def _visible(folder: Path) -> Iterator[Path]:
    return (entry for entry in folder.iterdir() if not entry.name.startswith("."))


def expect_outside(path: str | Path, folder: str | Path) -> None:
    """Raise FolderError where something is to be written inside the pictures, which would count it as pictures."""
    if Path(path).resolve().is_relative_to(Path(folder).resolve()):
        raise FolderError(f"{path} lies inside {folder}, and its files would be taken for pictures: put it elsewhere")


def as_text(name: str | Path) -> str:
    """Return a file name as text that any store takes: bytes that are no UTF-8 become escapes."""
    try:
        return os.fsencode(name).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # halves of characters, which JSON may hold and no file name does
        return str(name).encode("utf-8", "backslashreplace").decode()
