"""Where among the folders at a path a published data set begins, and what to do where it begins nowhere."""

import re
from collections.abc import Callable, Sequence
from typing import Final

from eval.datasets.trees import Tree
from eval.wording import counted
from retrieval.errors import FolderError
from retrieval.folder import as_text

_DEEPEST: Final = 5  # folders that a data set may lie below the path that was given: "ILSVRC/Data/CLS-LOC/val" is four
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
