"""Pictures that lie in folders, on disk or inside an archive, and where among the folders a data set begins."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from eval.types import Sample, StoredPicture
from retrieval.errors import FolderError
from retrieval.folder import as_text

_NOT_OURS: Final = re.compile(r"(?:^|/)(?:\.|__MACOSX(?:/|$)|(?:thumbs\.db|desktop\.ini)$)", re.IGNORECASE)
_PICTURE: Final = re.compile(r"\.(?:jpe?g|png|gif|webp|bmp|tiff?)$", re.IGNORECASE)
_DEEPEST: Final = 5  # folders that a data set may lie below the path that was given: "ILSVRC/Data/CLS-LOC/val" is four


@dataclass(frozen=True, slots=True)
class Files:
    """Files below one folder, sorted by path."""

    paths: Sequence[str]  # below the folder, with slashes
    picture: Callable[[int], Path | StoredPicture]  # by place in ``paths``


class Tree(Protocol):
    """Folders with files in them; hidden files and those that operating systems leave behind are passed over."""

    @property
    def root(self) -> Path:
        """The folder or the archive."""
        ...

    def entries(self, folder: str) -> tuple[list[str], list[str]]:
        """Return the names of the folders and of the files that lie right in a folder; "" is the root."""
        ...

    def files(self, folder: str) -> Files:
        """Return the files at any depth below a folder."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class FolderTree:
    """Folders on disk; links are followed, but never in a circle."""

    root: Path

    def entries(self, folder: str) -> tuple[list[str], list[str]]:
        """See `Tree`.

        Raises:
            FolderError: it cannot be read.
        """
        try:
            with os.scandir(self.root / folder) as found:
                visible = [(entry.name, entry.is_dir()) for entry in found if not is_left_behind(entry.name)]
        except OSError as error:
            raise _unreadable(error) from error
        return sorted(name for name, below in visible if below), sorted(name for name, below in visible if not below)

    def files(self, folder: str) -> Files:
        """See `Tree`.

        Raises:
            FolderError: a folder below cannot be read; one left out in silence would be a class forgotten.
        """
        base = self.root / folder
        try:
            paths = sorted(_walk(os.fspath(base)))
        except OSError as error:
            raise _unreadable(error) from error
        return Files(paths, lambda place: Path(base, paths[place]))


@dataclass(frozen=True, slots=True, eq=False)
class ArchiveTree:
    """What an archive holds."""

    root: Path
    members: dict[str, int]  # path → number of the member
    picture: Callable[[int], StoredPicture]  # by number

    def entries(self, folder: str) -> tuple[list[str], list[str]]:
        """See `Tree`."""
        prefix = f"{folder}/" if folder else ""
        parts = {path[len(prefix) :].partition("/")[:2] for path in self.members if path.startswith(prefix)}
        return sorted(name for name, slash in parts if slash), sorted(name for name, slash in parts if not slash)

    def files(self, folder: str) -> Files:
        """See `Tree`."""
        prefix = f"{folder}/" if folder else ""
        below = sorted(path for path in self.members if path.startswith(prefix))
        numbers = [self.members[path] for path in below]
        return Files([path[len(prefix) :] for path in below], lambda place: self.picture(numbers[place]))


@dataclass(frozen=True, slots=True, eq=False)
class LazySamples(Sequence[Sample]):
    """Samples that are made when they are looked at, because a training set has millions."""

    ids: Sequence[str]
    labels: Sequence[frozenset[str]]
    picture: Callable[[int], Path | StoredPicture]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, place):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204 - as Sequence overloads it
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        number = range(len(self))[place]
        return Sample(self.ids[number], self.picture(number), self.labels[number])


def samples_of(files: Files, labels: Sequence[frozenset[str] | None]) -> LazySamples:
    """Return files as samples, ids being their paths; those without labels are left out."""
    kept = [place for place, right in enumerate(labels) if right is not None]
    ids = [files.paths[place] for place in kept]
    return LazySamples(
        [path if path.isascii() else as_text(path) for path in ids],
        [right for right in labels if right is not None],
        lambda number: files.picture(kept[number]),
    )


def pictures_below(tree: Tree, folder: str) -> Files:
    """Return the files whose names end as pictures' do; annotations and read-me files lie among official ones.

    Raises:
        FolderError: there are none.
    """
    files = tree.files(folder)
    kept = [place for place, path in enumerate(files.paths) if _PICTURE.search(path)]
    if not kept:
        raise FolderError(f"{tree.root / folder} holds no pictures: .jpg, .jpeg, .png, .gif, .webp, .bmp or .tif files")
    return Files([files.paths[place] for place in kept], lambda number: files.picture(kept[number]))


def find_start(tree: Tree, *, names: Sequence[str], begins: Callable[[list[str], list[str]], bool], layout: str) -> str:
    """Return the folder where a data set begins, at the root or below it.

    Args:
        tree: where to look.
        names: what the folders on the way are called, in lower case, those to prefer first.
        begins: whether it begins in a folder with these folders and files.
        layout: what is looked for, in words.

    Raises:
        FolderError: nowhere, as far as one can tell.
    """
    folder = ""
    for _ in range(_DEEPEST):
        folders, files = tree.entries(folder)
        if begins(folders, files):
            return folder
        by_name = {name.lower(): name for name in folders}
        known = next((by_name[name] for name in names if name in by_name), None)
        below = known or (folders[0] if len(folders) == 1 else None)
        if below is None:
            break
        folder = f"{folder}/{below}" if folder else below
    raise FolderError(
        f"{tree.root / folder} holds {_in_words(folders, files)}: {layout} expected{_hint(folders, files)}"
    )


def _hint(folders: list[str], files: list[str]) -> str:
    if folders and all(name.isdigit() for name in folders):
        return "; whose numbers these are nobody can tell, so take the official archive"
    return "; if this is a single class, give the folder above it" if files and not folders else ""


def is_left_behind(path: str) -> bool:
    """Tell whether a path is hidden, or a file that an operating system leaves beside pictures."""
    return _NOT_OURS.search(path) is not None


def _walk(base: str) -> Iterator[str]:
    entered: set[str] = set()
    for folder, subfolders, names in os.walk(base, onerror=_stop, followlinks=True):
        real = os.path.realpath(folder)
        if real in entered:
            subfolders.clear()
            continue
        entered.add(real)
        subfolders[:] = [name for name in subfolders if not is_left_behind(name)]
        above = "" if folder == base else os.path.relpath(folder, base).replace(os.sep, "/") + "/"
        yield from (above + name for name in names if not is_left_behind(name))


def _stop(error: OSError) -> None:
    raise error


def _unreadable(error: OSError) -> FolderError:
    return FolderError(f"{error.filename} cannot be read: {error.strerror}; make it readable")


def _in_words(folders: list[str], files: list[str]) -> str:
    if not folders and not files:
        return "nothing"
    counted = [f"{len(names):,} {kind}" for names, kind in ((folders, "folders"), (files, "files")) if names]
    named = ", ".join(as_text(name) for name in (folders or files)[:3])
    return f"{' and '.join(counted)} ({named}{', …' if len(folders or files) > 3 else ''})"
