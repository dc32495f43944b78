"""Pictures that lie in folders, on disk or inside an archive."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from eval.types import Sample, StoredPicture
from retrieval.errors import FolderError
from retrieval.folder import as_text, is_left_behind

_PICTURE: Final = re.compile(r"\.(?:jpe?g|jpe|jfif|mpo|a?png|gif|webp|bmp|tiff?)$", re.IGNORECASE)  # as Pillow's
_BESIDE: Final = re.compile(
    r"(?:^|/)[A-Z_]+$|\.(?:txt|xml|[ct]sv|jsonl?|md|html?|mat|pdf|ya?ml|log|md5|sha\d+|gz|tar|zip)$", re.ASCII
)  # read-me files, annotations and lists, which published sets hold beside their pictures


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

    @property
    def notes(self) -> tuple[str, ...]:
        """What was passed over, as sentences."""
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
    notes: tuple[str, ...] = ()

    def entries(self, folder: str) -> tuple[list[str], list[str]]:
        """See `Tree`.

        Raises:
            FolderError: it cannot be read.
        """
        try:
            with os.scandir(self.root / folder) as found:
                visible = [(entry.name, _is_folder(entry)) for entry in found if not is_left_behind(entry.name)]
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
    notes: tuple[str, ...] = ()

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


def is_picture(path: str) -> bool:
    """Tell whether a file's name ends as pictures' do."""
    return _PICTURE.search(path) is not None


def pictures_below(tree: Tree, folder: str) -> tuple[Files, list[str]]:
    """Return the files whose names end as pictures' do, and the paths of others that are no lists or annotations.

    Raises:
        FolderError: there are none.
    """
    files = tree.files(folder)
    kept = [place for place, path in enumerate(files.paths) if is_picture(path)]
    if not kept:
        raise FolderError(f"{tree.root / folder} holds no pictures: .jpg, .jpeg, .png, .gif, .webp, .bmp or .tif files")
    others = [path for path in files.paths if not is_picture(path) and not _BESIDE.search(path)]
    return Files([files.paths[place] for place in kept], lambda number: files.picture(kept[number])), others


def _walk(base: str) -> Iterator[str]:
    """Yield the paths of the files below a folder; a link to a folder is passed over where it leads back above."""
    waiting: list[tuple[str, str, frozenset[tuple[int, int]]]] = [(base, "", frozenset())]
    while waiting:
        folder, below, entered = waiting.pop()
        status = os.stat(folder)
        here = (status.st_dev, status.st_ino)
        if here in entered:
            continue
        with os.scandir(folder) as found:
            for entry in found:
                if is_left_behind(entry.name):
                    continue
                if _is_folder(entry):
                    waiting.append((entry.path, f"{below}{entry.name}/", entered | {here}))
                else:
                    yield below + entry.name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links in a circle, which are no pictures
        return False


def _unreadable(error: OSError) -> FolderError:
    return FolderError(f"{error.filename} cannot be read: {error.strerror}; make it readable")
