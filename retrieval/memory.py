"""VisualMemory: labelled pictures that can be searched and edited."""

import itertools
import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

from retrieval.adding import AddReport, Embeds, add_items, add_vectors, list_unreadable
from retrieval.cluster.sharding import Shard
from retrieval.editable import EditableMemory
from retrieval.embedders import load_embedder
from retrieval.embedders.base import Embedder, EmbedderIdentity, expect_embedder
from retrieval.embedders.execution import Execution, Requested
from retrieval.embedders.int8 import Calibration
from retrieval.embedding import Embedding
from retrieval.errors import InvalidArgument, VisualMemoryWarning
from retrieval.folder import Item, as_item, as_text, list_labelled_files
from retrieval.forgetting.deed import is_pending
from retrieval.images import ImageLike
from retrieval.indexes import choose_kind
from retrieval.manifests import read_manifest
from retrieval.progress import track
from retrieval.settings import Settings
from retrieval.storage.commands import command
from retrieval.storage.history import going_on
from retrieval.storage.layout import PASSED_OVER, check_free
from retrieval.storage.places import local_folder
from retrieval.storage.table import ItemTable
from retrieval.vectors import VectorsLike
from retrieval.view import DEFAULT_NEIGHBORS

__all__ = ["DEFAULT_NEIGHBORS", "THUMBNAIL_PIXELS", "VisualMemory"]

THUMBNAIL_PIXELS: Final = 224


class VisualMemory(EditableMemory):
    """Labelled pictures as unit vectors in a Lance table, with an index over them.

        memory = VisualMemory.create("memory/", embedder="dinov2-vits14")
        memory.add_folder("photos/")
        memory.search("query.jpg", k=50)

    An object reads the version it opened or wrote last; every change on disk is atomic.
    """

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        embedder: str | Path | Embedder | EmbedderIdentity,
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
            path: a folder that is not there yet or empty; or an address such as ``s3://bucket/pets``, whose keys come
                from the environment.
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
        folder = local_folder(path)
        check_free(folder)
        if isinstance(embedder, str | Path):
            embedder = load_embedder(str(embedder), **requested.to_dict(), calibration=Calibration(calibration))
        offered = None if isinstance(embedder, EmbedderIdentity) else expect_embedder(embedder)
        settings = Settings(
            embedder.identity if not isinstance(embedder, EmbedderIdentity) else embedder,
            index,
            thumbnail_pixels,
            built_from,
            executions=(offered.execution,) if offered else (),
        )
        table = ItemTable.create(folder, settings)
        return cls(folder, table, Embedding(table, folder, offered, requested, cache=cache))

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        embedder: str | Path | Embedder | None = None,
        device: str = "auto",
        backend: str = "auto",
        precision: str = "auto",
        calibration: Iterable[ImageLike] = (),
        cache: bool = True,
    ) -> "VisualMemory":
        """Open a memory; its embedder is loaded when a picture first needs it.

        Args:
            path: the memory's folder or address.
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
        folder = local_folder(path)
        table = ItemTable.open(folder)
        if is_pending(folder):
            warnings.warn(
                f"items of {path} are being erased, or that was cut off: `vmem memory forget {path} --resume` goes on",
                VisualMemoryWarning,
                stacklevel=2,
            )
        embedding = Embedding(table, folder, embedder, requested, calibration=calibration, cache=cache)
        return cls(folder, table, embedding)

    def add(
        self,
        items: Iterable[Item | tuple[str, str, ImageLike]],
        *,
        on_duplicate: str = "skip",
        embedded_by: Embeds | None = None,
    ) -> AddReport:
        """Remember pictures; they take part in the next search.

        Args:
            items: `Item` or (id, label, image), from any iterable; only a few batches are held at a time.
            on_duplicate: what to do with an id that is there already: ``skip`` it, so that a run that was cut off can
                simply be run again; ``replace`` the item; or stop with an ``error``.
            embedded_by: what embeds the pictures instead of the memory's own embedder here, such as a
                `retrieval.cluster.ray_embedding.RayEmbedding` of the same model on a cluster.

        Returns:
            How many were added, replaced and skipped, and the pictures that could not be read, each with the reason.

        Raises:
            DuplicateId: with ``error``; batches committed before stay.
            InvalidArgument: an id or a label that is no text.
            StorageError: the disk refuses.
        """
        as_items = (item if isinstance(item, Item) else as_item(item) for item in items)
        with command("add"):
            return add_items(self._editor, embedded_by or self._embedding, as_items, on_duplicate=on_duplicate)

    def add_folder(
        self,
        folder: str | Path,
        *,
        on_duplicate: str = "skip",
        id_prefix: str = "",
        shard: Shard | None = None,
        embedded_by: Embeds | None = None,
        progress: bool = True,
    ) -> AddReport:
        """Remember a folder laid out as ``<label>/<image>``; ids are the paths below it, after ``id_prefix``.

        With a ``shard`` only that part of it, others being added by other processes or machines at the same time.
        Files that are no usable pictures are passed over and listed in the memory's ``unreadable.tsv``.

        Raises:
            FolderError: the folder is missing or not laid out so.
            DuplicateId, StorageError: as for `add`.
        """
        files = list_labelled_files(folder)
        files = list(shard.pick(files)) if shard else files
        items = (Item(file.id, file.label, file.path, file.source) for file in files)
        with going_on(self.path, "add", f"{as_text(folder)} {id_prefix}"):
            return self._add_listed(items, len(files), on_duplicate, id_prefix, shard, embedded_by, progress)

    def add_manifest(
        self,
        manifest: str | Path,
        *,
        on_duplicate: str = "skip",
        id_prefix: str = "",
        shard: Shard | None = None,
        embedded_by: Embeds | None = None,
        progress: bool = True,
    ) -> AddReport:
        """Remember the pictures of a CSV, JSONL or Parquet file (`retrieval.manifests`), as `add_folder` does.

        Raises:
            FolderError: no such file, or a row that cannot be used; nothing was added.
            DuplicateId, StorageError: as for `add`.
        """
        listed = read_manifest(manifest, progress=progress)
        items = itertools.islice(listed, shard.number - 1, None, shard.count) if shard else iter(listed)
        count = -(-(len(listed) - shard.number + 1) // shard.count) if shard else len(listed)
        with going_on(self.path, "add", f"{as_text(manifest)} {id_prefix}"):
            return self._add_listed(items, count, on_duplicate, id_prefix, shard, embedded_by, progress)

    def _add_listed(
        self,
        items: Iterable[Item],
        count: int,
        on_duplicate: str,
        id_prefix: str,
        shard: Shard | None,
        embedded_by: Embeds | None,
        progress: bool,
    ) -> AddReport:
        prefix = as_text(id_prefix)
        prefixed = (replace(item, id=prefix + item.id) for item in items)
        shown = track(prefixed, "Embedding", total=count, shown=progress)
        report = self.add(shown, on_duplicate=on_duplicate, embedded_by=embedded_by)
        listing = self.path / PASSED_OVER
        list_unreadable(shard.name(listing) if shard else listing, report.unreadable)
        return report

    def add_vectors(
        self,
        ids: Iterable[str],
        labels: Iterable[str],
        vectors: VectorsLike,
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
        return add_vectors(self._editor, ids, labels, vectors, on_duplicate=on_duplicate, made_by=made_by)
