"""A memory to be read: searched, looked at, gone back in, never changed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from jaxtyping import Float

from retrieval.embedders.base import Embedder, Requested
from retrieval.embedding import EmbeddedBatch, Embedding, Recipe
from retrieval.errors import InvalidArgument, UnknownVersion
from retrieval.images import ImageLike
from retrieval.indexes import choose_kind
from retrieval.indexes.base import DEFAULT_RECALL
from retrieval.indexes.saved import load_stored
from retrieval.storage.history import Difference, Entry, Version, compare_versions, list_commands, list_versions
from retrieval.storage.places import INDEX, address_of, local_folder
from retrieval.storage.table import ItemTable
from retrieval.types import MemoryStats, Neighbors, Settings
from retrieval.vectors import VectorsLike, to_unit_vectors
from retrieval.version import Snapshot, check_neighbors

Query = TypeVar("Query")
DEFAULT_NEIGHBORS: Final = 50  # the paper's k


class MemoryView:
    """What a memory holds at one version, or would hold without some items."""

    def __init__(self, path: Path, table: ItemTable, embedding: Embedding, snapshot: Snapshot) -> None:
        self.path = path
        self._table = table
        self._embedding = embedding
        self._snapshot = snapshot

    def __reduce__(self) -> tuple[Any, ...]:
        """Be pickled and copied by path and version, which are opened anew: for processes that are started by spawn."""
        snapshot = self.snapshot()
        path = address_of(self.path) or str(self.path.absolute())
        recipe = self._embedding.recipe()
        return _reopen, (type(self), path, snapshot.version, snapshot.hidden_ids, snapshot.is_centred, recipe)

    @classmethod
    def _of(cls, path: Path, table: ItemTable, embedding: Embedding, hidden: list[str]) -> "MemoryView":
        snapshot = Snapshot(table, path, saves=False)
        return cls(path, table, embedding, snapshot.without(hidden) if hidden else snapshot)

    def __len__(self) -> int:
        return len(self.snapshot())

    def __repr__(self) -> str:
        name, embedder = type(self).__name__, self.settings.embedder.name
        return f"{name}({str(self.path)!r}, items={len(self)}, version={self.version}, embedder={embedder!r})"

    @property
    def settings(self) -> Settings:
        """What the memory was created with."""
        return self._table.settings

    @property
    def version(self) -> int:
        """The version of the table that is read."""
        return self._table.version

    @property
    def embedder(self) -> Embedder:
        """The embedder that the memory was built by, loaded when first needed.

        Raises:
            EmbedderError: it cannot be had any more.
            EmbedderMismatch: what lies in its place has other weights.
        """
        return self._embedding.embedder

    @property
    def requested(self) -> Requested:
        """How its embedder was asked to run, loaded or not."""
        return self._embedding.requested

    @property
    def findable(self) -> int:
        """How many items a search can find: what was pruned away takes no part."""
        return self.snapshot().findable

    def snapshot(self, *, centred: bool = False) -> Snapshot:
        """Return the version that is read: its ids, labels and index; ``centred`` for one without its mean."""
        return self._snapshot.centred() if centred else self._snapshot

    def at(self, version: int | str) -> "MemoryView":
        """Return the memory as it was at a version, by number or by tag. It is read as it was, and cannot be edited.

        Raises:
            UnknownVersion: there is none, or none any more.
        """
        table = self._table.at(version)
        return MemoryView(self.path, table, self._embedding, Snapshot(table, self.path, saves=False))

    def without(self, ids: Iterable[str]) -> "MemoryView":
        """Return a view that answers as if some items were gone (section 3.7); nothing is written.

        Raises:
            UnknownItem: an id is not there.
        """
        return MemoryView(self.path, self._table.pinned(), self._embedding, self.snapshot().without(ids))

    def centred(self) -> "MemoryView":
        """Return the memory without the mean of its vectors, for queries without theirs (`vectors.centre_queries`).

        Its index is built once for a version of the memory, and kept beside the other one.
        """
        return MemoryView(self.path, self._table.pinned(), self._embedding, self.snapshot(centred=True))

    def history(self, *, limit: int | None = None) -> list[Version]:
        """Return the versions there are up to this one, newest first; at most ``limit``."""
        return list_versions(self._table, limit=limit)

    def commands(self, *, limit: int | None = None) -> list[Entry]:
        """Return the commands that made them, newest first; at most ``limit``. One may have made many versions."""
        return list_commands(self._table, limit=limit)

    def diff(self, other: int | str) -> Difference:
        """Return what changed from another version to this one.

        Raises:
            UnknownVersion: there is none, or none any more.
        """
        return compare_versions(self._table.at(other), self._table)

    def search(self, *images: ImageLike, k: int = DEFAULT_NEIGHBORS, recall: float = DEFAULT_RECALL) -> Neighbors:
        """Return the neighbours of some pictures, nearest first; ``[i]`` of the result are those of picture ``i``.

        Args:
            images: the pictures.
            k: how many neighbours.
            recall: as for `search_vectors`.

        Raises:
            ImageError: a picture cannot be used.
            InvalidArgument: k below 1, a recall that is none, or an empty memory.
            EmbedderError: the embedder cannot be had.
        """
        check_neighbors(k)
        return self.search_vectors(self.embed(images), k=k, recall=recall)

    def embed(self, images: Sequence[ImageLike]) -> Float[np.ndarray, "images dimension"]:
        """Return the vectors of some pictures, float32 of length 1, in order.

        Raises:
            ImageError: a picture cannot be used.
            EmbedderError: the embedder cannot be had.
        """
        vectors = [np.empty((0, self.settings.embedder.dimension), np.float32)]
        for batch in self.embed_stream(images, image_of=lambda image: image):
            if batch.failures:
                raise batch.failures[0].error
            vectors.append(batch.vectors)
        return np.concatenate(vectors)

    def embed_stream(
        self, items: Iterable[Query], *, image_of: Callable[[Query], ImageLike], thumbnail_pixels: int | None = None
    ) -> Iterator[EmbeddedBatch[Query]]:
        """Yield any number of things in batches, with the vectors of their pictures, in order.

        A picture that cannot be used is among the batch's ``failures``; with ``thumbnail_pixels`` the others come as
        JPEG of that size as well.

        Raises:
            EmbedderError: the embedder cannot be had.
        """
        return self._embedding.stream(items, image_of=image_of, thumbnail_pixels=thumbnail_pixels)

    def search_vectors(
        self,
        vectors: VectorsLike,
        *,
        k: int = DEFAULT_NEIGHBORS,
        recall: float = DEFAULT_RECALL,
    ) -> Neighbors:
        """Return the neighbours of some vectors, nearest first; they are scaled to length 1.

        Args:
            vectors: the queries.
            k: how many neighbours; above the size of the memory every item is one, with a warning.
            recall: the share of the true neighbours that a ScaNN index is to find on average, from 0.9 to 0.9995. An
                exact index finds all.

        Raises:
            InvalidArgument: k below 1, a recall that is none, an empty memory, another dimension, a zero or non-finite
                vector.
        """
        unit = to_unit_vectors(vectors, dimension=self.settings.embedder.dimension)
        return self.snapshot().search(unit, k, recall=recall)

    def thumbnails(self, ids: Sequence[str], *, rows: Sequence[int] | None = None) -> list[bytes | None]:
        """Return the JPEG thumbnails of some items; None for those without one, and for ids that are not there.

        Args:
            ids: the items.
            rows: where a search found them (`Neighbor.row`), which saves looking up their ids. Rows that have moved
                since are noticed.
        """
        snapshot = self.snapshot()
        if rows is not None and all(row < len(snapshot.rows) for row in rows):
            found, pictures = snapshot.pictures(np.array(rows, np.int64))
            if found == list(ids):
                return pictures
        looked_up = snapshot.rows_of(ids)
        there = looked_up[looked_up >= 0]
        by_row = dict(zip(there.tolist(), snapshot.pictures(there)[1], strict=True))
        return [by_row.get(row) for row in looked_up.tolist()]

    def any_picture(self) -> bytes:
        """Return one item's thumbnail, for trying the memory out.

        Raises:
            InvalidArgument: no item has one.
        """
        snapshot = self.snapshot()
        pictures = snapshot.pictures(np.arange(min(1, len(snapshot.rows))))[1]
        if not pictures or pictures[0] is None:
            raise InvalidArgument(f"{self.path} keeps no pictures of its items: give a memory built from pictures")
        return pictures[0]

    def build_index(self) -> str:
        """Make ready to answer now, and return the kind of index; otherwise the first search does."""
        return self.snapshot().index_kind

    def index_is_ready(self) -> bool:
        """Tell whether the first search can do without building an index, which may take minutes."""
        kind = choose_kind(self.settings.index, items=len(self))
        return kind == "exact" or load_stored(self.path / INDEX) is not None

    def stats(self) -> MemoryStats:
        """Return the memory in numbers."""
        return MemoryStats(
            items=len(self),
            labels=self.snapshot().label_counts(),
            embedder=self.settings.embedder.fingerprint,
            index=choose_kind(self.settings.index, items=len(self)),
            version=self.version,
            bytes_on_disk=self._table.bytes_on_disk(),
        )


def _reopen(
    kind: type[MemoryView], path: str, version: str, hidden: list[str], is_centred: bool, recipe: Recipe
) -> MemoryView:
    """Return what was pickled.

    Args:
        kind: of view.
        path: the memory's folder or address.
        version: its name, as `ItemTable.version_id` has it.
        hidden: ids of the items that it answers without.
        is_centred: whether the mean of its vectors is taken off.
        recipe: of its embedder.

    Raises:
        UnknownVersion: the version is not there any more.
        NotAMemory: there is no memory at the path.
    """
    folder = local_folder(path)
    table = ItemTable.open(folder)
    if table.version_id != version:
        table = table.at(int(version.partition("-")[0]))
    if table.version_id != version:
        raise UnknownVersion(f"{path} was made anew since this was pickled: open it, and pickle that")
    view = kind._of(folder, table, Embedding.by_recipe(table, folder, recipe), hidden)
    return view.centred() if is_centred else view
