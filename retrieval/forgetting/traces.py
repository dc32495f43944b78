"""What an item may leave outside its memory: places that keep something of pictures, and how to clear them of it."""

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

from retrieval.bytestore import TROUBLE, open_store
from retrieval.cachedir import cache_folder
from retrieval.errors import StorageError
from retrieval.features import ABOUT, SIZE_LIMIT

SALT_BYTES: Final = 32
_DIGEST_BYTES: Final = 16
DATABASE: Final = "cache.db"  # of a diskcache

_ASKED_TOGETHER: Final = 500  # values in one question: SQLite takes 32,766 at most


@dataclass(frozen=True, slots=True)
class Forgotten:
    """Items that are to leave no trace, by what they may be known by elsewhere."""

    ids: frozenset[str]
    pictures: frozenset[str]  # digests of the pictures they were made of (`content_digest`)
    thumbnails: frozenset[str]  # SHA-256 of their thumbnails, in hexadecimal
    cut_off: bool = False  # whether a run that was killed may have dropped some of it without wiping it out


@dataclass(frozen=True, slots=True)
class Marks:
    """What tells forgotten items when they are met again, and nothing else of them: keyed digests.

    Who has a guess can try it, so a guessable id is not kept secret by its digest; a picture is.
    """

    salt: bytes
    ids: frozenset[str]
    pictures: frozenset[str]
    thumbnails: frozenset[str]

    @classmethod
    def of(cls, items: Forgotten, salt: bytes) -> "Marks":
        """Return the marks of items."""
        parts = (
            frozenset(mark(text, salt) for text in texts) for texts in (items.ids, items.pictures, items.thumbnails)
        )
        return cls(salt, *parts)

    def is_id(self, text: str) -> bool:
        """Tell whether a text is the id of a forgotten item."""
        return mark(text, self.salt) in self.ids

    def is_picture(self, digest: str) -> bool:
        """Tell whether a digest is that of a forgotten item's picture."""
        return mark(digest, self.salt) in self.pictures

    def is_thumbnail(self, digest: str) -> bool:
        """Tell whether a SHA-256 is that of a forgotten item's thumbnail."""
        return mark(digest, self.salt) in self.thumbnails

    def without(self, *, pictures: Iterable[str], thumbnails: Iterable[str]) -> "Marks":
        """Return these without some digests of pictures and of thumbnails, which other items have too."""
        marks = ({mark(text, self.salt) for text in texts} for texts in (pictures, thumbnails))
        return type(self)(
            self.salt,
            self.ids,
            *(kept - gone for kept, gone in zip((self.pictures, self.thumbnails), marks, strict=True)),
        )

    def to_dict(self) -> dict[str, list[str]]:
        """Return all but the salt in JSON's types."""
        return {name: sorted(getattr(self, name)) for name in ("ids", "pictures", "thumbnails")}

    @classmethod
    def from_dict(cls, fields: dict[str, Any], salt: bytes) -> "Marks":
        """Return what `to_dict` wrote.

        Raises:
            KeyError, TypeError: it is something else.
        """
        return cls(salt, *(frozenset(map(str, fields[name])) for name in ("ids", "pictures", "thumbnails")))


def sha256(picture: bytes) -> str:
    """Return the digest by which a thumbnail is known."""
    return hashlib.sha256(picture).hexdigest()


def mark(text: str, salt: bytes) -> str:
    """Return the keyed digest of a text."""
    # Surrogates stand for stray bytes of file names.
    return hashlib.blake2b(text.encode(errors="surrogatepass"), key=salt, digest_size=_DIGEST_BYTES).hexdigest()


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
        return sorted(about.parent for about in cache_folder("features").glob(f"*/{ABOUT}"))

    def secrets(self, items: Forgotten) -> list[bytes]:
        """Return the kept vectors of the items' pictures, which are float32."""
        kept: list[object] = []
        for folder in self.folders():
            with opened(folder, SIZE_LIMIT) as store:
                kept.extend(map(store.get, items.pictures))
        return [value for value in kept if isinstance(value, bytes)]

    def drop(self, items: Forgotten) -> int:
        """Drop the features of the items' pictures, which other memories compute again if they need them."""
        dropped = 0
        for folder in self.folders():
            with opened(folder, SIZE_LIMIT) as store:
                kept = [value for value in map(store.get, items.pictures) if isinstance(value, bytes)]
                names = {*items.pictures, *_keys_of(folder, kept)}
                dropped += drop_entries(folder, store, names, items)
        return dropped

    def remains(self, marks: Marks) -> list[str]:
        """Return where features of forgotten pictures are kept."""
        found = []
        for folder in self.folders():
            with opened(folder, SIZE_LIMIT) as store:
                count = sum(map(marks.is_picture, store.iterkeys()))
            if count:
                found.append(f"{count} features of forgotten pictures in {folder}")
        return found


def _keys_of(folder: Path, values: list[bytes]) -> list[str]:
    """Return under which names a store keeps some values: a picture has another digest as a file than decoded."""
    found: list[str] = []
    database = sqlite3.connect(folder / DATABASE, timeout=60)
    try:
        for start in range(0, len(values), _ASKED_TOGETHER):
            some = values[start : start + _ASKED_TOGETHER]
            asked = f"SELECT key FROM Cache WHERE value IN ({','.join('?' * len(some))})"
            found += [key for (key,) in database.execute(asked, some) if isinstance(key, str)]
    finally:
        database.close()
    return found


def drop_entries(folder: Path, store: Any, names: Iterable[str], items: Forgotten) -> int:  # noqa: ANN401 - untyped
    """Drop entries of a store, and wipe them out of its file; return how many there were."""
    with store.transact():
        dropped = sum(bool(store.delete(name)) for name in names)
    if dropped or items.cut_off:
        store.close()
        _wipe(folder)
    return dropped


def _wipe(folder: Path) -> None:
    """Rewrite a store's file: SQLite leaves what it deletes, or moves from page to page, where it was."""
    database = sqlite3.connect(folder / DATABASE, timeout=60, isolation_level=None)
    try:
        database.execute("VACUUM")
        busy = database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    finally:
        database.close()
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
        raise StorageError(
            f"{folder} cannot be used ({error}): what it keeps of forgotten items is still there; mend it, or"
            " `vmem cache clear`, and run `vmem memory forget MEMORY --resume`"
        ) from error
