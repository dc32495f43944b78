"""ImageNet-1k's validation set in the forms that it goes round in, with its own labels or the reassessed ones.

A picture is known by the number in its file name, never by its place in a listing; what a folder or a name says about
its class must agree with the published list.
"""

import re
from collections.abc import Sequence
from typing import Final

from eval.datasets.catalogue import Official
from eval.datasets.rows import Table
from eval.datasets.shipped import VAL_IMAGES, real_labels, val_labels
from eval.datasets.wnids import Labels, as_class, expect_named_so, is_wnid, wnid_row_labels
from retrieval.errors import FolderError

_NAME: Final = re.compile(r"ILSVRC2012_val_(\d{8})(?:_(n\d{8}))?\.\w+", re.IGNORECASE)


def begins_val(folders: list[str], files: list[str]) -> bool:
    """Tell whether the validation set begins in a folder with these folders and files."""
    numbered = len(folders) > 1 and all(name.isdigit() for name in folders)
    return any(map(is_wnid, folders)) or any(map(_NAME.fullmatch, files)) or numbered


def val_file_labels(official: Official, paths: Sequence[str]) -> Labels:
    """Return the labels of the validation set's files: by number, or by wnid folder where files have other names.

    Raises:
        FolderError: a folder or a name says another class than the published list, or none can be told.
    """
    labels: Labels = [_published(path) or _by_folder(official, path) for path in paths]
    expect_named_so(paths, labels)
    return labels


def real_file_labels(official: Official, paths: Sequence[str]) -> Labels:
    """Return the reassessed labels of the validation set's files; some are empty.

    Raises:
        FolderError: a file has no number in its name, or its folder says another class than the published list.
    """
    return [_reassessed(path) for path in paths]


def val_row_labels(official: Official, table: Table) -> Labels:
    """Return the labels of a table's rows; pictures with their official names are compared with the published list.

    Raises:
        FolderError: a row has another label than the published list.
    """
    labels = wnid_row_labels(official, table)
    for name, given in zip(table.ids, labels, strict=True):
        published = _published(name)
        if given is not None and published is not None and given != published:
            raise FolderError(
                f"{table.root} labels {name} as {_in_words(given)}, but the published list says {_in_words(published)}:"
                " its class numbers follow another order than the sorted wnids"
            )
    return labels


def real_row_labels(official: Official, table: Table) -> Labels:
    """Return the reassessed labels of a table's rows, by the file names of their pictures.

    Raises:
        FolderError: a row has no file name with a number, or another label than the published list.
    """
    val_row_labels(official, table)
    return real_file_labels(official, table.ids)


def _published(path: str) -> frozenset[str] | None:
    """Return the label that the published list has for a file; None where its name has no number."""
    above, _, name = path.rpartition("/")
    named = _NAME.fullmatch(name)
    if named is None:
        return None
    number = int(named[1])
    if not 1 <= number <= VAL_IMAGES:
        raise FolderError(f"{path} has the number {number:,}: from 1 to {VAL_IMAGES:,} expected")
    label = val_labels()[number - 1]
    for said in (above.rpartition("/")[2].lower(), (named[2] or "").lower()):
        if is_wnid(said) and said not in label:
            raise FolderError(
                f"{path} is filed under {said}, but the published list says {_in_words(label)}: the copy was sorted by"
                " another list; take the official ILSVRC2012_img_val.tar"
            )
    return label


def _reassessed(path: str) -> frozenset[str]:
    if _published(path) is None:
        raise FolderError(
            f"{path} is not called ILSVRC2012_val_00000001.JPEG or alike, and the reassessed labels go by that number:"
            " take a copy with the official names"
        )
    named = _NAME.fullmatch(path.rpartition("/")[2])
    return real_labels()[int(named[1]) - 1] if named else frozenset()


def _by_folder(official: Official, path: str) -> frozenset[str] | None:
    folder, slash, _ = path.partition("/")
    if slash and is_wnid(folder):
        return frozenset([as_class(official, folder)])
    raise FolderError(
        f"{path} tells its class neither by name (ILSVRC2012_val_00000001.JPEG) nor by folder (n01440764):"
        " take a copy that does"
    )


def _in_words(labels: frozenset[str]) -> str:
    return " or ".join(sorted(labels)) or "nothing"
