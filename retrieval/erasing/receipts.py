"""Receipts: what was erased, when, from where, and how that was verified, without saying what it was; and their proof.

A memory keeps the digest of each receipt that it writes, in the form that ``sha256sum --check`` reads: one of which any
byte was changed, or that was made up, is none of them, and proves nothing. Who can write to the memory can forge both.

A proof looks for what is left of erased items: in rows of all versions, in the index, and in the bytes of every file.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

import numpy as np
from jaxtyping import Int

from retrieval.erasing.files import TableFiles
from retrieval.erasing.secrets import DroppedRows, Known, Marks, Secrets
from retrieval.erasing.traces import Traces, every_trace
from retrieval.errors import InvalidArgument, StorageError
from retrieval.indexes.saved import count_stored
from retrieval.storage.places import (
    ASIDE,
    CENTRED_INDEX,
    INDEX,
    NOTE,
    PASSED_OVER,
    erasure_notes,
    reading,
    write_whole,
    writing,
)
from retrieval.storage.table import ItemTable
from retrieval.support.parsing import parse_json

RECEIPTS: Final = "receipts"  # folder in a memory's
RECORD: Final = "receipts.sha256"  # beside it
UNACCOUNTED: Final = "versions were dropped before the memory kept account of such rows"
_FORMAT: Final = 1
_LEFT_OVERS: Final = (f"{ASIDE}*", "index*.new-*")  # of killed runs, in a memory's folder


@dataclass(frozen=True, slots=True)
class Check:
    """Something that was looked at, and what was found there of erased items."""

    what: str
    how: str
    left: tuple[str, ...]  # what is still there, in words; empty when nothing is


@dataclass(frozen=True, slots=True)
class Changes:
    """What an erasure changed, as far as it got."""

    version_before: int  # of the table
    version_after: int = 0  # 0: not there yet
    windows: int = 0  # of the erased bytes, that files are searched for
    windows_before: int = 0  # of them, those found before in the table's files, where these were searched: what it sees
    windows_shared: int = 0  # of them, those that other items hold too, and which were therefore left out
    dropped_versions: tuple[int, ...] = ()
    dropped_tags: Mapping[str, int] = field(default_factory=dict)  # with their versions
    files_removed: tuple[str, ...] = ()
    files_written: tuple[str, ...] = ()
    entries_dropped: Mapping[str, int] = field(default_factory=dict)  # by the place that kept them
    searched: bool = True  # whether every file was searched for the windows; else `verify` does so first

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Changes":
        """Return it from JSON's types."""
        frozen: Any = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
        return cls(**frozen)


@dataclass(frozen=True, slots=True)
class Receipt:
    """An erasure that is done."""

    memory: str  # its folder
    memory_id: str
    erased_at: str  # ISO 8601, UTC
    items: int  # ids
    known: Known
    changes: Changes
    checks: tuple[Check, ...]
    path: Path | None = None  # where it lies
    digest: str = ""  # SHA-256 of that file, in hexadecimal

    def is_of(self, memory: Path) -> bool:
        """Tell whether a memory wrote it, and wrote it so; StorageError says that its record cannot be read."""
        return bool(self.digest) and self.digest in {line.partition(" ")[0] for line in _record(memory)}

    def write(self, memory: Path) -> "Receipt":
        """Write it into a memory's folder of receipts and its digest into the record of them; return it with both.

        Raises:
            StorageError: the disk refuses.
        """
        content = _as_json(
            {
                "format": _FORMAT,
                "kind": "receipt of an erasure from a visual memory",
                "memory": self.memory,
                "memory_id": self.memory_id,
                "erased_at": self.erased_at,
                "items": self.items,
                "deed": asdict(self.changes),
                "verified": [asdict(check) for check in self.checks],
                "known_by": self.known.to_dict(),
            }
        )
        digest = hashlib.sha256(content).hexdigest()
        stamp = "".join(c for c in self.erased_at if c.isalnum())
        path = memory / RECEIPTS / f"{stamp}-{token_hex(4)}.json"
        lines = [*_record(memory), f"{digest}  {RECEIPTS}/{path.name}"]
        write_whole(memory / RECORD, "".join(f"{line}\n" for line in lines).encode())
        write_whole(path, content)
        return replace(self, path=path, digest=digest)


def _record(memory: Path) -> list[str]:
    if not (memory / RECORD).exists():
        return []
    with writing(memory):
        return (memory / RECORD).read_text(encoding="utf-8", errors="replace").splitlines()


