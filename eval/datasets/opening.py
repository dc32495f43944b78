"""Opening some pictures of a data set: do they decode, are they what their names say, do they repeat."""

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from eval.datasets.stored import read_file
from eval.types import Sample
from retrieval.errors import ImageError
from retrieval.images import decode, format_and_mode
from retrieval.progress import track

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
    chosen = range(len(samples)) if not count or count >= len(samples) else _spread(len(samples), count)
    with ThreadPoolExecutor(_THREADS) as threads:
        seen = list(track(threads.map(lambda place: _look(samples[place]), chosen), "Opening", total=len(chosen)))
    return Opened(
        len(seen),
        unreadable=tuple((one.sample.id, one.reason) for one in seen if one.reason),
        misnamed=tuple((one.sample.id, one.format) for one in seen if _is_misnamed(one)),
        cmyk=tuple(one.sample.id for one in seen if one.mode == "CMYK"),
        copies=tuple(_copies(seen)),
    )


def _spread(items: int, count: int) -> Sequence[int]:
    return [number * items // count for number in range(count)]


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
