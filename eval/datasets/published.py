"""How the published data sets are laid out, and which label each of their files or rows has.

A picture of ImageNet's validation set is known by the number in its file name, never by its place in a listing; what a
folder or a name says about its class must agree with the published list.
"""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from eval.datasets.catalogue import VAL_IMAGES, Family, Official, ninco_classes, real_labels, val_labels
from eval.datasets.tables import Table
from eval.datasets.trees import Tree, read_file
from retrieval.errors import FolderError, ImageError
from retrieval.labels import composed, imagenet_by_wnid, imagenet_classes
from retrieval.sources import as_text

Labels = list[frozenset[str] | None]
"""By file: the labels that are right; an empty set where none is; None where the file is no picture of the set."""

_WNID: Final = re.compile(r"n\d{8}")
_NAMED: Final = re.compile(r"(?<![^\W_])n\d{8}(?![^\W_])", re.IGNORECASE)  # in file names and in class names
_IN_NAME: Final = re.compile(r"(n\d{8})_(\d+)(?:_n\d{8})?\.\w+", re.IGNORECASE)
_VAL_NAME: Final = re.compile(r"ILSVRC2012_val_(\d{8})(?:_(n\d{8}))?\.\w+", re.IGNORECASE)
_TAXON: Final = re.compile(r"\d{5}(?:_[^_]+){7}")  # as in 03111_Animalia_Chordata_Aves_…_Turdus_migratorius
_ANNOTATIONS: Final = "val_annotations.txt"
_SUBSET: Final = 200  # classes of ImageNet-A, and of ImageNet-R
_SHARED_WORDS: Final = 0.5  # of the 1,000 names in ImageNet's order; wordnet's own share a word with 89 to 95 % of ours
_FROM_ONE: Final = 10  # classes 1, 2, 3 and so on without a class 0: so many are no accident of a partial copy


@dataclass(frozen=True, slots=True)
class Layout:
    """How sets of one family are laid out.

    The functions that give labels raise FolderError for a class that is none of the set's, and where a folder, a name
    or a row says another class than the published list.
    """

    begins: Callable[
        [list[str], list[str]], bool
    ]  # tells whether a set begins in a folder with these folders and files
    in_words: str
    of_files: Callable[[Official, Sequence[str]], Labels]
    of_rows: Callable[[Official, Table], Labels]


def _begins_with_wnids(folders: list[str], files: list[str]) -> bool:
    # Hubs also put all files into one folder.
    return any(map(_is_wnid, folders)) or (not folders and any(map(_IN_NAME.fullmatch, files)))


def _begins_v2(folders: list[str], files: list[str]) -> bool:
    return any(_is_wnid(name) or _is_index(name) for name in folders)  # wnids in an older release


def _begins_val(folders: list[str], files: list[str]) -> bool:
    numbered = len(folders) > 1 and all(name.isdigit() for name in folders)
    return any(map(_is_wnid, folders)) or any(map(_VAL_NAME.fullmatch, files)) or numbered


def _begins_ninco(folders: list[str], files: list[str]) -> bool:
    return any(_plain(name) in _by_plain_name() for name in folders)


def _begins_inaturalist(folders: list[str], files: list[str]) -> bool:
    return any(map(_TAXON.fullmatch, folders))


def _begins_tiny_val(folders: list[str], files: list[str]) -> bool:
    return _ANNOTATIONS in files or any(map(_is_wnid, folders))  # as published, or sorted into wnid folders


def _wnid_files(official: Official, paths: Sequence[str]) -> Labels:
    """Return the labels of files in wnid folders, or in one folder with names that begin with a wnid."""

    def label(path: str) -> str | None:
        folder, slash, _ = path.partition("/")
        named = None if slash else _IN_NAME.fullmatch(folder)
        return folder if slash else named and named[1].lower()

    labels = _by_class(paths, label, lambda wnid: as_class(official, wnid))
    _expect_named_so(paths, labels)
    return labels


