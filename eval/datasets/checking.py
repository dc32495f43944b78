"""Whether a copy of a data set is what it should be: counts, classes, names, archive, and pictures that open."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from eval.datasets.catalogue import About, Official, find_official
from eval.datasets.deviations import compare_archive, digest_of, find_deviations, same_classes
from eval.datasets.loading import find_dataset
from eval.datasets.opening import Opened, open_spread
from eval.wording import counted

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
    found, official = find_dataset(name, path), find_official(name)
    dataset = found.dataset
    opened = open_spread(dataset.samples, count=sample)
    labels = frozenset().union(*{one.labels for one in dataset.samples})
    deviations = find_deviations(official, dataset) if official else {}
    archive = compare_archive(official, Path(path)) if official else []
    usual = _usual_mistakes(official, deviations, opened) if official else _as_published(labels)
    return Check(
        name,
        images=len(dataset.samples),
        expected_images=official.images if official else None,
        classes=len(labels),
        expected_classes=official.classes if official else None,
        excluded=dataset.excluded,
        digest=digest_of(f"{one.id}\t{' '.join(sorted(one.labels))}" for one in dataset.samples),
        opened=opened,
        problems=(*(wrong for about in deviations.values() for wrong in about), *archive, *_problems(opened)),
        notes=(*found.notes, *_notes(opened), *usual),
    )


def _usual_mistakes(official: Official, deviations: dict[About, list[str]], opened: Opened) -> Iterator[str]:
    """Yield what usually goes wrong with what is wrong here."""
    fits: dict[About, bool] = {
        "images": bool(deviations["images"]),
        "classes": bool(deviations["classes"]),
        "formats": bool(opened.misnamed or opened.cmyk),
        "copies": bool(opened.copies),
        "reading": False,
        "always": True,
    }
    return (mistake.says for mistake in official.mistakes if fits[mistake.about])


def _as_published(labels: Collection[str]) -> Iterator[str]:
    same = same_classes(labels)
    if same:
        yield (
            f"the labels are the classes of {' or '.join(same)}: give that name where it is that set, which is then"
            " compared and scored as published"
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
