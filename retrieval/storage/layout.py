"""What lies where in a memory's folder, and whether there is one."""

import os
from pathlib import Path
from typing import Final

from retrieval.disk import writing
from retrieval.errors import MemoryExists, NotAMemory, StorageError
from retrieval.storage.locking import LOCK
from retrieval.storage.places import TABLE, address_of, is_stored, shown

INDEX: Final = "index"
CENTRED_INDEX: Final = "index-centred"
PASSED_OVER: Final = "unreadable.tsv"  # id and reason of each file passed over, as JSON strings
ASIDE: Final = ".new-"  # begins the name of a table that is being made; what a killed run leaves is swept up


def is_memory(path: str | Path) -> bool:
    """Tell whether there is a memory whose local folder this is.

    Raises:
        StorageError: the object store that its table would be in does not answer.
    """
    if address := address_of(Path(path)):
        return is_stored(address)
    return os.path.isdir(Path(path) / TABLE)  # of os.path: a name too long for the system is no memory either


def expect_memory(path: Path) -> None:
    """Raise NotAMemory unless there is one at the path."""
    if not is_memory(path):
        there = "it holds no memory" if os.path.exists(path) and not address_of(path) else "there is nothing"
        place = shown(path)
        raise NotAMemory(f"{place} is no memory ({there}): make one with `vmem memory build {place} FOLDER`")


def check_free(path: Path) -> None:
    """Raise unless a new memory can be made at the path: early, before anything slow is done for it.

    Raises:
        MemoryExists: something is there already.
        StorageError: the place cannot be written.
    """
    if address_of(path):
        if is_memory(path):
            raise MemoryExists(f"{shown(path)} holds a memory already: choose another address")
        return
    with writing(path):
        inside = path.iterdir() if path.is_dir() else ()
        if (path.exists() and not path.is_dir()) or any(not _is_left_over(entry.name) for entry in inside):
            raise MemoryExists(f"{path} is there already and not an empty folder: choose another path")
        nearest = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK):
            why = "read-only" if nearest.is_dir() else "not a folder"
            raise StorageError(f"{path} cannot be written: {nearest} is {why}; choose a path you may write to")


def _is_left_over(name: str) -> bool:
    return name.startswith(ASIDE) or name == LOCK
