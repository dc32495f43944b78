"""VisualMemory: labelled pictures that can be searched and edited."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
from jaxtyping import Float

from retrieval.adding import UNREADABLE, AddReport, Item, add_items, add_vectors, as_item, list_unreadable
from retrieval.embedders import load_embedder
from retrieval.embedders.base import Embedder, EmbedderIdentity
from retrieval.embedders.execution import Execution, Requested
from retrieval.embedders.int8 import Calibration
from retrieval.embedding import Embedding
from retrieval.errors import InvalidArgument
from retrieval.folder import as_text, list_labelled_files
from retrieval.images import ImageLike
from retrieval.indexes import choose_kind
from retrieval.pipeline import EmbeddedBatch
from retrieval.progress import track
from retrieval.settings import Settings
from retrieval.snapshot import Snapshot, check_neighbors
from retrieval.table import ItemTable, check_free
from retrieval.types import MemoryStats, Neighbors
from retrieval.vectors import to_unit_vectors

Query = TypeVar("Query")
THUMBNAIL_PIXELS: Final = 224
DEFAULT_NEIGHBORS: Final = 50  # the paper's k


class VisualMemory:
    """Labelled pictures as unit vectors in a Lance table, with an index over them.

        memory = VisualMemory.create("memory/", embedder="dinov2-vits14")
        memory.add_folder("photos/")
        memory.search("query.jpg", k=50)

    An object reads the version it opened or wrote last; every change on disk is atomic.
    """

    def __init__(self, path: Path, table: ItemTable, embedding: Embedding) -> None:
        self.path = path
        self._table = table
        self._embedding = embedding
        self._snapshot = Snapshot(table, path)

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        embedder: str | Embedder | EmbedderIdentity,
        index: str = "auto",
        device: str = "auto",
        backend: str = "auto",
        precision: str = "auto",
        calibration: Iterable[ImageLike] = (),
        cache: bool = True,
        thumbnail_pixels: int = THUMBNAIL_PIXELS,
        built_from: str = "",
    ) -> "VisualMemory":
        """Make an empty memory.

        Args:
            path: a folder that is not there yet or empty.
            embedder: a name or folder as `load_embedder` takes it, an embedder, or, for vectors made elsewhere,
                `foreign_vectors(name, dimension)`.
            index: ``exact``, ``scann``, or ``auto`` to choose by size.
            device: where a named embedder runs: ``auto``, ``cpu``, ``cuda`` or ``mps``.
            backend: what runs it: ``auto``, ``torch`` or ``openvino``.
            precision: ``auto``, ``float32``, ``bfloat16``, ``float16`` or ``int8``; see `load_embedder`.
            calibration: pictures like those to come, for int8 to take its ranges from.
            cache: whether to look up and keep features by picture, in a cache that all memories share.
            thumbnail_pixels: longest side of the thumbnails that are kept for people and for the second stage.
            built_from: the folder or file it is built from, for a later run to go on with.

        Raises:
            MemoryExists: there is one already.
            EmbedderError, InvalidArgument, StorageError: as their names say.
        """
        choose_kind(index, items=0)
        if thumbnail_pixels < 1:
            raise InvalidArgument(f"thumbnail_pixels={thumbnail_pixels}: 1 or more expected")
        requested = Requested(device, backend, precision)
        check_free(Path(path))
        if isinstance(embedder, str):
            embedder = load_embedder(embedder, **requested.to_dict(), calibration=Calibration(calibration))
        offered = None if isinstance(embedder, EmbedderIdentity) else embedder
        settings = Settings(
            embedder.identity if not isinstance(embedder, EmbedderIdentity) else embedder,
            index,
            thumbnail_pixels,
            built_from,
            executions=(offered.execution,) if offered else (),
        )
        table = ItemTable.create(Path(path), settings)
        return cls(Path(path), table, Embedding(table, Path(path), offered, requested, cache=cache))

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        embedder: str | Embedder | None = None,
        device: str = "auto",
        backend: str = "auto",
        precision: str = "auto",
        calibration: Iterable[ImageLike] = (),
        cache: bool = True,
    ) -> "VisualMemory":
        """Open a memory; its embedder is loaded when a picture first needs it.

        Args:
            path: the memory's folder.
            embedder: an embedder to use, or where to load it, when the place recorded in the memory is no longer
                right. It must be the same model.
            device: where the embedder runs: ``auto``, ``cpu``, ``cuda`` or ``mps``.
            backend: what runs it: ``auto``, ``torch`` or ``openvino``.
            precision: ``auto``, ``float32``, ``bfloat16``, ``float16`` or ``int8``. It need not be the one that the
                memory was made with; where int8 meets another one, a warning says how far they differ.
            calibration: pictures for int8, where they are not to be the memory's own thumbnails.
            cache: whether to look up and keep features by picture, in a cache that all memories share.

        Raises:
            NotAMemory: there is no memory at the path.
            EmbedderMismatch: the memory was built by another embedder.
            InvalidArgument: an unknown device, backend or precision.
        """
        requested = Requested(device, backend, precision)
        table = ItemTable.open(Path(path))
        embedding = Embedding(table, Path(path), embedder, requested, calibration=calibration, cache=cache)
        return cls(Path(path), table, embedding)

    def __len__(self) -> int:
        return len(self._table)

    def __repr__(self) -> str:
        return f"VisualMemory({str(self.path)!r}, items={len(self)}, embedder={self.settings.embedder.name!r})"

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

    def add(self, items: Iterable[Item | tuple[str, str, ImageLike]], *, on_duplicate: str = "skip") -> AddReport:
        """Remember pictures; they take part in the next search.

        Args:
            items: `Item` or (id, label, image), from any iterable; only a few batches are held at a time.
            on_duplicate: what to do with an id that is there already: ``skip`` it, so that a run that was cut off can
                simply be run again; ``replace`` the item; or stop with an ``error``.

        Returns:
            How many were added, replaced and skipped, and the pictures that could not be read, each with the reason.

        Raises:
            DuplicateId: with ``error``; batches committed before stay.
            InvalidArgument: an id or a label that is no text.
            StorageError: the disk refuses.
        """
        as_items = (item if isinstance(item, Item) else as_item(item) for item in items)
        return add_items(self._table, self._embedding, as_items, on_duplicate=on_duplicate)

    def add_folder(
        self, folder: str | Path, *, on_duplicate: str = "skip", id_prefix: str = "", progress: bool = True
    ) -> AddReport:
        """Remember a folder laid out as ``<label>/<image>``; ids are the paths below it, after ``id_prefix``.

        Files that are no usable pictures are passed over and listed in the memory's ``unreadable.tsv``.

        Raises:
            FolderError: the folder is missing or not laid out so.
            DuplicateId, StorageError: as for `add`.
        """
        files = list_labelled_files(folder)
        prefix = as_text(id_prefix)
        items = (Item(prefix + file.id, file.label, file.path, file.source) for file in files)
        report = self.add(track(items, "Embedding", total=len(files), shown=progress), on_duplicate=on_duplicate)
        list_unreadable(self.path / UNREADABLE, report.unreadable)
        return report

    def add_vectors(
        self,
        ids: Sequence[str],
        labels: Sequence[str],
        vectors: Float[np.ndarray, "items dimension"],
        *,
        on_duplicate: str = "skip",
        made_by: Execution | None = None,
    ) -> AddReport:
        """Remember ready features, as one version of the table; they are scaled to length 1.

        ``made_by`` is recorded where it is known how the memory's own embedder ran to make them.

        Raises:
            InvalidArgument: lengths that differ, another dimension, ids or labels that are no text, or a vector that
                is zero or not finite.
            DuplicateId: with ``error``; nothing was added.
            StorageError: the disk refuses.
        """
        return add_vectors(self._table, ids, labels, vectors, on_duplicate=on_duplicate, made_by=made_by)

    def search(self, *images: ImageLike, k: int = DEFAULT_NEIGHBORS) -> Neighbors:
        """Return the neighbours of some pictures, nearest first; ``[i]`` of the result are those of picture ``i``.

        Raises:
            ImageError: a picture cannot be used.
            InvalidArgument: k below 1, or an empty memory.
            EmbedderError: the embedder cannot be had.
        """
        check_neighbors(k)
        return self.search_vectors(self.embed(images), k=k)

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
        self, items: Iterable[Query], *, image_of: Callable[[Query], ImageLike]
    ) -> Iterator[EmbeddedBatch[Query]]:
        """Yield any number of things in batches, with the vectors of their pictures, in order.

        A picture that cannot be used is among the batch's ``failures``.

        Raises:
            EmbedderError: the embedder cannot be had.
        """
        return self._embedding.stream(items, image_of=image_of)

    def search_vectors(
        self, vectors: Float[np.ndarray, "queries dimension"], *, k: int = DEFAULT_NEIGHBORS
    ) -> Neighbors:
        """Return the neighbours of some vectors, nearest first; they are scaled to length 1.

        A ``k`` above the size of the memory gives every item, with a warning.

        Raises:
            InvalidArgument: k below 1, an empty memory, another dimension, a zero or non-finite vector.
        """
        return self.snapshot().search(to_unit_vectors(vectors, dimension=self.settings.embedder.dimension), k)

    def thumbnails(self, ids: Sequence[str], *, rows: Sequence[int] | None = None) -> list[bytes | None]:
        """Return the JPEG thumbnails of some items; None for those without one, and for ids that are not there.

        Args:
            ids: the items.
            rows: where a search found them (`Neighbor.row`), which saves looking through every id. Rows that have
                moved since are noticed.
        """
        if rows is not None and all(row < len(self) for row in rows):
            found, pictures = self._table.thumbnails(np.array(rows, np.int64))
            if found == list(ids):
                return pictures
        looked_up = self.snapshot().rows_of(ids)
        there = looked_up[looked_up >= 0]
        by_row = dict(zip(there.tolist(), self._table.thumbnails(there)[1], strict=True))
        return [by_row.get(row) for row in looked_up.tolist()]

    def any_picture(self) -> bytes:
        """Return one item's thumbnail, for trying the memory out.

        Raises:
            InvalidArgument: no item has one.
        """
        pictures = self._table.thumbnails(np.arange(min(1, len(self))))[1]
        if not pictures or pictures[0] is None:
            raise InvalidArgument(f"{self.path} keeps no pictures of its items: give a memory built from pictures")
        return pictures[0]

    def build_index(self) -> str:
        """Build the index now, unless a saved one fits, and return its kind; otherwise the next search does."""
        return self.snapshot().index.kind

    def has_saved_index(self) -> bool:
        """Tell whether a sound index of this version lies on disk, so that a search need not build one."""
        return self.snapshot().saved_index() is not None

    def stats(self) -> MemoryStats:
        """Return the memory in numbers."""
        return MemoryStats(
            items=len(self),
            labels=self._table.label_counts(),
            embedder=self.settings.embedder.fingerprint,
            index=choose_kind(self.settings.index, items=len(self)),
            version=self.version,
            bytes_on_disk=self._table.bytes_on_disk(),
        )

    def snapshot(self, *, centred: bool = False) -> Snapshot:
        """Return the version that is read: its ids, labels and index; ``centred`` for one without its mean."""
        if centred:
            return Snapshot(self._table, self.path, centred=True)
        snapshot = self._snapshot
        if snapshot.version != self._table.version_id:
            snapshot = self._snapshot = Snapshot(self._table, self.path)
        return snapshot