def read_receipt(path: Path) -> Receipt:
    """Read a receipt.

    Raises:
        InvalidArgument: the file is none.
        OSError: it cannot be read.
    """
    try:
        content = path.read_bytes()
        fields = parse_json(content)
        if fields["format"] != _FORMAT:
            raise InvalidArgument(
                f"{path} has format {fields['format']!r}, and this version reads {_FORMAT}: update it"
            )
        return Receipt(
            str(fields["memory"]),
            str(fields["memory_id"]),
            str(fields["erased_at"]),
            int(fields["items"]),
            Known.from_dict(fields["known_by"]),
            Changes.from_dict(fields["deed"]),
            tuple(Check(c["what"], c["how"], tuple(c["left"])) for c in fields["verified"]),
            path,
            hashlib.sha256(content).hexdigest(),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise InvalidArgument(
            f"{path} is no receipt of an erasure: give one that `vmem memory forget --erase` wrote"
        ) from error


def _as_json(content: Mapping[str, Any]) -> bytes:
    # One field a line: json's own indentation takes seconds for thousands of items.
    fields = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in content.items())
    return f"{{\n{fields}\n}}\n".encode()


@dataclass(frozen=True, slots=True)
class Note:
    """What is being erased, and how far that got."""

    path: Path
    keys: tuple[int, ...]
    traces: tuple[str, ...]  # names of the places that are to be cleared
    changes: Changes
    items: int = 0  # ids
    known: Known | None = None  # None: it is not yet known what tells the items
    cleared: bool = False  # whether those places hold nothing of them any more
    cut_off: bool = False  # whether a run before this one wrote it

    @classmethod
    def begin(cls, memory: Path, name: str, keys: tuple[int, ...], traces: tuple[str, ...], changes: Changes) -> "Note":
        """Write the note of an erasure that begins."""
        return cls(memory / f"{NOTE}{name}.json", keys, traces, changes).written()

    @property
    def key_array(self) -> Int[np.ndarray, " keys"]:
        """The keys as an array."""
        return np.array(self.keys, np.int64)

    def having(self, **changes: Any) -> "Note":  # noqa: ANN401 - fields of `Changes`
        """Return it with some of its changes as they are now."""
        return replace(self, changes=replace(self.changes, **changes))

    def written(self) -> "Note":
        """Put it on disk, and return it; StorageError says that the disk refuses."""
        fields: dict[str, Any] = {"keys": list(self.keys), "traces": list(self.traces), "deed": asdict(self.changes)}
        fields |= {"items": self.items, "cleared": self.cleared}
        write_whole(self.path, _as_json(fields | {"known": self.known.to_dict() if self.known else None}))
        return self

    @classmethod
    def read(cls, path: Path) -> "Note":
        """Return the note that a run which was cut off left; StorageError says that it is damaged."""
        try:
            fields = parse_json(path.read_bytes())
            return cls(
                path,
                tuple(int(key) for key in fields["keys"]),
                tuple(map(str, fields["traces"])),
                Changes.from_dict(fields["deed"]),
                fields["items"],
                Known.from_dict(fields["known"]) if fields["known"] else None,
                fields["cleared"],
                cut_off=True,
            )
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise StorageError(
                f"{path}, the note of an erasure that was cut off, is damaged: delete it and erase the same items again"
            ) from error


@dataclass(frozen=True, slots=True)
class Verification:
    """What a receipt says, looked at again."""

    receipt: Receipt
    checks: tuple[Check, ...]

    @property
    def proven(self) -> bool:
        """Whether nothing was found."""
        return not any(check.left for check in self.checks)


def verify(
    receipt: Receipt, path: Path, *, traces: Sequence[Traces] | None = None, progress: bool = True
) -> Verification:
    """Look again whether anything is left of what a receipt says was erased, or has come back since.

    Args:
        receipt: what was erased.
        path: the memory's folder.
        traces: where else something of the items may be kept; None for every place.
        progress: whether to show a bar while files are searched.

    Raises:
        NotAMemory: there is no memory at the path.
        InvalidArgument: it is another memory than the receipt's.
        StorageError: a cache cannot be read.
    """
    table = ItemTable.open(path)
    if table.settings.memory_id != receipt.memory_id:
        raise InvalidArgument(f"the receipt is of another memory than {path}: give the one that was {receipt.memory}")
    known = receipt.known
    places = every_trace() if traces is None else traces
    found = search(path, known.secrets, places, progress=progress)
    if found and not receipt.changes.searched:  # nobody has told duplicates that stayed from what is left yet
        known = without_shared(known, path)
        found = still_secret(found, known)
    checks = examine(path, known, replace(receipt.changes, searched=True), found, places, anew=True)
    with reading(path):
        again = TableFiles(table.uri, anew=True).again(known.marks)
    origin = Check("receipt", f"whether the memory wrote it, by its digest in {RECORD}", _doubts(receipt, path))
    added = Check("added again", "ids and digests of the pictures of all rows, decoded and compared", tuple(again))
    return Verification(receipt, (origin, *checks, added))


def _doubts(receipt: Receipt, path: Path) -> tuple[str, ...]:
    """Say why a receipt proves nothing, whatever it names is gone."""
    if not receipt.is_of(path):
        return (
            f"{path / RECORD} has no record of it: the receipt was changed, or an earlier release wrote it, which kept"
            " no record, or this memory is a copy made before the erasure",
        )
    return () if receipt.items == len(receipt.known.marks.ids) > 0 else ("it names no item",)


