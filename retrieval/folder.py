"""Folders of pictures laid out as ``<label>/<image>``, the form most data sets come in."""

import errno
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from retrieval.errors import FolderError, InvalidArgument
from retrieval.images import ImageLike
from retrieval.labels import composed, spellings

_LEFT_BEHIND: Final = frozenset(
    {  # in lower case; whatever begins with a dot is passed over besides: .DS_Store, ._x, .thumbnails, .@__thumb
        *("__macosx", "icon\r", "network trash folder", "temporary items"),  # github/gitignore: Global/macOS
        *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini"),  # Global/Windows, as the next three
        *("$recycle.bin", "system volume information", "pagefile.sys"),
        *("@eadir", "@tmp", "@synoresource", "#recycle", "#snapshot"),  # Synology's servers
        *("@recycle", "@recently-snapshot"),  # QNAP's
        "lost+found",  # e2fsck
    }
)
"""What systems leave beside pictures, thumbnails among it: neither a class nor a picture."""


def is_left_behind(path: str) -> bool:
    """Tell whether a part of a path below somebody's folder is hidden, or left there by a system."""
    return any(part.startswith(".") or part.lower() in _LEFT_BEHIND for part in path.split("/"))


@dataclass(frozen=True, slots=True)
class Item:
    """A labelled picture to remember."""

    id: str
    label: str
    image: ImageLike
    source: str | None = None  # where it came from, kept for people


def as_item(parts: tuple[str, str, ImageLike]) -> Item:
    """Return (id, label, picture) as an item.

    Raises:
        InvalidArgument: something else.
    """
    if not isinstance(parts, tuple | list) or len(parts) != 3:
        raise InvalidArgument(f"got {type(parts).__name__} as an item: Item or (id, label, picture) expected")
    return Item(*parts)


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
    """Return every file below ``folder/<label>/``, at any depth, in a fixed order; see `is_left_behind` for the others.

    Raises:
        FolderError: no such folder, none with labelled files in it, or two files whose names look the same.
    """
    root = Path(folder)
    if not os.path.isdir(root):
        what = "not a folder" if os.path.exists(root) else "not there"
        raise FolderError(f"{root} is {what}: a folder laid out as <label>/<image> expected")
    try:
        files = [file for label in sorted(_visible(root)) if label.is_dir() for file in _labelled_below(root, label)]
        inside = "only files, no label folders" if any(_visible(root)) else "nothing"
        if any(entry.is_dir() for entry in _visible(root)):
            inside = "only empty label folders"
    except OSError as error:
        raise FolderError(f"{error.filename} cannot be read: {error.strerror}; make it readable") from error
    if not files:
        raise FolderError(f"{root} holds {inside}: <label>/<image> expected, one subfolder for each label")
    expect_distinct([file.id for file in files], root)
    return files


def expect_distinct(ids: Sequence[str], root: Path) -> None:
    """Raise FolderError where two files have the same id, since Unicode has two forms of some letters."""
    if len(set(ids)) < len(ids):
        twice = Counter(ids).most_common(1)[0][0]
        raise FolderError(f"{root} holds two files called {twice}, whose letters are spelt differently: rename one")


def files_below(folder: str | Path, *, above: str | Path | None = None, stop: bool = False) -> Iterator[Path]:
    """Yield every file below a folder as it is found, in a fixed order; see `is_left_behind` for the others.

    Args:
        folder: where to look.
        above: a folder that a link below is not to lead back to.
        stop: whether to raise OSError for a folder that cannot be read; otherwise it is yielded itself, at the end, as
            is in any case one whose path is longer than the system takes.
    """
    unreadable: list[OSError] = []

    def note(error: OSError) -> None:
        if stop and error.errno != errno.ENAMETOOLONG:
            raise error  # a folder left out in silence is a class forgotten
        unreadable.append(error)

    entered = {os.path.realpath(above)} if above else set()  # links are followed, but never in a circle
    for here, subfolders, names in os.walk(folder, onerror=note, followlinks=True):
        if os.path.realpath(here) in entered:
            subfolders.clear()
            continue
        entered.add(os.path.realpath(here))
        subfolders[:] = sorted(name for name in subfolders if not is_left_behind(name))
        yield from (Path(here, name) for name in sorted(names) if not is_left_behind(name))
    yield from (Path(error.filename) for error in unreadable)


def _labelled_below(root: Path, label: Path) -> Iterator[LabelledFile]:
    text = as_text(label.name)
    for path in files_below(label, above=root, stop=True):
        yield LabelledFile(as_text(path.relative_to(root).as_posix()), text, path)


def _visible(folder: Path) -> Iterator[Path]:
    return (entry for entry in folder.iterdir() if not is_left_behind(entry.name))


def expect_outside(path: str | Path, folder: str | Path) -> None:
    """Raise FolderError where something is to be written inside the pictures, which would count it as pictures."""
    if Path(path).resolve().is_relative_to(Path(folder).resolve()):
        raise FolderError(f"{path} lies inside {folder}, and its files would be taken for pictures: put it elsewhere")


def as_text(name: str | Path) -> str:
    """Return a file name as text that any store takes: composed, and bytes that are no UTF-8 become escapes."""
    try:
        return composed(os.fsencode(name).decode("utf-8", "backslashreplace"))
    except UnicodeEncodeError:  # halves of characters, which JSON may hold and no file name does
        return composed(str(name).encode("utf-8", "backslashreplace").decode())


def as_it_lies(folder: Path, file: str) -> Path:
    """Return where a file lies that a list names: one written on Windows and a Mac's copy spell an é differently."""
    there = (folder / spelt for spelt in spellings(file) if os.path.exists(folder / spelt))
    return folder / file if file.isascii() else next(there, folder / file)
