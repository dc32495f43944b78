"""Generations of an index on disk: each in a folder of its own, one of them live.

    index/current               the name of the live generation, replaced as one
    index/<generation>/         what the index itself wrote, and:
        keys.npy                the key of the item at each position
        header.json             what all this is, with digests of every file; written last, so that it vouches for them

Whoever writes holds the memory's writer lock. What lies beside the live generation is then what a killed writer left.
"""

import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from retrieval.errors import InvalidArgument
from retrieval.indexes import index_class
from retrieval.indexes.base import Written
from retrieval.indexes.digests import Digests
from retrieval.outside import parse_json

DAMAGE: Final = (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, ImportError, InvalidArgument)
"""What reading a generation raises that is not what it should be."""

HEADER: Final = "header.json"
_CURRENT: Final = "current"
_FRESH: Final = ".new"  # ends the name of a small file that is about to take another's place
_READ_WHOLE: Final = 64 * 2**20  # bytes, in 40 ms; mapped files beyond are compared by `check` alone
_FORMAT: Final = 5
"""1 had its files directly in the folder, 2 its vectors as float16, 3 one effort for all queries, 4 rows in order."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a generation is."""

    kind: str
    stamp: str
    items: int
    files: dict[str, Digests]

    @classmethod
    def read(cls, generation: Path) -> "Header":
        """Raise one of `DAMAGE` for anything but a header of this format."""
        entries = parse_json((generation / HEADER).read_text(encoding="utf-8"))
        if entries["format"] != _FORMAT:
            raise ValueError(f"{generation} is of format {entries['format']!r}: {_FORMAT} expected")
        files = {name: Digests(**digests) for name, digests in entries["files"].items()}
        return cls(entries["kind"], entries["stamp"], entries["items"], files)

    def after_erasing(self, generation: Path, written: Written) -> "Header":
        """Return the header that vouches for some files after some of their rows were written over."""
        mapped = index_class(self.kind).mapped
        files = self.files.copy()
        for name, rows in written.items():
            path = generation / name
            if name in mapped or path.suffix == ".npy":
                files[name] = files[name].rewritten(path, rows, items=self.items, raw=name in mapped)
            else:
                files[name] = Digests.of(path)
        return replace(self, files=files)

    def write(self, generation: Path) -> None:
        """Put the header in its place, as the last of the generation's files."""
        replace_file(generation / HEADER, json.dumps({"format": _FORMAT, **asdict(self)}))


@contextmanager
def generation_in(folder: Path) -> Iterator[Path]:
    """Give an empty folder for a generation, which goes again unless it came to live."""
    fresh = folder / secrets.token_hex(8)
    fresh.mkdir(parents=True)
    try:
        yield fresh
    finally:
        if live_generation(folder) != fresh:
            shutil.rmtree(fresh, ignore_errors=True)


def live_generation(folder: Path) -> Path | None:
    """Return the live generation."""
    try:
        name = (folder / _CURRENT).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return folder / name if re.fullmatch("[0-9a-f]{16}", name) else None


def live_state(folder: Path) -> tuple[Path | None, bytes]:
    """Return the live generation and its header as it stands there."""
    generation = live_generation(folder)
    with suppress(OSError):
        return generation, (generation / HEADER).read_bytes() if generation else b""
    return generation, b""


def make_live(generation: Path) -> None:
    """Let a generation with a header be the one that is opened, and remove the others."""
    replace_file(generation.parent / _CURRENT, generation.name)
    sweep(generation.parent, live=generation)


def withdraw(folder: Path) -> None:
    """Remove every generation."""
    (folder / _CURRENT).unlink(missing_ok=True)
    sweep(folder, live=None)


def sweep(folder: Path, *, live: Path | None) -> None:
    """Remove what is not the live generation."""
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.name == _CURRENT or entry == live:
            continue
        if not entry.is_dir():
            entry.unlink(missing_ok=True)
            continue
        with suppress(*DAMAGE):
            kind = Header.read(entry).kind
            same = live is not None and Header.read(live).kind == kind
            index_class(kind).discard(entry, live=live if same else None)
        shutil.rmtree(entry, ignore_errors=True)


def damaged_files(generation: Path, header: Header, *, whole: bool) -> list[str]:
    """Say which files are not as they were written; of large ones that are mapped, only whether one is too short."""
    mapped = index_class(header.kind).mapped
    there = {path.name for path in files_of(generation)}
    damaged = [f"{generation / name} is missing or does not belong there" for name in sorted(there ^ set(header.files))]
    for name in sorted(there & set(header.files)):
        path, digests = generation / name, header.files[name]
        if not digests.has_size_of(path, may_be_longer=name in mapped):
            damaged.append(f"{path} has {path.stat().st_size} bytes: {digests.size} expected")
        elif whole or name not in mapped or digests.size <= _READ_WHOLE:
            damaged += [f"{path} is damaged from byte {first} to {last}" for first, last in digests.differing(path)]
    return damaged


def files_of(generation: Path) -> list[Path]:
    """Return the files that the header is to vouch for."""
    headers = (HEADER, f"{HEADER}{_FRESH}")
    return sorted(path for path in generation.iterdir() if path.is_file() and path.name not in headers)


def replace_file(path: Path, text: str) -> None:
    """Put a small file in the place of another as one, so that it survives the power going out."""
    fresh = path.with_name(f"{path.name}{_FRESH}")
    fresh.write_text(text, encoding="utf-8")
    sync(fresh)
    fresh.replace(path)
    with suppress(OSError):  # not every system opens a folder
        sync(path.parent)


def sync(path: Path) -> None:
    """Have the system put a file, or a folder's list of files, on the disk now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
