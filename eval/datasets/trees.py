"""Pictures that lie in folders, on disk or inside an archive."""

import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from eval.types import Sample, StoredPicture
from retrieval.errors import FolderError, ImageError, ImageTooLarge, NotAnImage
from retrieval.sources import as_text, is_left_behind, list_labelled_files
from retrieval.support.terminal import counted

_PICTURE: Final = re.compile(r"\.(?:jpe?g|jpe|jfif|mpo|a?png|gif|webp|bmp|tiff?)$", re.IGNORECASE)  # as Pillow's
_BESIDE: Final = re.compile(
    r"(?:^|/)[A-Z_]+$|\.(?:txt|xml|[ct]sv|jsonl?|md|html?|mat|pdf|ya?ml|log|md5|sha\d+|gz|tar|zip)$", re.ASCII
)  # read-me files, annotations and lists, which published sets hold beside their pictures


_LARGEST: Final = 1 << 28  # bytes of a picture as it is encoded: a file may be of any size, an archive claim any


def fingerprint(path: Path) -> str:
    """Return what tells a file from another in its place, without reading it."""
    status = path.stat()
    return f"{status.st_size}:{status.st_mtime_ns}"


def expect_a_pictures_size(name: str, size: int) -> None:
    """Raise ImageTooLarge for more bytes than an encoded picture may have."""
    if size > _LARGEST:
        raise ImageTooLarge(f"{name} has {size:,} bytes, more than a picture's limit of {_LARGEST:,}")


def read_file(path: Path) -> bytes:
    """Return a file's bytes, as long as it is one: a pipe would be waited for, and a device never ends.

    Raises:
        ImageError: it is missing, no file, larger than a picture may be, or cannot be read.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise NotAnImage(f"{path} is not a file but a folder, a pipe or a device")
        expect_a_pictures_size(str(path), status.st_size)
        return path.read_bytes()
    except FileNotFoundError as error:
        raise NotAnImage(f"no such file: {path}") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise ImageError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


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


_DEEPEST: Final = 5  # folders that a set may lie below the given path: "ILSVRC/Data/CLS-LOC/val" is four
_ARCHIVE: Final = re.compile(r"\.(?:tar|tar\.gz|tgz|zip)$", re.IGNORECASE)
_TINY_VAL: Final = re.compile(r"val_\d+\.JPEG", re.IGNORECASE)


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
    raise FolderError(f"{tree.root / folder} holds {in_words(folders, files)}: {layout} expected{hint(folders, files)}")


def in_words(folders: list[str], files: list[str]) -> str:
    """Return what lies in a folder, with examples."""
    if not folders and not files:
        return "nothing"
    kinds = [counted(len(names), kind) for names, kind in ((folders, "folder"), (files, "file")) if names]
    named = ", ".join(as_text(name) for name in (folders or files)[:3])
    return f"{' and '.join(kinds)} ({named}{', …' if len(folders or files) > 3 else ''})"


def hint(folders: list[str], files: list[str]) -> str:
    """Return what to do about a folder that holds these and no data set, to stand behind a sentence; or nothing."""
    if folders:
        numbered = all(name.isdigit() for name in folders)
        return "; whose numbers these are nobody can tell, so take the official archive" if numbered else ""
    archives = [name for name in files if _ARCHIVE.search(name)]
    if len(archives) == 1:
        return f"; give {as_text(archives[0])} itself"
    if archives:
        return "; unpack each into a folder of its name, or give the archive that they came in itself"
    if any(map(_TINY_VAL.fullmatch, files)):
        return (
            "; Tiny-ImageNet's labels lie in val_annotations.txt beside the folder images: give the folder above, or"
            " unpack the zip again where that lacks them"
        )
    return "; if this is a single class, give the folder above it" if files else ""


def read_folder(folder: str | Path) -> list[Sample]:
    """Return a folder's pictures as samples, in a fixed order; ids are the paths below it.

    Raises:
        FolderError: the folder is missing, empty or laid out otherwise.
    """
    return [Sample(file.id, file.path, frozenset([file.label])) for file in list_labelled_files(folder)]


def label_folders(tree: Tree) -> tuple[Files, list[frozenset[str] | None]]:
    """Return the files of one's own folder or archive with their labels; None for those outside any label folder.

    A folder that is the only one and holds several others is stepped into, as archives have it; one that holds a single
    folder too, unless pictures lie beside that, which make it a label with pictures in two places.

    Raises:
        FolderError: nothing lies in a label folder.
    """
    start = ""
    for _ in range(_DEEPEST):
        folders, names = tree.entries(start)
        if len(folders) != 1:
            break
        below = f"{start}/{folders[0]}" if start else folders[0]
        inside, beside = tree.entries(below)
        if not inside or (len(inside) == 1 and any(map(is_picture, names + beside))):
            break
        start = below
    files = tree.files(start)
    sets: dict[str, frozenset[str]] = {}  # one object for each label, since there are millions of files
    labels: list[frozenset[str] | None] = []
    for path in files.paths:
        folder, slash, _ = path.partition("/")
        labels.append(sets.setdefault(folder, frozenset([as_text(folder)])) if slash else None)
    if not sets:
        folders, names = tree.entries(start)
        raise FolderError(
            f"{tree.root / start} holds {in_words(folders, names)}: <label>/<image> expected, one folder for each label"
            + (hint(folders, names) if not folders else "")
        )
    return files, labels
