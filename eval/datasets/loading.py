"""Any data set by name and place: the published ones in all their forms, and everybody's own."""

import os
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from eval.datasets.catalogue import Official, find_official, official_datasets
from eval.datasets.published import LAYOUTS, Labels, named_labels, once, tiny_annotations
from eval.datasets.tables import Table, expect_unique, find_table
from eval.datasets.trees import (
    Files,
    FolderTree,
    Tree,
    find_start,
    is_picture,
    label_folders,
    pictures_below,
    samples_of,
)
from eval.types import Dataset
from retrieval.errors import FolderError, InvalidArgument, VisualMemoryWarning
from retrieval.sources import as_text, expect_distinct
from retrieval.support.terminal import counted


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """A data set and what was passed over in finding it."""

    dataset: Dataset
    notes: tuple[str, ...]  # sentences


_AGAIN: Final = "there twice, flat and in folders maybe, and counted once"
_STRANGE: Final = "by their endings no pictures"


def load_dataset(name: str, path: str | Path) -> Dataset:
    """Return the pictures at a path with the labels that are right for them.

    Args:
        name: of a published set, as `official_datasets` lists them, which is then expected at the path; any other
            name stands for a data set of one's own.
        path: a folder; a tar, tar.gz or zip; a Parquet file or a folder of them; a folder that Hugging Face's
            ``save_to_disk`` wrote; for one's own also a CSV, TSV or JSONL file, see `tables`. A folder above the
            published one will do where there is no doubt which is meant.

    Returns:
        samples in a fixed order, by path or as a table has them. Ids are paths below the data set's own folder, so
        that they are the same whether it is unpacked or not. Labels are wnids for ImageNet and its variants, folder
        names for all others. What was passed over, such as links that lead out of an archive, is warned of.

    Raises:
        FolderError: nothing is there, or not what the name says; an incomplete copy is no error.
        InvalidArgument: the name stands for several published sets.
    """
    found = find_dataset(name, path)
    for note in found.notes:
        warnings.warn(f"{path}: {note}", VisualMemoryWarning, stacklevel=2)
    return found.dataset


def find_dataset(name: str, path: str | Path) -> Found:
    """Return what `load_dataset` does, and what was passed over beside.

    Raises:
        FolderError: as `load_dataset` does.
        InvalidArgument: as `load_dataset` does.
    """
    official = find_official(name)
    place = Path(path)
    if not os.path.lexists(place):
        raise FolderError(f"{place} is not there: a folder, an archive or a table of pictures expected")
    table = find_table(place, split=official.splits if official else ())
    if table is not None:
        expect_unique(table)
        return _from_table(official, table)
    tree: Tree
    if os.path.isdir(place):
        tree = FolderTree(place)
    else:
        from eval.datasets.archives import open_archive  # most data sets lie in folders

        tree = open_archive(place)
    found = _own(tree) if official is None else _from_tree(official, tree)
    return Found(found.dataset, (*tree.notes, *found.notes))


def _own(tree: Tree) -> Found:
    files, labels = label_folders(tree)
    beside = sum(right is None and is_picture(path) for path, right in zip(files.paths, labels, strict=True))
    note = f"{counted(beside, 'picture')} passed over: beside the label folders, not in one"
    return Found(_dataset(tree.root, None, files, labels), (note,) if beside else ())


def _from_table(official: Official | None, table: Table) -> Found:
    again: list[str] = []
    if official is None:
        labels: Labels = list(named_labels(table))
    else:
        labels, again = once(table.ids, LAYOUTS[official.family].of_rows(official, table))
    return Found(_dataset(table.root, official, Files(table.ids, table.picture), labels), tuple(_passed(again, _AGAIN)))


def _from_tree(official: Official, tree: Tree) -> Found:
    layout = LAYOUTS[official.family]
    start = find_start(tree, names=official.folders, begins=layout.begins, layout=layout.in_words)
    _expect_form(official, tree, start)
    files, strange = pictures_below(tree, start)
    annotations = tiny_annotations(official, tree, start) if official.family == "tiny val" else None
    if annotations is not None:
        wnid_of = (annotations.get(path.lower()) for path in files.paths)
        labels: Labels = [None if wnid is None else frozenset([wnid]) for wnid in wnid_of]
    else:
        labels = layout.of_files(official, files.paths)
    beside = [path for path, right in zip(files.paths, labels, strict=True) if right is None]
    labels, again = once(files.paths, labels)
    unlabelled = "outside the class folders" if annotations is None else "without a line in val_annotations.txt"
    notes = [*_passed(beside, unlabelled), *_passed(again, _AGAIN), *_passed(strange, _STRANGE, "file")]
    return Found(_dataset(tree.root, official, files, labels), tuple(notes))


def _passed(paths: Sequence[str], why: str, what: str = "picture") -> Iterator[str]:
    """Yield a note about what was passed over, where anything was."""
    if paths:
        yield f"{counted(len(paths), what)} passed over: {why}, such as {as_text(paths[0])}"


def _dataset(place: Path, official: Official | None, files: Files, labels: Labels) -> Dataset:
    samples = samples_of(files, [right or None for right in labels])
    expect_distinct(samples.ids, place)
    excluded = sum(right is not None and not right for right in labels)
    if not samples and not excluded:
        raise FolderError(f"{place} holds no labelled pictures: {official.title if official else 'some'} expected")
    return Dataset(samples, subset=official.subset if official else None, excluded=excluded)


def _expect_form(official: Official, tree: Tree, start: str) -> None:
    """Raise FolderError where a folder's own name says that this is another form of the same set."""
    where = f"{tree.root.resolve().name}/{start}".lower()
    for other in official_datasets().values():
        named = other.folders[0].removesuffix("-format-val") in where
        if named and other != official and other.family == official.family == "v2":
            raise FolderError(f"{tree.root / start} is {other.title}, not {official.title}: give the other folder")


def named_folders(arguments: Iterable[str]) -> dict[str, Path]:
    """Return where each data set lies, by name.

    Raises:
        InvalidArgument: another form, or one name twice.
    """
    folders: dict[str, Path] = {}
    for argument in arguments:
        parts = re.fullmatch(r"([\w.-]+)=(.+)", argument, re.DOTALL)
        if parts is None:
            raise InvalidArgument(f"--dataset {argument!r}: NAME=PATH expected, such as sketch=data/sketch")
        if parts[1] in folders:
            raise InvalidArgument(f"--dataset {parts[1]} is given twice: choose two names")
        folders[parts[1]] = Path(parts[2])
    return folders
