"""The published data sets: what they hold, where they come from, and what usually goes wrong with them."""

import gzip
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final, Literal

from retrieval.errors import InvalidArgument
from retrieval.labels import imagenet_classes

Family = Literal["wnid folders", "val", "real", "v2", "ninco", "inaturalist", "tiny val"]


@dataclass(frozen=True, slots=True)
class Archive:
    """A file as its authors publish it."""

    name: str
    digest: str  # "sha256:…" or "md5:…"
    size: int | None = None  # bytes


About = Literal["images", "classes", "formats", "copies", "reading", "always"]


@dataclass(frozen=True, slots=True)
class Mistake:
    """What usually goes wrong with a data set."""

    about: About  # what is worth looking at where this deviates; "reading": what is no mistake here
    says: str


@dataclass(frozen=True, slots=True)
class Official:
    """A published data set."""

    name: str
    title: str
    images: int
    classes: int
    source: str  # where to get it
    family: Family  # which layout it has
    folders: tuple[str, ...]  # names of its own folder, then of those on the way to it, in lower case
    splits: tuple[str, ...]  # its names among the splits of a Hugging Face data set
    mistakes: tuple[Mistake, ...]  # what usually goes wrong
    archives: tuple[Archive, ...]  # releases of the file it comes in, the newest first
    per_class: int | None = None  # pictures of each class, where all have the same number
    masked: Literal["a", "r"] | None = None  # whose 200 classes the authors score over
    names_digest: str | None = None  # SHA-256 of the sorted paths below its folder, one a line

    @property
    def subset(self) -> frozenset[str] | None:
        """The wnids that the authors score over; None where it is all classes."""
        if self.masked is None:
            return None
        return frozenset(c.wnid for c in imagenet_classes() if (c.in_a if self.masked == "a" else c.in_r))


@cache
def official_datasets() -> dict[str, Official]:
    """Return the published data sets by name."""
    text = files(__package__).joinpath("data/catalogue.toml").read_text("utf-8")
    return {name: _official(name, fields) for name, fields in tomllib.loads(text).items()}


def find_official(name: str) -> Official | None:
    """Return the published data set of a name, however it is spelled, or None where there is none.

    Raises:
        InvalidArgument: the name stands for several.
    """
    spelled = name.lower().replace("_", "-")
    several = [known for known in official_datasets() if known.startswith(f"{spelled}-")]
    if spelled in official_datasets() or not several:
        return official_datasets().get(spelled)
    raise InvalidArgument(f"{name} stands for several data sets: choose one of {', '.join(several)}, or another name")


def _official(name: str, fields: dict[str, Any]) -> Official:
    archives = tuple(Archive(**archive) for archive in fields.pop("archives", []))
    mistakes = tuple(Mistake(**mistake) for mistake in fields.pop("mistakes"))
    lists = {key: tuple(value) for key, value in fields.items() if isinstance(value, list)}
    return Official(name=name, archives=archives, mistakes=mistakes, **(fields | lists))


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
