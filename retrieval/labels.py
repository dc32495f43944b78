"""Labels and the names that people and models read for them.

Truth is compared by label, never by name: names repeat (four ImageNet classes share two of CLIP's), labels do not.

``imagenet_classes.tsv`` joins the sorted wnids of ImageNet-1k (Russakovsky et al., 2015) and the subsets of ImageNet-A
and ImageNet-R (Hendrycks et al., 2021), as timm's ``data/_info`` lists all three (Apache-2.0), to the cleaned class
names of CLIP as OpenCLIP keeps them (MIT). Two of these names stand there twice; class 744 is called "projectile" here
and 836 "sunglass", after the first lemmas of their synsets.
"""

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

_INATURALIST: Final = re.compile(r"\d{5}(?:_[^_]+){4}_(?P<family>[^_]+)_(?P<genus>[^_]+)_(?P<epithet>[^_]+)")


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
    return tuple(_class(*line.split("\t")) for line in lines)


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


def _class(index: str, wnid: str, name: str, in_a: str, in_r: str) -> ImageNetClass:
    return ImageNetClass(int(index), wnid, name, in_a == "1", in_r == "1")


def full_name(label: str) -> str:
    """Return the name of a label followed by the label itself, where they differ: ``tench (n01440764)``."""
    name = display_name(label)
    return label if name == label else f"{name} ({label})"
