"""Labels that data sets are published without, or beside: read from this package."""

import gzip
from functools import cache
from importlib.resources import files
from typing import Final

from retrieval.labels import imagenet_classes

VAL_IMAGES: Final = 50_000


@cache
def val_labels() -> tuple[frozenset[str], ...]:
    """Return the wnid of each picture of ImageNet's validation set, as a set; number 1 stands first."""
    classes = [frozenset([known.wnid]) for known in imagenet_classes()]
    return tuple(classes[int(line)] for line in _lines("imagenet_val.txt.gz"))


@cache
def real_labels() -> tuple[frozenset[str], ...]:
    """Return the wnids that are right for each by the reassessed labels (Beyer et al., 2020); none for some."""
    classes = imagenet_classes()
    return tuple(
        frozenset(classes[int(index)].wnid for index in line.split()) for line in _lines("imagenet_real.txt.gz")
    )


@cache
def ninco_classes() -> dict[str, int]:
    """Return NINCO's classes with their numbers of pictures."""
    lines = files(__package__).joinpath("data/ninco_classes.tsv").read_text("utf-8").splitlines()[1:]
    return {name: int(images) for name, _, images in (line.partition("\t") for line in lines)}


def _lines(name: str) -> list[str]:
    packed = files(__package__).joinpath(f"data/{name}").read_bytes()
    return gzip.decompress(packed).decode().splitlines()
