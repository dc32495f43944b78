"""Any folder or archive laid out as ``<label>/<image>``."""

from pathlib import Path
from typing import Final

from eval.datasets.start import hint, in_words
from eval.datasets.trees import Files, Tree, is_picture
from eval.types import Sample
from retrieval.errors import FolderError
from retrieval.folder import as_text, list_labelled_files

_DEEPEST: Final = 5  # folders that the label folders may lie below the path that was given


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
    start = _start(tree)
    files = tree.files(start)
    sets: dict[str, frozenset[str]] = {}
    labels = [_label(path, sets) for path in files.paths]
    if not sets:
        folders, names = tree.entries(start)
        raise FolderError(
            f"{tree.root / start} holds {in_words(folders, names)}: <label>/<image> expected, one folder for each label"
            + (hint(folders, names) if not folders else "")
        )
    return files, labels


def _start(tree: Tree) -> str:
    start = ""
    for _ in range(_DEEPEST):
        folders, files = tree.entries(start)
        if len(folders) != 1:
            break
        below = f"{start}/{folders[0]}" if start else folders[0]
        labels, beside = tree.entries(below)
        if not labels or (len(labels) == 1 and any(map(is_picture, files + beside))):
            break
        start = below
    return start


def _label(path: str, sets: dict[str, frozenset[str]]) -> frozenset[str] | None:
    """Return a file's label as a set, one object for each label, since there are millions of files."""
    folder, slash, _ = path.partition("/")
    return sets.setdefault(folder, frozenset([as_text(folder)])) if slash else None
