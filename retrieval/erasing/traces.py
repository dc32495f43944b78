"""What an item may leave outside its memory: places that keep something of pictures, and how to clear them of it."""

import itertools
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

from retrieval.embedding import FEATURES_SIZE_LIMIT
from retrieval.erasing.secrets import Forgotten, Marks
from retrieval.errors import StorageError
from retrieval.storage.places import cure_of_refusal
from retrieval.support.cachedir import DATABASE, TROUBLE, cache_folder, open_store
from retrieval.support.parsing import parse_json

_OWN_NAME: Final = "raw = 1 AND typeof(key) = 'text'"  # as `bytestore` writes them; others may hold a pickle
_ASKED_TOGETHER: Final = 500  # values in one question: SQLite takes 32,766 at most


@runtime_checkable
class Traces(Protocol):
    """One kind of place that may keep something of an item."""

    @property
    def name(self) -> str:
        """What is kept there, in a word."""
        ...

    def folders(self) -> list[Path]:
        """Return where its files lie, all of which are searched for forgotten bytes."""
        ...

    def secrets(self, items: Forgotten) -> list[bytes]:
        """Return what it keeps of items in other bytes than their vectors and thumbnails."""
        ...

    def drop(self, items: Forgotten) -> int:
        """Drop what it keeps of items, so that no byte of it is left in its files; return how many entries.

        Raises:
            StorageError: it cannot be written, or is in use.
        """
        ...

    def remains(self, marks: Marks) -> list[str]:
        """Return what is kept of forgotten items, in words; empty when there is nothing."""
        ...


class FeatureTraces:
    """The features that all memories share (`FeatureCache`), of every embedder and precision."""

    name = "features"

    def folders(self) -> list[Path]:
        """Return the folder of each embedder and precision."""
        return sorted(store.parent for store in cache_folder("features").glob(f"*/{DATABASE}"))

    def secrets(self, items: Forgotten) -> list[bytes]:
        """Return the kept vectors of the items' pictures, which are float32, damaged ones as they are."""
        kept: list[bytes] = []
        for folder in self.folders():
            with opened(folder, FEATURES_SIZE_LIMIT):
                kept += _values_of(folder, items.pictures)
        return kept

    def drop(self, items: Forgotten) -> int:
        """Drop the features of the items' pictures, which other memories compute again if they need them."""
        dropped = 0
        for folder in self.folders():
            with opened(folder, FEATURES_SIZE_LIMIT) as store:
                # A picture has another digest as a file than decoded, and the same features.
                names = _ask(folder, "key", "value", _values_of(folder, items.pictures))
                dropped += drop_entries(folder, store, {*items.pictures, *names}, items)
        return dropped

    def remains(self, marks: Marks) -> list[str]:
        """Return where features of forgotten pictures are kept."""
        found = []
        for folder in self.folders():
            with opened(folder, FEATURES_SIZE_LIMIT):
                count = sum(map(marks.is_picture, names_in(folder)))
            if count:
                found.append(f"{count} features of forgotten pictures in {folder}")
        return found


def names_in(folder: Path) -> list[str]:
    """Return the names of a store's entries; those that this program did not write have none."""
    with _database(folder) as database:
        return [name for (name,) in database.execute(f"SELECT key FROM Cache WHERE {_OWN_NAME}")]


def _values_of(folder: Path, names: Iterable[str]) -> list[bytes]:
    return [value for value in _ask(folder, "value", "key", list(names)) if isinstance(value, bytes)]


def _ask(folder: Path, column: str, by: str, choices: Sequence[str | bytes]) -> list[Any]:
    """Return a column of the entries of which another column is one of some values."""
    question, found = f"SELECT {column} FROM Cache WHERE {_OWN_NAME} AND {by} IN", []
    with _database(folder) as database:
        for start in range(0, len(choices), _ASKED_TOGETHER):
            some = choices[start : start + _ASKED_TOGETHER]
            found += [one for (one,) in database.execute(f"{question} ({','.join('?' * len(some))})", some)]
    return found


def _drop_foreign(folder: Path) -> int:
    """Drop entries that are damaged, or that another program wrote; return how many there were."""
    foreign = f"NOT ({_OWN_NAME} AND mode = 1 AND typeof(value) = 'blob')"
    with _database(folder) as database:
        files = database.execute(f"SELECT filename FROM Cache WHERE {foreign} AND filename IS NOT NULL").fetchall()
        dropped = database.execute(f"DELETE FROM Cache WHERE {foreign}").rowcount
    for (name,) in files:
        file = (folder / str(name)).resolve()
        if file.is_relative_to(folder.resolve()):
            file.unlink(missing_ok=True)
    return dropped