def _v2_files(official: Official, paths: Sequence[str]) -> Labels:
    """Return labels by folders, which are indices or wnids, but not those of a loader of a set of 200 classes."""

    def as_label(folder: str) -> str:
        if _is_index(folder):
            return imagenet_classes()[int(folder)].wnid
        if folder.isdigit():
            raise FolderError(f"the folder {folder} is none of {official.title}, whose folders are 0 to 999")
        return as_class(official, folder)

    folders = set(filter(None, map(_folder, paths)))
    if folders == {str(number) for number in range(_SUBSET)}:
        raise FolderError(
            "the folders 0 to 199 are all there are: that is how a loader numbers the classes of ImageNet-A or"
            f" ImageNet-R, and {official.title} has 0 to 999"
        )
    numbers = {int(folder) for folder in folders if folder.isascii() and folder.isdigit()}
    _expect_from_nought(numbers, official, "folders")
    labels = _by_class(paths, _folder, as_label)
    _expect_named_so(paths, labels)
    return labels


def _val_files(official: Official, paths: Sequence[str]) -> Labels:
    """Return the published labels by number, or by wnid folder where files have other names."""
    labels: Labels = [_published(path) or _by_folder(official, path) for path in paths]
    _expect_named_so(paths, labels)
    return labels


def _real_files(official: Official, paths: Sequence[str]) -> Labels:
    return [_reassessed(path) for path in paths]


def _ninco_files(official: Official, paths: Sequence[str]) -> Labels:
    return _by_class(paths, _folder, _ninco_class)


def _inaturalist_files(official: Official, paths: Sequence[str]) -> Labels:
    return _by_class(paths, _folder, _taxon)  # the whole folder name, since shorter ones are not unique


def _wnid_rows(official: Official, table: Table) -> Labels:
    """Return labels as wnids, which rows have as such or as class indices in the order of the sorted wnids."""
    names: Sequence[str] = table.class_names or () if table.numbered else ()
    by_index = [known.wnid for known in imagenet_classes()]
    wnids = [_NAMED.search(name) for name in names]
    if names and all(wnids):
        by_index = [found[0].lower() for found in wnids if found]
    elif names:
        _expect_order(official, table, names)
    else:
        numbers = {int(one) for allowed in set(table.labels) for one in allowed if str(one).isdecimal()}
        _expect_from_nought(numbers, official, f"labels in {table.root}")
    sets: dict[frozenset[str] | frozenset[int], frozenset[str]] = {}
    for allowed in dict.fromkeys(table.labels):
        sets[allowed] = frozenset(as_class(official, _wnid(table, label, by_index)) for label in allowed)
    labels: Labels = [sets[allowed] for allowed in table.labels]
    _expect_named_so(table.ids, labels)
    if table.wnids is not None:
        _expect_named_so([str(wnid) for wnid in table.wnids], labels)
    return labels


def _val_rows(official: Official, table: Table) -> Labels:
    labels = _wnid_rows(official, table)
    for name, said in zip(table.ids, labels, strict=True):
        published = _published(name)
        if said is not None and published is not None and said != published:
            raise FolderError(
                f"{table.root} labels {name} as {_in_words(said)}, but the published list says {_in_words(published)}:"
                " its class numbers follow another order than the sorted wnids"
            )
    return labels


def _real_rows(official: Official, table: Table) -> Labels:
    _val_rows(official, table)
    return _real_files(official, table.ids)


def _ninco_rows(official: Official, table: Table) -> Labels:
    return [frozenset(map(_ninco_class, names)) for names in named_labels(table)]


def _inaturalist_rows(official: Official, table: Table) -> Labels:
    return [frozenset(map(_taxon, names)) for names in named_labels(table)]


