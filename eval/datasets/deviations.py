"""Where a copy of a published data set deviates from what was published, in sentences."""

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from eval.datasets.catalogue import About, Archive, Official, official_datasets
from eval.datasets.shipped import VAL_IMAGES, ninco_classes
from eval.types import Dataset
from eval.wording import counted
from retrieval.labels import imagenet_classes
from retrieval.progress import track

_NAMED: Final = 3  # examples in a sentence
_PIECE: Final = 1 << 24  # bytes of an archive digested at a time
_VAL_NUMBER: Final = re.compile(r"ILSVRC2012_val_(\d{8})", re.IGNORECASE)


def find_deviations(official: Official, dataset: Dataset) -> dict[About, list[str]]:
    """Return what is wrong with a copy, by what it is about: its number of images and their names, or its classes."""
    count_of = Counter(label for sample in dataset.samples for label in sample.labels)
    names = [sample.id for sample in dataset.samples]
    return {
        "images": [*_of_images(official, dataset), *_of_names(official, names, dataset.excluded)],
        "classes": [*_of_classes(official, count_of), *_of_class_sizes(official, count_of)],
    }


def same_classes(labels: Collection[str]) -> list[str]:
    """Return the names of the published sets whose classes are exactly these."""
    found = frozenset(labels)
    return [name for name, official in official_datasets().items() if found and _expected_classes(official) == found]


def compare_archive(official: Official, path: Path) -> list[str]:
    """Return what is wrong with an archive, reading it whole where its size is right."""
    releases = [archive for archive in official.archives if archive.name == path.name]
    if not releases or not path.is_file():
        return []
    size = path.stat().st_size
    same_size = [archive for archive in releases if archive.size in (size, None)]
    if not same_size:
        sizes = " or ".join(f"{archive.size:,}" for archive in releases)
        return [f"{path.name} has {size:,} bytes, {sizes} expected: download it again"]
    return (
        []
        if any(_has_digest(archive, path) for archive in same_size)
        else [f"{path.name} has another digest than the published file: download it again"]
    )


def _of_images(official: Official, dataset: Dataset) -> Iterator[str]:
    found = len(dataset.samples)
    if found == official.images:
        return
    twins = [other.title for other in official_datasets().values() if other.images == found and _alike(official, other)]
    if twins:
        why = f"that is how many {' and '.join(twins)} {'has' if len(twins) == 1 else 'have'}"
    elif found < official.images:
        why = "the copy is incomplete, download or unpack it again"
    else:
        why = "other files lie among them"
    yield f"{counted(found, 'picture')}, {official.images:,} expected: {why}"


def _alike(official: Official, other: Official) -> bool:
    return official.name.partition("-")[0] == other.name.partition("-")[0] and official.name != other.name


def _of_classes(official: Official, count_of: Mapping[str, int]) -> Iterator[str]:
    expected = _expected_classes(official)
    if expected is None:
        if len(count_of) != official.classes:
            yield f"{counted(len(count_of), 'class')}, {official.classes:,} expected"
        return
    missing = sorted(expected - set(count_of))
    if missing:
        twins = " and ".join(official_datasets()[name].title for name in same_classes(count_of))
        yield (
            f"{len(missing):,} of {counted(len(expected), 'class')} have no picture: {_some(missing)}"
            + (f"; those that have are the classes of {twins}" if twins else "")
        )


def _expected_classes(official: Official) -> frozenset[str] | None:
    if official.family == "ninco":
        return frozenset(ninco_classes())
    if official.classes == len(imagenet_classes()):
        return frozenset(known.wnid for known in imagenet_classes())
    return official.subset


def _of_class_sizes(official: Official, count_of: Mapping[str, int]) -> Iterator[str]:
    sizes = ninco_classes() if official.family == "ninco" else dict.fromkeys(count_of, official.per_class)
    wrong = [
        f"{label} has {count:,}, not {sizes[label]:,}"
        for label, count in sorted(count_of.items())
        if sizes[label] not in (None, count)
    ]
    if wrong:
        have = "has" if len(wrong) == 1 else "have"
        yield f"{counted(len(wrong), 'class')} {have} another number of pictures than published: {_some(wrong)}"


def _of_names(official: Official, ids: list[str], excluded: int) -> Iterator[str]:
    if official.family in ("val", "real"):
        yield from _of_val_numbers(ids, excluded)
    # A table has names of its own; "/" tells that these are paths.
    elif official.names_digest and ids and "/" in ids[0] and digest_of(ids) != official.names_digest:
        yield "the files have other names than the published ones: some were renamed or replaced"


def _of_val_numbers(ids: list[str], excluded: int) -> Iterator[str]:
    numbers = {named[1] for named in map(_VAL_NUMBER.search, ids) if named}
    missing = VAL_IMAGES - len(numbers) - excluded
    if numbers and missing > 0:
        yield f"{missing:,} of the {VAL_IMAGES:,} numbered files {'is' if missing == 1 else 'are'} missing"


def digest_of(lines: Iterable[str]) -> str:
    """Return the SHA-256 of the sorted lines."""
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def _has_digest(archive: Archive, path: Path) -> bool:
    kind, _, expected = archive.digest.partition(":")
    digest = hashlib.new(kind)
    with path.open("rb") as stream:
        pieces = iter(lambda: stream.read(_PIECE), b"")
        for piece in track(pieces, f"Comparing {path.name}", total=-(-path.stat().st_size // _PIECE), unit=" pieces"):
            digest.update(piece)
    return digest.hexdigest() == expected


def _some(examples: list[str]) -> str:
    return ", ".join(examples[:_NAMED]) + (", …" if len(examples) > _NAMED else "")
