"""Receipts: what was erased, when, from where, and how that was verified, without saying what it was.

A memory keeps the digest of each receipt that it writes, in the form that ``sha256sum --check`` reads: one of which any
byte was changed, or that was made up, is none of them, and proves nothing. Who can write to the memory can forge both.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

import numpy as np
from jaxtyping import Int

from retrieval.erasing.secrets import Secrets
from retrieval.erasing.traces import SALT_BYTES, Marks
from retrieval.errors import InvalidArgument, StorageError
from retrieval.storage.places import ASIDE, writing
from retrieval.support.outside import parse_json

RECEIPTS: Final = "receipts"  # folder in a memory's
RECORD: Final = "receipts.sha256"  # beside it
_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Known:
    """What tells erased items when they are met again, and nothing else of them."""

    keys: tuple[int, ...]  # random numbers that the table had for them, and has for nothing else
    marks: Marks
    secrets: Secrets

    @property
    def key_array(self) -> Int[np.ndarray, " keys"]:
        """The keys as an array."""
        return np.array(self.keys, np.int64)

    def joined(self, other: "Known") -> "Known":
        """Return what tells these items and others, by the same salt."""
        secrets = self.secrets.joined(other.secrets.windows, sparsity=other.secrets.sparsity)
        return Known(tuple(sorted({*self.keys, *other.keys})), self.marks.joined(other.marks), secrets)

    def to_dict(self) -> dict[str, Any]:
        """Return it in JSON's types."""
        return {
            "salt": self.marks.salt.hex(),
            "keys": list(self.keys),
            "digests": self.marks.to_dict(),
            "bytes": self.secrets.to_dict(),
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Known":
        """Return what `to_dict` wrote.

        Raises:
            KeyError, OverflowError, TypeError, ValueError: it is something else.
        """
        salt = bytes.fromhex(fields["salt"])
        if len(salt) != SALT_BYTES:
            raise ValueError(f"a salt of {len(salt)} bytes")
        keys = tuple(np.array([int(key) for key in fields["keys"]], np.int64).tolist())
        return cls(keys, Marks.from_dict(fields["digests"], salt), Secrets.from_dict(fields["bytes"], salt))


@dataclass(frozen=True, slots=True)
class Check:
    """Something that was looked at, and what was found there of erased items."""

    what: str
    how: str
    left: tuple[str, ...]  # what is still there, in words; empty when nothing is


@dataclass(frozen=True, slots=True)
class Deed:
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

    def to_dict(self) -> dict[str, Any]:
        """Return it in JSON's types."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in ((name, getattr(self, name)) for name in self.__slots__)
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Deed":
        """Return what `to_dict` wrote."""
        return cls(**cls._as_tuples(fields))

    @staticmethod
    def _as_tuples(fields: dict[str, Any]) -> dict[str, Any]:
        return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


@dataclass(frozen=True, slots=True)
class Receipt:
    """An erasure that is done."""

    memory: str  # its folder
    memory_id: str
    erased_at: str  # ISO 8601, UTC
    items: int  # ids
    known: Known
    deed: Deed
    checks: tuple[Check, ...]
    path: Path | None = None  # where it lies
    digest: str = ""  # SHA-256 of that file, in hexadecimal

    def is_of(self, memory: Path) -> bool:
        """Tell whether a memory wrote it, and wrote it so.

        Raises:
            StorageError: the memory's record cannot be read.
        """
        return bool(self.digest) and self.digest in {line.partition(" ")[0] for line in _record(memory)}

    def to_dict(self) -> dict[str, Any]:
        """Return it in JSON's types."""
        return {
            "format": _FORMAT,
            "kind": "receipt of an erasure from a visual memory",
            "memory": self.memory,
            "memory_id": self.memory_id,
            "erased_at": self.erased_at,
            "items": self.items,
            "deed": self.deed.to_dict(),
            "verified": [{"what": c.what, "how": c.how, "left": list(c.left)} for c in self.checks],
            "known_by": self.known.to_dict(),
        }

    def write(self, memory: Path) -> "Receipt":
        """Write it into a memory's folder of receipts and its digest into the record of them; return it with both.

        Raises:
            StorageError: the disk refuses.
        """
        stamp = "".join(c for c in self.erased_at if c.isalnum())
        path = memory / RECEIPTS / f"{stamp}-{token_hex(4)}.json"
        content = _as_json(self.to_dict())
        digest = hashlib.sha256(content).hexdigest()
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
            Deed.from_dict(fields["deed"]),
            tuple(Check(c["what"], c["how"], tuple(c["left"])) for c in fields["verified"]),
            path,
            hashlib.sha256(content).hexdigest(),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise InvalidArgument(
            f"{path} is no receipt of an erasure: give one that `vmem memory forget --erase` wrote"
        ) from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file of JSON as `write_whole` does."""
    write_whole(path, _as_json(content))


def _as_json(content: Mapping[str, Any]) -> bytes:
    # One field a line: json's own indentation takes seconds for thousands of items.
    fields = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in content.items())
    return f"{{\n{fields}\n}}\n".encode()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all, on disk before this returns.

    Raises:
        StorageError: the disk refuses.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f"{ASIDE}{token_hex(8)}")
        try:
            with aside.open("xb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(aside, path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring a folder's list of files to the disk."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


_BEGINS: Final = "erasing-"  # its name, in the memory's folder


@dataclass(frozen=True, slots=True)
class Note:
    """What is being erased, and how far that got."""

    path: Path
    keys: tuple[int, ...]
    traces: tuple[str, ...]  # names of the places that are to be cleared
    deed: Deed
    items: int = 0  # ids
    known: Known | None = None  # None: it is not yet known what tells the items
    cleared: bool = False  # whether those places hold nothing of them any more
    cut_off: bool = False  # whether a run before this one wrote it

    @classmethod
    def begin(cls, memory: Path, name: str, keys: tuple[int, ...], traces: tuple[str, ...], deed: Deed) -> "Note":
        """Write the note of an erasure that begins."""
        note = cls(memory / f"{_BEGINS}{name}.json", keys, traces, deed)
        note.write()
        return note

    @property
    def key_array(self) -> Int[np.ndarray, " keys"]:
        """The keys as an array."""
        return np.array(self.keys, np.int64)

    def write(self) -> None:
        """Put it on disk.

        Raises:
            StorageError: the disk refuses.
        """
        fields: dict[str, Any] = {"keys": list(self.keys), "traces": list(self.traces), "deed": self.deed.to_dict()}
        fields |= {"items": self.items, "cleared": self.cleared}
        write_json(self.path, fields | {"known": self.known.to_dict() if self.known else None})

    @classmethod
    def read(cls, path: Path) -> "Note":
        """Return the note that a run which was cut off left.

        Raises:
            StorageError: it is damaged.
        """
        try:
            fields = parse_json(path.read_bytes())
            return cls(
                path,
                tuple(int(key) for key in fields["keys"]),
                tuple(map(str, fields["traces"])),
                Deed.from_dict(fields["deed"]),
                fields["items"],
                Known.from_dict(fields["known"]) if fields["known"] else None,
                fields["cleared"],
                cut_off=True,
            )
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise StorageError(
                f"{path}, the note of an erasure that was cut off, is damaged: delete it and erase the same items again"
            ) from error


def notes(memory: Path) -> Iterator[Path]:
    """Yield the notes in a memory's folder."""
    yield from sorted(memory.glob(f"{_BEGINS}*.json"))