_VAL_WORDS: Final = "ILSVRC2012_val_00000001.JPEG and so on, or <wnid>/<image>,"
LAYOUTS: Final[dict[Family, Layout]] = {
    "wnid folders": Layout(_begins_with_wnids, "<wnid>/<image> (folders such as n01440764)", _wnid_files, _wnid_rows),
    "val": Layout(_begins_val, _VAL_WORDS, _val_files, _val_rows),
    "real": Layout(_begins_val, _VAL_WORDS, _real_files, _real_rows),
    "v2": Layout(_begins_v2, "folders 0 to 999, or wnids,", _v2_files, _wnid_rows),
    "ninco": Layout(_begins_ninco, "NINCO_OOD_classes/<class>/<image>", _ninco_files, _ninco_rows),
    "inaturalist": Layout(
        _begins_inaturalist,
        "<00000>_Kingdom_Phylum_Class_Order_Family_Genus_epithet/<image>",
        _inaturalist_files,
        _inaturalist_rows,
    ),
    "tiny val": Layout(
        _begins_tiny_val, "val_annotations.txt with images/, or <wnid>/<image>,", _wnid_files, _wnid_rows
    ),
}


def tiny_annotations(official: Official, tree: Tree, start: str) -> dict[str, str] | None:
    """Return the wnid of each file in ``images``, by its path in lower case; None where the set lies in folders.

    Raises:
        FolderError: the list that comes with the pictures is missing or damaged.
    """
    folders, files = tree.entries(start)
    if _ANNOTATIONS not in files or "images" not in folders:
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

    def text(label: str | int) -> str:
        if isinstance(label, str) or names is None:
            return as_text(str(label))
        if label >= len(names):
            raise FolderError(f"{table.root} has the label {label}, but names {len(names):,} classes: it is damaged")
        return as_text(names[label])

    sets = {allowed: frozenset(map(text, allowed)) for allowed in dict.fromkeys(table.labels)}
    return [sets[allowed] for allowed in table.labels]


def once(names: Sequence[str], labels: Labels) -> tuple[Labels, list[str]]:
    """Return labels without those of pictures that came before, flat or in another folder, and their names."""
    seen: set[tuple[str, str]] = set()
    first: Labels = []
    again: list[str] = []
    for name, right in zip(names, labels, strict=True):
        last = name.rpartition("/")[2]
        told = (_VAL_NAME.fullmatch(last) or _IN_NAME.fullmatch(last)) if right is not None else None
        key = (told[1].lower(), told[2] if told.re is _IN_NAME else "") if told else None
        again += [name] if key in seen else []
        first.append(None if key in seen else right)
        if key:
            seen.add(key)
    return first, again


def as_class(official: Official, wnid: str) -> str:
    """Return a wnid that is one of the set's.

    Raises:
        FolderError: it is none.
    """
    if wnid not in imagenet_by_wnid():
        raise FolderError(f"{wnid} is no class of ImageNet-1k: {official.title} has wnids such as n01440764")
    if official.subset is not None and wnid not in official.subset:
        raise FolderError(
            f"{wnid} ({imagenet_by_wnid()[wnid].name}) is none of the 200 classes of {official.title}: another set lies"
            " here, or the classes were numbered by another list"
        )
    return wnid


def _wnid(table: Table, label: str | int, by_index: Sequence[str]) -> str:
    if isinstance(label, str) and not (label.isascii() and label.isdigit()):
        return label
    label = int(label)  # lists hold text alone, class indices too
    if label >= len(by_index):
        raise FolderError(f"{table.root} has the label {label}: indices from 0 to {len(by_index) - 1} expected")
    return by_index[label]


def _expect_named_so(names: Sequence[str], labels: Labels) -> None:
    """Raise FolderError where a picture's file name holds the wnid of another class than its place or its row says."""
    for name, right in zip(names, labels, strict=True):
        told = {wnid.lower() for wnid in _NAMED.findall(name.rpartition("/")[2])} if right else set()
        if right and not told <= right:
            raise FolderError(
                f"{as_text(name)} is filed under {' or '.join(sorted(right))}, but its name says"
                f" {' and '.join(sorted(told))}: which is right nobody can tell, so take the official copy"
            )


def _expect_from_nought(numbers: Collection[int], official: Official, what: str) -> None:
    """Raise FolderError for numbers that begin at 1, as ImageNet's devkit and some programs count."""
    if 0 not in numbers and len(numbers) >= _FROM_ONE and set(numbers) == set(range(1, len(numbers) + 1)):
        raise FolderError(
            f"the {what} are numbered 1 to {len(numbers):,}, and {official.title} begins at 0: each would be the next"
            " class; take a copy with wnids, or subtract 1 where the order is that of the sorted wnids"
        )