def examine(
    path: Path, known: Known, changes: Changes, found: Mapping[Path, set[str]], traces: Sequence[Traces], *, anew: bool
) -> list[Check]:
    """Look for erased items wherever something of them was.

    Args:
        path: the memory's folder.
        known: what tells the items.
        changes: what was done.
        found: what `search` found in files.
        traces: where else something of the items may be kept.
        anew: whether to decode what was decoded before in this process and has not changed.
    """
    table = ItemTable.open(path)
    with reading(path):
        files = TableFiles(table.uri, anew=anew)
        rows = tuple(files.remaining(known.key_array))
        names = tuple(f"version {version}" for version in files.naming(known.marks))
        there = tuple(f"version {version}" for version in files.versions if version in set(changes.dropped_versions))
        stray = {name: count_stored(path / name, but=files.keys()) for name in (INDEX, CENTRED_INDEX)}
    dropped = DroppedRows.of(table, files.versions)
    what_files = f"{len(known.secrets.windows)} windows of their bytes, searched for in every file at every offset"
    if not changes.searched:
        what_files = "not searched yet: `vmem memory verify-forgotten` does"
    listed = [listing.name for listing in _listings(path) for _ in _listed(listing, known.marks)[1]]
    return [
        Check("rows", f"keys of all rows of {len(files.versions)} versions, deleted rows included, decoded", rows),
        Check("commands", "what each version's command says", names),
        Check("versions", f"{len(changes.dropped_versions)} versions that held them are gone", there),
        Check(
            "index",
            "keys of all positions, compared with those of all rows of all versions",
            tuple(f"{count} positions in {name} that no version knows" for name, count in stray.items() if count),
        ),
        Check(
            "dropped rows",
            f"keys and ids of {len(dropped.rows)} rows that are in no version any more"
            + ("" if dropped.complete else f"; {UNACCOUNTED}"),
            tuple(dropped.remaining(known)),
        ),
        Check("bytes", what_files, tuple(f"{len(windows)} windows in {file}" for file, windows in found.items())),
        Check("lists", "ids in the lists of unusable files", tuple(listed)),
        *(Check(place.name, "every entry, decoded", tuple(place.remains(known.marks))) for place in traces),
        Check("left over", "files of runs that were killed", tuple(map(str, _left_overs(path)))),
        Check("under way", "notes of other erasures", tuple(map(str, erasure_notes(path)))),
    ]


def search(path: Path, secrets: Secrets, traces: Sequence[Traces], *, progress: bool) -> dict[Path, set[str]]:
    """Return which files of a memory and of the places beside it hold bytes of erased items."""
    folders = [path, *(folder for place in traces for folder in place.folders())]
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file() and not file.is_symlink()]
    with reading(path):
        return secrets.in_files(files, progress=progress)


def still_secret(found: Mapping[Path, set[str]], known: Known) -> dict[Path, set[str]]:
    """Return what was found of the windows that still tell the items, for the files that hold any."""
    left = {file: windows & known.secrets.windows.keys() for file, windows in found.items()}
    return {file: windows for file, windows in left.items() if windows}


def without_shared(known: Known, path: Path) -> Known:
    """Return what tells the items from those that stay, where duplicates share some of it."""
    with reading(path):
        secrets, marks = TableFiles(ItemTable.open(path).uri).shared(known.secrets, known.marks)
    return replace(known, secrets=secrets, marks=marks)


def sweep(path: Path, marks: Marks) -> int:
    """Drop what killed runs left, and forgotten ids from the lists of unusable files; return how many lines.

    The caller holds the writer's lock, so nobody is making any of it.
    """
    dropped = 0
    with writing(path):
        for left_over in _left_overs(path):
            shutil.rmtree(left_over) if left_over.is_dir() else left_over.unlink()
        for listing in _listings(path):
            others, naming = _listed(listing, marks)
            if naming:
                aside = listing.with_name(f"{ASIDE}{listing.name}")
                aside.write_text("".join(others), encoding="utf-8")
                aside.replace(listing)
            dropped += len(naming)
    return dropped


def _left_overs(path: Path) -> list[Path]:
    return [file for pattern in _LEFT_OVERS for file in path.glob(pattern)]


def _listings(path: Path) -> list[Path]:
    """Return the lists of unusable files in a memory's folder: one, and one of each shard that was added."""
    name = Path(PASSED_OVER)
    return sorted(path.glob(f"{name.stem}*{name.suffix}"))


def _listed(listing: Path, marks: Marks) -> tuple[list[str], list[str]]:
    """Return the lines of a list of unusable files that name no forgotten id, and those that name one."""
    lines: tuple[list[str], list[str]] = ([], [])
    for line in listing.read_text(encoding="utf-8").splitlines(keepends=True):
        lines[_names_one(line, marks)].append(line)
    return lines


def _names_one(line: str, marks: Marks) -> bool:
    try:
        return marks.is_id(str(parse_json(line.partition("\t")[0])))
    except ValueError:
        return False  # torn, or not ours
