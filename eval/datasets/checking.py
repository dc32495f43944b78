"""Whether a copy of a data set is what it should be: counts, classes, names, archive, and pictures that open."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from eval.datasets.catalogue import find_official
from eval.datasets.deviations import compare_archive, digest_of, find_deviations
from eval.datasets.loading import load_dataset
from eval.datasets.opening import Opened, open_spread

SAMPLE: Final = 200  # pictures that are opened
_NAMED: Final = 3  # examples in a sentence


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
    dataset, official = load_dataset(name, path), find_official(name)
    opened = open_spread(dataset.samples, count=sample)
    found = [*find_deviations(official, dataset), *compare_archive(official, Path(path))] if official else []
    problems = (*found, *_problems(opened))
    return Check(
        name,
        images=len(dataset.samples),
        expected_images=official.images if official else None,
        classes=len(frozenset().union(*{one.labels for one in dataset.samples})),
        expected_classes=official.classes if official else None,
        excluded=dataset.excluded,
        digest=digest_of(f"{one.id}\t{' '.join(sorted(one.labels))}" for one in dataset.samples),
        opened=opened,
        problems=problems,
        notes=(*_notes(opened), *(official.mistakes if official and problems else ())),
    )


def _problems(opened: Opened) -> Iterator[str]:
    if opened.unreadable:
        examples = "; ".join(f"{name} ({reason})" for name, reason in opened.unreadable[:_NAMED])
        yield f"{len(opened.unreadable):,} of {opened.count:,} pictures that were opened are unusable: {examples}"


def _notes(opened: Opened) -> Iterator[str]:
    if opened.misnamed:
        example, kind = opened.misnamed[0]
        yield f"{len(opened.misnamed):,} pictures are called as another format's, such as {example}, a {kind}; no harm"
    if opened.cmyk:
        yield f"{len(opened.cmyk):,} pictures are CMYK, such as {opened.cmyk[0]}; they become RGB"
    if opened.copies:
        one, other = opened.copies[0]
        yield f"{len(opened.copies):,} pictures are copies of others under another label, such as {other} of {one}"
