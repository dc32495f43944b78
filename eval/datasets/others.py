"""NINCO, iNaturalist 2021 and the validation set of Tiny-ImageNet."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from eval.datasets.catalogue import Official
from eval.datasets.rows import Table
from eval.datasets.shipped import ninco_classes
from eval.datasets.stored import read_file
from eval.datasets.trees import Tree
from eval.datasets.wnids import Labels, as_class, by_class, is_wnid
from retrieval.errors import FolderError, ImageError
from retrieval.folder import as_text
from retrieval.labels import composed

_TAXON: Final = re.compile(r"\d{5}(?:_[^_]+){7}")  # as in 03111_Animalia_Chordata_Aves_…_Turdus_migratorius
_ANNOTATIONS: Final = "val_annotations.txt"


def begins_ninco(folders: list[str], files: list[str]) -> bool:
    """Tell whether NINCO's classes lie here."""
    return any(_plain(name) in _by_plain_name() for name in folders)


def ninco_file_labels(official: Official, paths: Sequence[str]) -> Labels:
    """Return the classes of NINCO's files.

    Raises:
        FolderError: a folder is none of its classes.
    """
    return by_class(paths, _folder, _ninco_class)


def ninco_row_labels(official: Official, table: Table) -> Labels:
    """Return the classes of a table's rows.

    Raises:
        FolderError: one is none of NINCO's classes.
    """
    return [frozenset(_ninco_class(name) for name in names) for names in named_labels(table)]


def begins_inaturalist(folders: list[str], files: list[str]) -> bool:
    """Tell whether the classes of iNaturalist 2021 lie here."""
    return any(map(_TAXON.fullmatch, folders))


def inaturalist_file_labels(official: Official, paths: Sequence[str]) -> Labels:
    """Return the classes of iNaturalist's files: the whole folder name, since shorter ones are not unique.

    Raises:
        FolderError: a folder is called otherwise.
    """
    return by_class(paths, _folder, _taxon)


def inaturalist_row_labels(official: Official, table: Table) -> Labels:
    """Return the classes of a table's rows.

    Raises:
        FolderError: one is no whole folder name.
    """
    return [frozenset(_taxon(name) for name in names) for names in named_labels(table)]


def begins_tiny_val(folders: list[str], files: list[str]) -> bool:
    """Tell whether Tiny-ImageNet's validation set begins here, as published or sorted into wnid folders."""
    return _ANNOTATIONS in files or any(map(is_wnid, folders))


def tiny_annotations(official: Official, tree: Tree, start: str) -> dict[str, str] | None:
    """Return the wnid of each file in ``images``, by its path in lower case; None where the set lies in folders.

    Raises:
        FolderError: the list that comes with the pictures is missing or damaged.
    """
    if _ANNOTATIONS not in tree.entries(start)[1] or "images" not in tree.entries(start)[0]:
        return None
    found = tree.files(start)
    source = found.picture(list(found.paths).index(_ANNOTATIONS))
    try:
        lines = (read_file(source) if isinstance(source, Path) else source.read()).decode().splitlines()
        rows = [line.split("\t") for line in lines]
        return {f"images/{row[0]}".lower(): as_class(official, row[1]) for row in rows}
    except (ValueError, IndexError, ImageError) as error:
        raise FolderError(
            f"{tree.root / start / _ANNOTATIONS} cannot be read: {error}; unpack the zip again"
        ) from error


def named_labels(table: Table) -> list[frozenset[str]]:
    """Return the labels of a table's rows as text: by class name where they are numbers."""
    names = table.class_names
    sets: dict[frozenset[str] | frozenset[int], frozenset[str]] = {}
    for allowed in dict.fromkeys(table.labels):
        sets[allowed] = frozenset(as_text(_text(table, label, names)) for label in allowed)
    return [sets[allowed] for allowed in table.labels]


def _text(table: Table, label: str | int, names: Sequence[str] | None) -> str:
    if isinstance(label, str) or names is None:
        return str(label)
    if label >= len(names):
        raise FolderError(f"{table.root} has the label {label}, but names {len(names):,} classes: it is damaged")
    return names[label]


def _ninco_class(name: str) -> str:
    known = _by_plain_name().get(_plain(name))
    if known is None:
        raise FolderError(f"{name!r} is none of NINCO's 64 classes: give the folder NINCO_OOD_classes")
    return known


def _taxon(name: str) -> str:
    if not _TAXON.fullmatch(name):
        raise FolderError(
            f"{name!r} is no class of iNaturalist 2021, which are called as in"
            " 00000_Kingdom_Phylum_Class_Order_Family_Genus_epithet"
        )
    return as_text(name)


def _folder(path: str) -> str | None:
    folder, slash, _ = path.partition("/")
    return folder if slash else None


def _plain(name: str) -> str:
    return composed(name).replace(" ", "_")  # as some who unpack it do


def _by_plain_name() -> dict[str, str]:
    return {_plain(name): name for name in ninco_classes()}
