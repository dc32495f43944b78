"""Whether a copy of a data set is what it should be: counts, classes, names, archive, and pictures that open."""

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from eval.datasets.catalogue import (
    VAL_IMAGES,
    About,
    Archive,
    Official,
    find_official,
    ninco_classes,
    official_datasets,
)
from eval.datasets.loading import find_dataset
from eval.datasets.trees import read_file
from eval.types import Dataset, Sample
from retrieval.errors import ImageError
from retrieval.images import decode, format_and_mode
from retrieval.labels import imagenet_classes
from retrieval.support.terminal import counted, track

_NAMED: Final = 3  # examples in a sentence
_PIECE: Final = 1 << 24  # bytes of an archive digested at a time
_VAL_NUMBER: Final = re.compile(r"ILSVRC2012_val_(\d{8})", re.IGNORECASE)


def find_deviations(official: Official, dataset: Dataset) -> dict[About, list[str]]:
    """Return what is wrong with a copy, by what it is about: its number of images and their names, or its classes."""
    count_of = Counter(label for sample in dataset.samples for label in sample.labels)
    names = [sample.id for sample in dataset.samples]
    return {
        "images": [*_of_images(official, len(names)), *_of_names(official, names, dataset.excluded)],
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
    if any(_has_digest(archive, path) for archive in same_size):
        return []
    return [f"{path.name} has another digest than the published file: download it again"]


def _of_images(official: Official, found: int) -> Iterator[str]:
    if found == official.images:
        return
    kind = official.name.partition("-")[0]
    others = (other for other in official_datasets().values() if other.name != official.name)
    twins = [o.title for o in others if o.images == found and o.name.partition("-")[0] == kind]
    if twins:
        why = f"that is how many {' and '.join(twins)} {'has' if len(twins) == 1 else 'have'}"
    elif found < official.images:
        why = "the copy is incomplete, download or unpack it again"
    else:
        why = "other files lie among them"
    yield f"{counted(found, 'picture')}, {official.images:,} expected: {why}"


def _of_names(official: Official, ids: list[str], excluded: int) -> Iterator[str]:
    if official.family in ("val", "real"):
        numbers = {named[1] for named in map(_VAL_NUMBER.search, ids) if named}
        missing = VAL_IMAGES - len(numbers) - excluded
        if numbers and missing > 0:
            yield f"{missing:,} of the {VAL_IMAGES:,} numbered files {'is' if missing == 1 else 'are'} missing"
    # A table has names of its own; "/" tells that these are paths.
    elif official.names_digest and ids and "/" in ids[0] and digest_of(ids) != official.names_digest:
        yield "the files have other names than the published ones: some were renamed or replaced"


def _of_classes(official: Official, count_of: Mapping[str, int]) -> Iterator[str]:
    expected = _expected_classes(official)
    if expected is None:
        if len(count_of) != official.classes:
            yield f"{counted(len(count_of), 'class')}, {official.classes:,} expected"
    elif missing := sorted(expected - set(count_of)):
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


_THREADS: Final = 8
_SUFFIXES: Final = {  # that files of each format have, in lower case
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "GIF": (".gif",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
}


@dataclass(frozen=True, slots=True)
class Opened:
    """What opening pictures showed."""

    count: int
    unreadable: tuple[tuple[str, str], ...]  # (id, reason)
    misnamed: tuple[tuple[str, str], ...]  # (id, format) of those whose names end as another format's
    cmyk: tuple[str, ...]  # ids of those in printing colours
    copies: tuple[tuple[str, str], ...]  # pairs of ids with the same bytes and different labels


@dataclass(frozen=True, slots=True)
class _Seen:
    sample: Sample
    digest: bytes = b""
    format: str = ""
    mode: str = ""
    reason: str = ""


def open_spread(samples: Sequence[Sample], *, count: int) -> Opened:
    """Open pictures spread evenly over a data set, by several threads; a count of 0 opens all."""
    count = min(count, len(samples)) or len(samples)
    chosen = [number * len(samples) // count for number in range(count)]
    with ThreadPoolExecutor(_THREADS) as threads:
        seen = list(track(threads.map(lambda place: _look(samples[place]), chosen), "Opening", total=len(chosen)))
    return Opened(
        len(seen),
        unreadable=tuple((one.sample.id, one.reason) for one in seen if one.reason),
        misnamed=tuple((one.sample.id, one.format) for one in seen if _is_misnamed(one)),
        cmyk=tuple(one.sample.id for one in seen if one.mode == "CMYK"),
        copies=tuple(_copies(seen)),
    )


def _look(sample: Sample) -> _Seen:
    try:
        picture = sample.picture()
        encoded = read_file(Path(picture)) if isinstance(picture, str | Path) else picture
        decode(encoded)
    except ImageError as error:
        return _Seen(sample, reason=str(error))
    if not isinstance(encoded, bytes):  # a picture that was decoded before it came here
        return _Seen(sample)
    return _Seen(sample, hashlib.sha256(encoded).digest(), *format_and_mode(encoded))


def _is_misnamed(seen: _Seen) -> bool:
    suffix = Path(seen.sample.id).suffix.lower()
    known = any(suffix in suffixes for suffixes in _SUFFIXES.values())
    return known and seen.format in _SUFFIXES and suffix not in _SUFFIXES[seen.format]


def _copies(seen: Iterable[_Seen]) -> Iterable[tuple[str, str]]:
    first: dict[bytes, Sample] = {}
    for one in seen:
        if one.digest:
            twin = first.setdefault(one.digest, one.sample)
            if twin.labels != one.sample.labels:
                yield twin.id, one.sample.id


SAMPLE: Final = 200  # pictures that are opened


@dataclass(frozen=True, slots=True)
class Check:
    """What a copy of a data set holds, and what is wrong with it."""

    name: str
    images: int
    expected_images: int | None  # None where it is no published set
    classes: int
    expected_classes: int | None
    excluded: int  # pictures left out because no label is right for them
    digest: str  # SHA-256 of the sorted lines "id, tab, labels": where it is the same, so is the set
    opened: Opened
    problems: tuple[str, ...]  # sentences; empty: nothing is wrong
    notes: tuple[str, ...]  # what one should know beside


def check_dataset(name: str, path: str | Path, *, sample: int = SAMPLE) -> Check:
    """Compare what lies at a path with the published data set of a name, or describe one that is not published.

    An archive whose digest is published is read whole.

    Args:
        name: as `load_dataset` takes it.
        path: as `load_dataset` takes it.
        sample: how many pictures to open, spread evenly over the set; 0 opens all.

    Raises:
        FolderError: nothing is there that could be counted.
        InvalidArgument: the name stands for several published sets.
    """
    found, official = find_dataset(name, path), find_official(name)
    dataset = found.dataset
    opened = open_spread(dataset.samples, count=sample)
    labels = frozenset().union(*{one.labels for one in dataset.samples})
    problems, usual = [], list[str]()
    if official:
        deviations = find_deviations(official, dataset)
        problems = [*deviations["images"], *deviations["classes"], *compare_archive(official, Path(path))]
        fits: dict[About, bool] = {  # what usually goes wrong with what is wrong here
            "images": bool(deviations["images"]),
            "classes": bool(deviations["classes"]),
            "formats": bool(opened.misnamed or opened.cmyk),
            "copies": bool(opened.copies),
            "reading": False,
            "always": True,
        }
        usual = [mistake.says for mistake in official.mistakes if fits[mistake.about]]
    elif same := same_classes(labels):
        usual = [
            f"the labels are the classes of {' or '.join(same)}: give that name where it is that set, which is then"
            " compared and scored as published"
        ]
    return Check(
        name,
        images=len(dataset.samples),
        expected_images=official.images if official else None,
        classes=len(labels),
        expected_classes=official.classes if official else None,
        excluded=dataset.excluded,
        digest=digest_of(f"{one.id}\t{' '.join(sorted(one.labels))}" for one in dataset.samples),
        opened=opened,
        problems=(*problems, *_problems(opened)),
        notes=(*found.notes, *_notes(opened), *usual),
    )


def _problems(opened: Opened) -> Iterator[str]:
    if opened.unreadable:
        examples = "; ".join(f"{name} ({reason})" for name, reason in opened.unreadable[:_NAMED])
        are = "is" if len(opened.unreadable) == 1 else "are"
        many = counted(opened.count, "picture")
        yield f"{len(opened.unreadable):,} of {many} that were opened {are} unusable: {examples}"


def _notes(opened: Opened) -> Iterator[str]:
    if opened.misnamed:
        example, kind = opened.misnamed[0]
        called = "is called" if len(opened.misnamed) == 1 else "are called"
        many = counted(len(opened.misnamed), "picture")
        yield f"{many} {called} as if of another format, such as {example}, a {kind}; no harm"
    if opened.cmyk:
        are = "is" if len(opened.cmyk) == 1 else "are"
        yield f"{counted(len(opened.cmyk), 'picture')} {are} CMYK, such as {opened.cmyk[0]}, and read as RGB"
    if opened.copies:
        one, other = opened.copies[0]
        repeat = "repeats another" if len(opened.copies) == 1 else "repeat others"
        yield f"{counted(len(opened.copies), 'picture')} {repeat} under another label, such as {other} that of {one}"
