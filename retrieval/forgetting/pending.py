"""The note of an erasure that is under way: what a later process needs to finish it, and nothing of the items."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Int

from retrieval.errors import StorageError
from retrieval.forgetting.receipts import Deed, Known, write_json
from retrieval.outside import parse_json

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
