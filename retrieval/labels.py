"""Labels and ids as they are kept, and the names that people and models read for labels.

Truth is compared by label, never by name: names repeat (four ImageNet classes share two of CLIP's), labels do not.
Every way in, of memories, manifests, features and data sets alike, passes `stored_text`.

``imagenet_classes.tsv`` joins the sorted wnids of ImageNet-1k (Russakovsky et al., 2015) and the subsets of ImageNet-A
and ImageNet-R (Hendrycks et al., 2021), as timm's ``data/_info`` lists all three (Apache-2.0), to the cleaned class
names of CLIP as OpenCLIP keeps them (MIT). Two of these names stand there twice; class 744 is called "projectile" here
and 836 "sunglass", after the first lemmas of their synsets.
"""

import re
import reprlib
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

import numpy as np

from retrieval.errors import InvalidArgument

_LONGEST: Final = 2**16  # characters: bounds what a block of rows from a file can take
_INATURALIST: Final = re.compile(r"\d{5}(?:_[^_]+){4}_(?P<family>[^_]+)_(?P<genus>[^_]+)_(?P<epithet>[^_]+)")


def composed(text: str) -> str:
    """Return a text in Unicode's composed form (NFC): one "café", however a keyboard or a file system writes its é."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def spellings(text: str) -> list[str]:
    """Return the forms in which a text may have been kept: as it came, composed, and decomposed (macOS's files)."""
    return [text] if text.isascii() else list({text, composed(text), unicodedata.normalize("NFD", text)})


def is_text(value: object) -> bool:
    """Tell whether a value is text that any store takes: without surrogates, which stand for stray bytes."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def stored_text(value: object, what: str) -> str:
    """Return an id or a label as it is kept: text in its composed form, a whole number from 0 as its digits.

    Args:
        value: from a program, a folder's name, or a cell of a table.
        what: "id" or "label", for the error.

    Raises:
        InvalidArgument: anything else. A blank text is a label that somebody forgot, a number with a point one that a
            spreadsheet made of a whole one, a truth value no class.
    """
    text = value
    if isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= 0:
        text = str(int(value))
    if text is None or (isinstance(text, str) and not text.strip()):
        raise InvalidArgument(f"got no {what}: text, or a whole number from 0, expected")
    if not isinstance(text, str) or len(text) > _LONGEST or not is_text(text):
        kind = f"{len(text):,} characters" if isinstance(text, str) else type(value).__name__
        raise InvalidArgument(
            f"got {what} {reprlib.repr(value)} ({kind}): text, or a whole number from 0, expected, of {_LONGEST:,}"
            " characters at most"
        )
    return composed(str(text))  # NumPy's text is a subclass


def stored_texts(values: Iterable[object], what: str) -> list[str]:
    """Return ids or labels as they are kept; see `stored_text`.

    Raises:
        InvalidArgument: one is none, or these are not several values.
    """
    # Most are plain, which is told here at once: a million of them take 0.4 s instead of 1.0.
    return [
        value
        if type(value) is str and value.isascii() and " " < value[:1] and len(value) <= _LONGEST
        else stored_text(value, what)
        for value in listed(values, f"{what}s")
    ]


def asked_ids(ids: Iterable[object]) -> list[str]:
    """Return ids that are looked up, from any iterable; their spelling stays, since an older memory may have it.

    Raises:
        InvalidArgument: one text in place of several, or something that is no id.
    """
    return [id_ if isinstance(id_, str) else stored_text(id_, "id") for id_ in listed(ids, "ids")]


def listed(values: Iterable[Any], what: str) -> list[Any]:
    """Return any iterable's values as Python has them; arrays and columns of other libraries included.

    Raises:
        InvalidArgument: one text in place of several values, or nothing iterable.
    """
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise InvalidArgument(f"got {reprlib.repr(values)} as {what}: a list of them expected")
    of_its_own = getattr(values, "tolist", None) or getattr(values, "to_pylist", None)
    return list(of_its_own() if of_its_own else values)


@dataclass(frozen=True, slots=True)
class ImageNetClass:
    """One class of ImageNet-1k."""

    index: int  # its place among the sorted wnids, which is what classifiers call it; the devkit's ids are others
    wnid: str  # "n01440764"
    name: str  # "tench"; no two classes have the same
    in_a: bool  # one of ImageNet-A's 200
    in_r: bool  # one of ImageNet-R's 200


@cache
def imagenet_classes() -> tuple[ImageNetClass, ...]:
    """Return the 1,000 classes of ImageNet-1k by index."""
    lines = files(__package__).joinpath("imagenet_classes.tsv").read_text("utf-8").splitlines()[1:]
    rows = (line.split("\t") for line in lines)
    return tuple(
        ImageNetClass(int(index), wnid, name, in_a == "1", in_r == "1") for index, wnid, name, in_a, in_r in rows
    )


@cache
def imagenet_by_wnid() -> dict[str, ImageNetClass]:
    """Return the 1,000 classes of ImageNet-1k by wnid."""
    return {known.wnid: known for known in imagenet_classes()}


def display_name(label: str) -> str:
    """Return what a label is called.

    A wnid of ImageNet-1k has its class's name, a class folder of iNaturalist 2021 its species with the family, as in
    "Turdus migratorius (Turdidae)"; any other label is its own name.
    """
    known = imagenet_by_wnid().get(label)
    if known is not None:
        return known.name
    species = _INATURALIST.fullmatch(label)
    return f"{species['genus']} {species['epithet']} ({species['family']})" if species else label


def full_name(label: str) -> str:
    """Return the name of a label followed by the label itself, where they differ: ``tench (n01440764)``."""
    name = display_name(label)
    return label if name == label else f"{name} ({label})"