def _expect_order(official: Official, table: Table, names: Sequence[str]) -> None:
    """Raise FolderError unless names without wnids stand in ImageNet's order, as far as their words can tell."""
    if len(names) != len(imagenet_classes()):
        raise FolderError(
            f"{table.root} names {len(names):,} classes ({', '.join(names[:3])}, …): numbers that count others than"
            f" ImageNet's 1,000 cannot be told apart without wnids; take a copy of {official.title} with wnids"
        )
    ours = [_words(known.name) for known in imagenet_classes()]
    theirs = list(map(_words, names))
    strange = [place for place, words in enumerate(ours) if not words & theirs[place]]
    # Of two names that fit nothing in their own places, one fits in the other's. No list that goes round has any such.
    moved = [(a, b) for a in strange for b in strange if a != b and (ours[b] <= theirs[a] or theirs[a] <= ours[b])]
    # Nor has any a name that is to the word another class's, where that class is not called so: terriers share a word.
    places = {frozenset(words): place for place, words in enumerate(ours)}
    exact = ((a, places.get(frozenset(words), a)) for a, words in enumerate(theirs) if words != ours[a])
    moved += [(a, b) for a, b in exact if a != b and theirs[b] != ours[b]]
    if moved or len(strange) > (1 - _SHARED_WORDS) * len(ours):
        at, to = moved[0] if moved else (strange[0], strange[0])
        raise FolderError(
            f"{table.root} names {len(names):,} classes ({', '.join(names[:3])}, …) in another order than the sorted"
            f" wnids: number {at} is {names[at]!r} there" + (f", where class {to} is called so" if moved else "") + ","
            f" and {imagenet_classes()[at].name!r} in ImageNet; take a copy of {official.title} with wnids"
        )


def _words(name: str) -> set[str]:
    return set(re.findall(r"[^\s,_/]+", name.lower()))


def _is_index(name: str) -> bool:
    return name.isascii() and name.isdigit() and int(name) < len(imagenet_classes())


def _is_wnid(name: str) -> bool:
    return _WNID.fullmatch(name) is not None


def _by_class(paths: Sequence[str], name_of: Callable[[str], str | None], as_label: Callable[[str], str]) -> Labels:
    """Return each file's label by its class's name, turned into a label once for each class."""
    sets: dict[str, frozenset[str]] = {}
    labels: Labels = []
    for path in paths:
        name = name_of(path)
        if name is not None and name not in sets:
            sets[name] = frozenset([as_label(name)])
        labels.append(None if name is None else sets[name])
    return labels


def _published(path: str) -> frozenset[str] | None:
    """Return the label that the published list has for a file; None where its name has no number."""
    above, _, name = path.rpartition("/")
    named = _VAL_NAME.fullmatch(name)
    if named is None:
        return None
    number = int(named[1])
    if not 1 <= number <= VAL_IMAGES:
        raise FolderError(f"{path} has the number {number:,}: from 1 to {VAL_IMAGES:,} expected")
    label = val_labels()[number - 1]
    for said in (above.rpartition("/")[2].lower(), (named[2] or "").lower()):
        if _is_wnid(said) and said not in label:
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
    return real_labels()[int(_VAL_NAME.fullmatch(path.rpartition("/")[2])[1]) - 1]  # type: ignore[index]


def _by_folder(official: Official, path: str) -> frozenset[str] | None:
    folder, slash, _ = path.partition("/")
    if slash and _is_wnid(folder):
        return frozenset([as_class(official, folder)])
    raise FolderError(
        f"{path} tells its class neither by name (ILSVRC2012_val_00000001.JPEG) nor by folder (n01440764):"
        " take a copy that does"
    )


def _in_words(labels: frozenset[str]) -> str:
    return " or ".join(sorted(labels)) or "nothing"


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
