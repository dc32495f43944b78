"""Search by Milvus: embedded in a folder (milvus-lite), or on other machines for memories that outgrow one."""

import itertools
import logging
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import ClassVar, Final

import numpy as np
from jaxtyping import Float, Int

from retrieval.errors import IndexUnavailable, InvalidArgument
from retrieval.indexes.base import DEFAULT_RECALL, Skipped, VectorBlocks, Written
from retrieval.indexes.milvus_about import ABOUT, About, digests, new_name
from retrieval.indexes.milvus_collection import FARTHEST, Collection, Found
from retrieval.indexes.milvus_search import search_around
from retrieval.indexes.milvus_server import check_uri, copy_database, remove_databases
from retrieval.vectors import to_unit

_logger = logging.getLogger(__name__)
_QUERIES_AT_A_TIME: Final = 256


class MilvusIndex:
    """Vectors in a Milvus collection, their positions as its primary keys.

    Embedded, every vector is compared; on a server they lie in an HNSW graph. Milvus rounds by the number of queries
    that it searches together: distances may differ by 1e-6, and neighbours that are as near may change places.
    """

    kind: ClassVar[str] = "milvus"
    saved: ClassVar[bool] = True
    mapped: ClassVar[tuple[str, ...]] = ()
    uri: ClassVar[str] = ""  # where `build` puts the vectors; empty: embedded

    def __init__(self, folder: Path, about: About) -> None:
        """Open the collection; ValueError where it is not there or not whole."""
        self._folder = folder
        collection = about.collection(folder)
        if not collection.exists():
            raise ValueError(f"{collection.server.where} has no collection {about.name}")
        collection.load()
        if (there := collection.count()) < about.items - about.erased:
            raise ValueError(f"{collection.server.where} holds {there} vectors, not {about.items - about.erased}")
        self._at = (collection, about)

    @classmethod
    def build(cls, blocks: VectorBlocks, folder: Path | None) -> "MilvusIndex":
        """Return an index over the vectors, in a collection of its own.

        Raises:
            IndexUnavailable: Milvus does not answer.
            InvalidArgument: it is not installed.
        """
        about = About(cls.uri, new_name(), len(blocks), blocks.dimension, 0, {})
        place = folder or _temporary()
        return _tidied(cls._filled(place, about, _positioned(blocks, 0)), folder, place)

    @classmethod
    def load(cls, folder: Path) -> "MilvusIndex":
        """Return the index in a folder, or on the server that its file names.

        Raises:
            ValueError, OSError: what lies there is damaged, or the collection is gone.
            IndexUnavailable: Milvus does not answer.
        """
        about = About.read(folder)
        if not about.uri and digests(about.database(folder)) != about.digests:
            raise ValueError(f"the files of {about.database(folder)} are not those that were written")
        try:
            return cls(folder, about)
        except IndexUnavailable as error:
            if about.uri:
                raise
            raise ValueError(f"{about.database(folder)} cannot be opened: {error}") from error

    def extended(self, blocks: VectorBlocks, folder: Path | None) -> "MilvusIndex":
        """Return another index with these vectors at the end: in a copy where embedded, else in the same collection.

        On a server this one passes over what lies beyond its end; what a killed process has left there is removed.
        """
        collection, about = self._at
        place = folder or _temporary()
        rows: Iterable[Found] = _positioned(blocks, about.items)
        longer = replace(about, items=about.items + len(blocks))
        if not about.uri:
            copy_database(about.database(self._folder), about.database(place))
        elif folder:
            collection.cut_off(about.items)
        else:  # what is not kept must not get into the collection of what is
            longer, rows = replace(longer, name=new_name()), itertools.chain(collection.rows(about.items), rows)
        return _tidied(self._filled(place, longer, rows), folder, place)

    @classmethod
    def _filled(cls, folder: Path, about: About, rows: Iterable[Found]) -> "MilvusIndex":
        """Insert rows into a collection, made where it is not there, and write down last of all where it is."""
        collection = about.collection(folder)
        if not collection.exists():
            collection.create(about.dimension)
        collection.insert(rows, total=about.items)
        index = cls(folder, about)
        replace(about, digests={} if about.uri else digests(about.database(folder))).write(folder)
        return index

    @classmethod
    def erase(cls, folder: Path, positions: Int[np.ndarray, " erased"]) -> Written:
        """Remove vectors: embedded, by writing the others into a fresh database in place of this one.

        A server deletes, flushes and compacts. When its storage lets go of the bytes is its own affair: Milvus' garbage
        collector removes what compaction has replaced some hours later, and nothing here can prove it.
        """
        about = About.read(folder)
        collection = about.collection(folder)
        collection.load()
        about = replace(about, erased=about.erased + collection.count_of(positions))
        if about.uri:
            collection.delete(positions)
            about.write(folder)
            return {ABOUT: positions[:0]}
        gone = np.zeros(about.items, bool)
        gone[positions] = True
        fresh = replace(about, name=new_name())
        cls._filled(folder, fresh, _remaining(collection, gone))
        del collection  # the last hold on a database closes it, before its files go
        remove_databases(folder, but=fresh.database(folder))
        return {ABOUT: positions[:0]}

    def worn(self, *, skipped: int) -> bool:
        """Tell whether more than half is skipped: a search must then ask for more than twice its neighbours."""
        return 2 * skipped > len(self)

    @classmethod
    def discard(cls, folder: Path, *, live: Path | None = None) -> None:
        """Drop the collection on a server, unless the live index uses the same; one that does not answer keeps it."""
        about = About.read(folder)
        if about.uri and not (live and About.read(live).name == about.name):
            try:
                about.collection(folder).drop()
            except IndexUnavailable as error:
                _logger.warning("The collection %s stays where it is: %s", about.name, error)

    def __len__(self) -> int:
        return self._at[1].items

    def search(
        self,
        queries: Float[np.ndarray, "queries dimension"],
        k: int,
        *,
        skip: Skipped | None = None,
        recall: float = DEFAULT_RECALL,  # what a server finds is set when its graph is built
    ) -> tuple[Int[np.ndarray, "queries k"], Float[np.ndarray, "queries k"]]:
        """Return positions and cosine distances, nearest first.

        Raises:
            InvalidArgument: k is above Milvus' limit of 16,384.
            IndexUnavailable: Milvus does not answer.
        """
        if k > FARTHEST:
            raise InvalidArgument(f"k={k}: Milvus finds {FARTHEST:,} neighbours at most; ask for fewer")
        mask = skip.mask if skip else np.zeros(len(self), bool)
        positions, distances = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
        for start in range(0, len(queries), _QUERIES_AT_A_TIME):
            found = search_around(self._at[0], queries[start : start + _QUERIES_AT_A_TIME], k, mask)
            for row, answer in enumerate(found, start):
                positions[row], distances[row] = answer
        return positions, distances


@cache
def on_server(uri: str) -> type[MilvusIndex]:
    """Return the class whose indexes are built on the server at an address.

    Raises:
        InvalidArgument: no address, or one with a secret in it.
    """
    check_uri(uri)
    return type("MilvusIndex", (MilvusIndex,), {"uri": uri, "kind": f"milvus:{uri}"})


def _temporary() -> Path:
    return Path(tempfile.mkdtemp(prefix="vmem-milvus-"))


def _tidied(index: MilvusIndex, folder: Path | None, place: Path) -> MilvusIndex:
    """Let what was put into a temporary folder, for want of one to keep, go with the index."""
    if folder is None:
        weakref.finalize(index, _forget, place)
    return index


def _forget(place: Path) -> None:
    MilvusIndex.discard(place)
    shutil.rmtree(place, ignore_errors=True)


def _positioned(blocks: VectorBlocks, start: int) -> Iterator[Found]:
    for block in blocks:
        yield np.arange(start, start + len(block)), to_unit(block)
        start += len(block)


def _remaining(collection: Collection, gone: np.ndarray) -> Iterator[Found]:
    for positions, vectors in collection.rows(len(gone)):
        kept = ~gone[positions]
        if kept.any():
            yield positions[kept], vectors[kept]