@contextmanager
def _database(folder: Path) -> Iterator[sqlite3.Connection]:
    database = sqlite3.connect(folder / DATABASE, timeout=60, isolation_level=None)
    try:
        yield database
    finally:
        database.close()


def drop_entries(folder: Path, store: Any, names: Iterable[str], items: Forgotten) -> int:  # noqa: ANN401 - untyped
    """Drop entries of a store, and those that nobody can read, and wipe them out of its file; return how many."""
    with store.transact():
        dropped = sum(bool(store.delete(name)) for name in names)
    dropped += _drop_foreign(folder)
    if dropped or items.cut_off:
        store.close()
        _wipe(folder)
    return dropped


def _wipe(folder: Path) -> None:
    """Rewrite a store's file: SQLite leaves what it deletes, or moves from page to page, where it was."""
    with _database(folder) as database:
        database.execute("VACUUM")
        busy = database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    if busy:
        raise StorageError(
            f"{folder} is being read by another process: end that, and run `vmem memory forget MEMORY --resume`"
        )


@contextmanager
def opened(folder: Path, size_limit: int) -> Iterator[Any]:
    """Give a store, and translate what one that cannot be used raises, as StorageError."""
    try:
        with open_store(folder, size_limit=size_limit) as store:
            yield store
    except TROUBLE as error:
        cure = cure_of_refusal(str(error)) or "mend it, or `vmem cache clear`"
        raise StorageError(
            f"{folder} cannot be used ({error}): what it keeps of forgotten items is still there; {cure}; then"
            " `vmem memory forget MEMORY --resume` goes on"
        ) from error


KIND: Final = "replies"  # folder of the cache
REPLIES_SIZE_LIMIT: Final = 20 * 2**30  # bytes; beyond it the oldest go
REPLY, ASKED, IMAGE = "reply:", "asked:", "image:"  # how the names of entries begin


class ReplyTraces:
    """The replies that all memories and runs share, or those in a folder."""

    name = "replies"

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or cache_folder(KIND)

    def folders(self) -> list[Path]:
        """Return the store's folder, where there is one."""
        return [self._folder] if (self._folder / DATABASE).exists() else []

    def secrets(self, items: Forgotten) -> list[bytes]:
        """Return nothing: the pictures that are kept are the thumbnails as they are."""
        return []

    def drop(self, items: Forgotten) -> int:
        """Drop the items' thumbnails, and all replies, and requests under way, whose prompts show them."""
        if not self.folders():
            return 0
        with opened(self._folder, REPLIES_SIZE_LIMIT) as store:
            return drop_entries(self._folder, store, _names(self._folder, store, items.thumbnails), items)

    def remains(self, marks: Marks) -> list[str]:
        """Return how many entries show forgotten thumbnails."""
        if not self.folders():
            return []
        with opened(self._folder, REPLIES_SIZE_LIMIT) as store:
            pictures = {name.removeprefix(IMAGE) for name in names_in(self._folder) if name.startswith(IMAGE)}
            for _, shown in _records(self._folder, store):
                pictures.update(shown, *shown.values())
            names = _names(self._folder, store, frozenset(filter(marks.is_thumbnail, pictures)))
        return [f"{len(names)} pictures, requests and replies in {self._folder}"] if names else []


def every_trace() -> list[Traces]:
    """Return all places beside a memory that may keep something of its items."""
    return [FeatureTraces(), ReplyTraces()]


def _names(folder: Path, store: Any, thumbnails: frozenset[str]) -> list[str]:  # noqa: ANN401 - diskcache is untyped
    """Return the entries that are or show one of some pictures."""
    names, pictures = [], set(thumbnails)
    for name, shown in _records(folder, store):
        if not thumbnails.isdisjoint(itertools.chain(shown, *shown.values())):
            names.append(name)
            pictures |= {picture for picture, drawn in shown.items() if not thumbnails.isdisjoint(drawn)}
    return names + [IMAGE + digest for digest in sorted(pictures) if IMAGE + digest in store]


def _records(folder: Path, store: Any) -> Iterator[tuple[str, dict[str, list[str]]]]:  # noqa: ANN401 - diskcache is untyped
    """Yield the entries of requests and replies, with the digests of the pictures that they show.

    Each picture comes with the digests of those that were drawn into it, where it is a sheet.
    """
    for name in names_in(folder):
        if not name.startswith((REPLY, ASKED)):
            continue
        try:
            parts = parse_json(store.get(name) or b"{}").get("parts", [])
            shown = {str(part["image"]): [str(d) for d in part.get("drawn", ())] for part in parts if "image" in part}
        except (ValueError, TypeError, AttributeError):  # nothing that this program wrote: it answers nothing
            continue
        yield name, shown
