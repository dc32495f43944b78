"""A diskcache of text keys and bytes: no pickle is ever written, and none is loaded that somebody left there."""

import sqlite3
from pathlib import Path
from typing import Any, Final

import diskcache

TROUBLE: Final = (OSError, ValueError, sqlite3.Error, diskcache.Timeout)
"""What a damaged, locked, full or unreachable store raises."""

DATABASE: Final = "cache.db"  # diskcache's name for it
_RAW: Final = 1  # diskcache's mode for values that lie in its database as they are


class _BytesOnly(diskcache.Disk):  # type: ignore[misc]
    def put(self, key: object) -> tuple[str, bool]:
        if not isinstance(key, str):
            raise ValueError(f"got {type(key).__name__} as a key: text expected")
        return key, True

    def get(self, key: object, raw: bool) -> object:
        if not raw:
            raise ValueError("the store holds a key that this program did not write")
        return key

    def store(self, value: object, read: bool, key: object = None) -> tuple[int, int, None, object]:
        if not isinstance(value, bytes):
            raise ValueError(f"got {type(value).__name__} as a value: bytes expected")
        return 0, _RAW, None, sqlite3.Binary(value)

    def fetch(self, mode: int, filename: str | None, value: object, read: bool) -> object:
        if mode != _RAW or not isinstance(value, bytes):
            raise ValueError("the store holds a value that this program did not write")
        return value


def open_store(folder: Path, *, size_limit: int) -> Any:  # noqa: ANN401 - diskcache is untyped
    """Open or make a store; safe for many threads and processes. Beyond the limit the oldest entries go.

    Raises:
        one of `TROUBLE`.
    """
    folder.mkdir(parents=True, exist_ok=True)  # diskcache and SQLite would let nobody else write, whatever the umask
    if not (folder / DATABASE).exists():
        (folder / DATABASE).touch()  # an empty file is an empty database; its log takes the same mode
    # What is deleted is overwritten: SQLite would leave it in the file until its place is needed.
    return diskcache.Cache(str(folder), disk=_BytesOnly, size_limit=size_limit, sqlite_secure_delete=1)
