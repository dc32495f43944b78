"""What kept replies hold of a memory's items: their thumbnails, and the prompts and replies that those took part in.

A prompt shows a neighbour by its thumbnail and its label, never by its id (`prompts.render`), so that the thumbnail
tells which prompts an item was in. A contact sheet is kept with the digests of the thumbnails drawn into it, and goes
when one of them does. Of an item without one there is nothing but its label, which other items share.

The store is `agent.reply_store`'s; how it names its entries is written here, so that erasing finds them by itself.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from retrieval.bytestore import DATABASE
from retrieval.cachedir import cache_folder
from retrieval.forgetting.traces import FeatureTraces, Forgotten, Marks, Traces, drop_entries, names_in, opened
from retrieval.outside import parse_json

KIND: Final = "replies"  # folder of the cache
SIZE_LIMIT: Final = 20 * 2**30  # bytes; beyond it the oldest go
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
        with opened(self._folder, SIZE_LIMIT) as store:
            return drop_entries(self._folder, store, _names(self._folder, store, items.thumbnails), items)

    def remains(self, marks: Marks) -> list[str]:
        """Return how many entries show forgotten thumbnails."""
        if not self.folders():
            return []
        with opened(self._folder, SIZE_LIMIT) as store:
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
