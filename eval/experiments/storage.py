"""How much room a memory's features, its files and its pictures take."""

import os
from dataclasses import dataclass
from pathlib import Path

from retrieval.cachedir import folder_bytes
from retrieval.memory import VisualMemory


@dataclass(frozen=True, slots=True)
class OnDisk:
    """The sizes of a memory's real files, in bytes; None where one is not there or not known."""

    table: int | None = None  # with float16 vectors, ids, labels and thumbnails
    index: int | None = None  # saved beside it
    pictures: int | None = None  # the files that the memory was built from

    @classmethod
    def of(cls, memory: VisualMemory) -> "OnDisk":
        """Return the sizes of a memory's files; those of its pictures where each still lies where it came from."""
        table, index = folder_bytes(memory.path / "items.lance"), folder_bytes(memory.path / "index")
        return cls(table or None, index or None, _bytes_of(Path(memory.settings.built_from), memory))


def _bytes_of(folder: Path, memory: VisualMemory) -> int | None:
    if not memory.settings.built_from or not folder.is_dir():
        return None
    try:
        return sum(os.path.getsize(folder / name) for name in memory.snapshot().ids.tolist())
    except (OSError, ValueError):  # ValueError: an id with a null byte
        return None


def feature_bytes(items: int, dimension: int, *, bytes_a_number: int) -> int:
    """Return what features take, without ids and labels."""
    return items * dimension * bytes_a_number
