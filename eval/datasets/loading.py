"""Any data set by name and place: the published ones in all their forms, and everybody's own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from eval.datasets import imagenet, others, wnids
from eval.datasets.archives import open_archive
from eval.datasets.catalogue import Family, Official, find_official, official_datasets
from eval.datasets.folder import read_folder
from eval.datasets.rows import Table, expect_unique
from eval.datasets.tables import find_table
from eval.datasets.trees import (
    ArchiveTree,
    Files,
    FolderTree,
    LazySamples,
    Tree,
    find_start,
    pictures_below,
    samples_of,
)
from eval.datasets.wnids import Labels
from eval.types import Dataset
from retrieval.errors import FolderError


@dataclass(frozen=True, slots=True)
class _Layout:
    """How sets of one family are laid out."""

    begins: Callable[[list[str], list[str]], bool]
    in_words: str
    of_files: Callable[[Official, Sequence[str]], Labels]
    of_rows: Callable[[Official, Table], Labels]


_WNID_FOLDERS: Final = "<wnid>/<image> (folders such as n01440764)"
_VAL: Final = "ILSVRC2012_val_00000001.JPEG and so on, or <wnid>/<image>,"
_LAYOUTS: Final[dict[Family, _Layout]] = {
    "wnid folders": _Layout(wnids.begins_with_wnids, _WNID_FOLDERS, wnids.wnid_file_labels, wnids.wnid_row_labels),
    "val": _Layout(imagenet.begins_val, _VAL, imagenet.val_file_labels, imagenet.val_row_labels),
    "real": _Layout(imagenet.begins_val, _VAL, imagenet.real_file_labels, imagenet.real_row_labels),
    "v2": _Layout(wnids.begins_v2, "folders 0 to 999, or wnids,", wnids.v2_file_labels, wnids.wnid_row_labels),
    "ninco": _Layout(
        others.begins_ninco, "NINCO_OOD_classes/<class>/<image>", others.ninco_file_labels, others.ninco_row_labels
    ),
    "inaturalist": _Layout(
        others.begins_inaturalist,
        "<00000>_Kingdom_Phylum_Class_Order_Family_Genus_epithet/<image>",
        others.inaturalist_file_labels,
        others.inaturalist_row_labels,
    ),
    "tiny val": _Layout(
        others.begins_tiny_val,
        "val_annotations.txt with images/, or <wnid>/<image>,",
        wnids.wnid_file_labels,
        wnids.wnid_row_labels,
    ),
}


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
        names for all others.

    Raises:
        FolderError: nothing is there, or not what the name says; an incomplete copy is no error.
        InvalidArgument: the name stands for several published sets.
    """
    official = find_official(name)
    place = Path(path)
    if not place.exists():
        raise FolderError(f"{place} is not there: a folder, an archive or a table of pictures expected")
    table = find_table(place, split=official.splits if official else ())
    if table is not None:
        expect_unique(table)
        return _from_table(official, table)
    if official is not None:
        return _from_tree(official, FolderTree(place) if place.is_dir() else open_archive(place))
    return Dataset(read_folder(place) if place.is_dir() else _labelled(open_archive(place)))


def _from_table(official: Official | None, table: Table) -> Dataset:
    if official is None:
        labels: Labels = list(others.named_labels(table))
    else:
        labels = _LAYOUTS[official.family].of_rows(official, table)
    return _dataset(table.root, official, Files(table.ids, table.picture), labels)


def _from_tree(official: Official, tree: Tree) -> Dataset:
    layout = _LAYOUTS[official.family]
    start = find_start(tree, names=official.folders, begins=layout.begins, layout=layout.in_words)
    _expect_form(official, tree, start)
    files = pictures_below(tree, start)
    annotations = others.tiny_annotations(official, tree, start) if official.family == "tiny val" else None
    if annotations is not None:
        labels: Labels = [frozenset([annotations[p]]) if p in annotations else None for p in files.paths]
    else:
        labels = layout.of_files(official, files.paths)
    return _dataset(tree.root, official, files, labels)


def _dataset(place: Path, official: Official | None, files: Files, labels: Labels) -> Dataset:
    samples = samples_of(files, [right or None for right in labels])
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


def _labelled(tree: ArchiveTree) -> LazySamples:
    """Return an archive's files, laid out as <label>/<image> below the folders that all of them share."""
    start = ""
    while True:
        folders, files = tree.entries(start)
        below = f"{start}/{folders[0]}" if start else folders[0] if folders else ""
        if files or len(folders) != 1 or not tree.entries(below)[0]:
            break
        start = below
    found = tree.files(start)
    labels = wnids.by_class(found.paths, lambda path: path.partition("/")[0] if "/" in path else None, str)
    if not any(labels):
        raise FolderError(f"{tree.root} holds no labelled files: <label>/<image> expected, one folder for each label")
    return samples_of(found, labels)
