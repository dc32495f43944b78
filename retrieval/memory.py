"""VisualMemory: labelled pictures that can be searched and edited."""

import logging
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import Float, Int

from retrieval.cluster import Shard
from retrieval.curation.pruning import HARD_LIMIT, SOFT_OFFSET, SOFT_SCALE, Pruning, find_pruning
from retrieval.edits import (
    AddReport,
    Embeds,
    batch_of_vectors,
    check_choice,
    duplicate,
    gather_commits,
    list_unreadable,
    pick_new,
)
from retrieval.embedders import load_embedder
from retrieval.embedders.base import Calibration, Embedder, EmbedderIdentity, Execution, Requested, expect_embedder
from retrieval.embedding import Embedding
from retrieval.erasing.erase import erase_items, keys_of_ids
from retrieval.erasing.files import clear_indexes, keep_account
from retrieval.erasing.receipts import Receipt
from retrieval.erasing.traces import Traces
from retrieval.errors import IndexUnavailable, InvalidArgument, StorageError, UnknownItem, VisualMemoryWarning
from retrieval.images import ImageLike
from retrieval.indexes import choose_kind
from retrieval.labels import asked_ids, stored_texts
from retrieval.sources import Item, as_item, as_text, list_labelled_files, read_manifest
from retrieval.storage.history import Entry, find_undone
from retrieval.storage.places import (
    PASSED_OVER,
    address_of,
    check_free,
    erasure_notes,
    local_folder,
    writer_lock,
    writing,
)
from retrieval.storage.table import (
    ItemBatch,
    ItemTable,
    append,
    command,
    compact,
    record,
    replace_rows,
    restore,
    set_reliability,
    to_arrow,
)
from retrieval.storage.versions import remove_tag, set_tag
from retrieval.support.terminal import track
from retrieval.types import Settings
from retrieval.vectors import VectorsLike
from retrieval.version import Snapshot
from retrieval.view import MemoryView

if TYPE_CHECKING:
    import pyarrow

KEPT_VERSIONS: Final = 20  # by `compact`: as many as `vmem memory history` shows
THUMBNAIL_PIXELS: Final = 224

_logger = logging.getLogger(__name__)


class VisualMemory(MemoryView):
    """Labelled pictures as unit vectors in a Lance table, with an index over them.

        memory = VisualMemory.create("memory/", embedder="dinov2-vits14")
        memory.add_folder("photos/")
        memory.search("query.jpg", k=50)

    An object reads the version it opened or wrote last; every change on disk is atomic.
    """

    def __init__(self, path: Path, table: ItemTable, embedding: Embedding) -> None:
        super().__init__(path, table, embedding, Snapshot(table, path))
        self._advancing = threading.RLock()  # held while table and snapshot are not of the same version

    @classmethod
    def _of(cls, path: Path, table: ItemTable, embedding: Embedding, hidden: list[str]) -> "VisualMemory":
        return cls(path, table, embedding)

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
            EmbedderError: the embedder cannot be loaded, or is another one than the memory's.
            InvalidArgument: an option has a value that it cannot have.
            StorageError: the memory cannot be read or written.
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
        if erasure_notes(folder):
            warnings.warn(
                f"items of {path} are being erased, or that was cut off: `vmem memory forget {path} --resume` goes on",
                VisualMemoryWarning,
                stacklevel=2,
            )
        embedding = Embedding(table, folder, embedder, requested, calibration=calibration, cache=cache)
        return cls(folder, table, embedding)

    def refresh(self) -> bool:
        """Move on to the latest version, which another process may have written; tell whether there was one."""
        with self._advancing:
            moved = self._table.refresh()
            if moved:
                self._reopen()
        return moved

    @contextmanager
    def turn(self) -> Iterator[Snapshot]:
        """Wait for the right to write, and move on to the latest version; what is written then is one command.

        Raises:
            MemoryBusy: another writer holds it for long.
            StorageError: the folder cannot be written.
        """
        with writer_lock(self.path), self._advancing, command():
            self.refresh()
            yield self._snapshot

    def _reopen(self) -> None:
        self._snapshot = Snapshot(self._table, self.path)

    def _advance(self, dead: Int[np.ndarray, " dead"], new: "pyarrow.Table") -> None:
        self._snapshot = self._snapshot.changed(self._table, dead, new)

    def _replace(
        self, snapshot: Snapshot, slots: Int[np.ndarray, " gone"], rows: "pyarrow.Table | None", *, named: str
    ) -> None:
        """Replace items of the version that `turn` gave; the present one may have others since `record`."""
        if len(slots):
            addresses = snapshot.rows.addresses(slots)
            self._advance(slots, replace_rows(self._table, addresses, rows, edit=named))

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
                `retrieval.cluster.RayEmbedding` of the same model on a cluster.

        Returns:
            How many were added, replaced and skipped, and the pictures that could not be read, each with the reason.

        Raises:
            DuplicateId: with ``error``; batches committed before stay.
            InvalidArgument: an id or a label that is no text.
            StorageError: the disk refuses.
        """
        check_choice(on_duplicate)
        report, embeds = AddReport(), embedded_by or self._embedding
        as_items = (item if isinstance(item, Item) else as_item(item) for item in items)
        with command("add"):
            self.refresh()
            wanted = pick_new(as_items, lambda ids: self._snapshot.rows.find(ids) >= 0, on_duplicate, report)
            pixels = self.settings.thumbnail_pixels
            batches = embeds.stream(wanted, image_of=lambda item: item.image, thumbnail_pixels=pixels)
            for batch in gather_commits(batches, report):
                report.count(self._put(batch, on_duplicate=on_duplicate, made_by=embeds.made_how()))
        return report

    def _put(self, batch: ItemBatch, *, on_duplicate: str, made_by: Execution | None = None) -> AddReport:
        """Add items whose ids differ from one another, as one version."""
        with self.turn() as snapshot:
            slots = snapshot.rows.find(list(batch.ids))
            there = slots >= 0
            rows = to_arrow(batch, self._table.dataset.schema)
            if on_duplicate == "error" and there.any():
                raise duplicate([id_ for id_, known in zip(batch.ids, there, strict=True) if known])
            if on_duplicate == "skip":
                rows, slots = rows.filter(~there), slots[:0]
            if made_by and len(rows) and made_by not in self.settings.executions:
                record(self._table, made_by)
                self._advance(slots[:0], self._table.light_columns(fragments=[]))
            dead = slots[slots >= 0]
            if len(dead):
                self._replace(snapshot, dead, rows, named="replace")
            elif len(rows):
                self._advance(dead, append(self._table, rows))
        return AddReport(len(rows) - len(dead), len(dead), len(there) - len(rows))

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
        items = (Item(file.id, file.label, file.path, file.source) for file in files)
        return self._add_listed(folder, items, len(files), on_duplicate, id_prefix, shard, embedded_by, progress)

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
        """Remember the pictures of a CSV, JSONL or Parquet file (`retrieval.sources`), as `add_folder` does.

        Raises:
            FolderError: no such file, or a row that cannot be used; nothing was added.
            DuplicateId, StorageError: as for `add`.
        """
        items = read_manifest(manifest, progress=progress)
        return self._add_listed(manifest, items, len(items), on_duplicate, id_prefix, shard, embedded_by, progress)

    def _add_listed(
        self,
        source: str | Path,
        items: Iterable[Item],
        count: int,
        on_duplicate: str,
        id_prefix: str,
        shard: Shard | None,
        embedded_by: Embeds | None,
        progress: bool,
    ) -> AddReport:
        listing, prefix = self.path / PASSED_OVER, as_text(id_prefix)
        if shard:
            items, count, listing = shard.stream(items), shard.size(count), shard.name(listing)
        prefixed = (replace(item, id=prefix + item.id) for item in items)
        with command("add", folder=self.path, what=f"{as_text(source)} {id_prefix}"):
            shown = track(prefixed, "Embedding", total=count, shown=progress)
            report = self.add(shown, on_duplicate=on_duplicate, embedded_by=embedded_by)
            list_unreadable(listing, report.unreadable)
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
        batch, skipped = batch_of_vectors(ids, labels, vectors, self.settings.embedder.dimension, on_duplicate)
        report = AddReport(skipped=skipped)
        if batch is not None:
            report.count(self._put(batch, on_duplicate=on_duplicate, made_by=made_by))
        return report

    def forget(self, *, ids: Iterable[str] | None = None, label: str | None = None, where: str | None = None) -> int:
        """Take items out of every decision from now on, as one version (section 3.4); return how many.

        They stay in earlier versions and in files on disk: `erase` leaves nothing of them.

        Args:
            ids: of the items.
            label: of all of them.
            where: an SQL condition on id, label and source, such as ``"source LIKE '%/march/%'"``.

        Raises:
            UnknownItem: ids that are not there, or nothing that has the label; nothing was changed.
            InvalidArgument: none or several of the three, or a condition that is none.
            StorageError: the disk refuses.
        """
        with self.turn() as snapshot:
            slots = snapshot.select(ids=ids, label=label, where=where)
            self._replace(snapshot, slots, None, named="forget")
        return len(slots)

    def erase(
        self,
        *,
        ids: Iterable[str] | None = None,
        label: str | None = None,
        where: str | None = None,
        traces: Sequence[Traces] | None = None,
        prove: bool = True,
        progress: bool = True,
    ) -> Receipt:
        """Leave nothing of some items on disk, in no version, and prove it (section 3.4).

        Versions that held them go, and the tags on those (`plan_erasure` tells which before). What a killed run began
        is finished by the next one.

        Args:
            ids: of the items, also of those that were forgotten before.
            label: of all of them, as for `forget`.
            where: an SQL condition on id, label and source.
            traces: where else something of them may be kept; None for every place: the features that are kept by
                picture, and the models' replies.
            prove: whether to search every file for what is left, which takes as long as reading them; not to leaves
                that to the proof by the receipt, and reads no more of the items that stay than their keys.
            progress: whether to show bars.

        Returns:
            The receipt, which lies in the memory's folder too; `retrieval.erasing.receipts.verify` proves it again.

        Raises:
            UnknownItem, InvalidArgument: as for `forget`.
            StorageError: the disk refuses, or something is left.
        """
        if address := address_of(self.path):
            raise StorageError(f"{address} cannot be searched byte by byte: erase from a memory in a folder, or forget")
        ids = None if ids is None else asked_ids(ids)
        with self.turn() as snapshot:
            try:
                slots = snapshot.select(ids=ids, label=label, where=where)
                keys = snapshot.rows.keys(slots)
            except UnknownItem:
                if ids is None:
                    raise
                found = snapshot.rows.find(ids)
                slots, gone = found[found >= 0], [id_ for id_, slot in zip(ids, found, strict=True) if slot < 0]
                keys = np.concatenate([snapshot.rows.keys(slots), keys_of_ids(self.path, gone, living=False)])
            receipt = erase_items(self.path, keys, traces=traces, prove=prove, progress=progress)
            living = len(self._table) - len(slots)
            if self._table.refresh() and len(self._table) == living:
                self._advance(slots, self._table.light_columns(fragments=[]))
            else:  # others, whose erasure had been cut off, went with them
                self._reopen()
        return receipt

    def relabel(
        self,
        to: str | Mapping[str, str],
        *,
        ids: Iterable[str] | None = None,
        label: str | None = None,
        where: str | None = None,
    ) -> int:
        """Give items another label, known or new, as one version (section 3.1); return how many.

        Args:
            to: the label for the items that the others choose as in `forget`; or each item's label by id.
            ids: of the items.
            label: that all of them have now.
            where: an SQL condition on id, label and source.

        Raises:
            UnknownItem, InvalidArgument, StorageError: as for `forget`.
        """
        import pyarrow as pa

        with self.turn() as snapshot:
            if isinstance(to, Mapping):
                slots, labels = snapshot.slots_of(list(to)), list(to.values())
                if len(np.unique(slots)) < len(slots):
                    raise InvalidArgument("two of the ids to relabel are one item's, spelt differently: give each once")
            else:
                slots = snapshot.select(ids=ids, label=label, where=where)
                labels = [to] * len(slots)
            rows = self._table.take_at(snapshot.rows.addresses(slots))
            place = rows.column_names.index("label")
            texts = pa.array(stored_texts(labels, "label"), pa.string())
            rows = rows.set_column(place, rows.schema.field(place), texts)
            self._replace(snapshot, slots, rows, named="relabel")
        return len(slots)

    def prune(
        self,
        *,
        method: str = "soft",
        dry_run: bool = False,
        many: bool = False,
        paper: bool = False,
        neighbors: int | None = None,
        limit: int = HARD_LIMIT,
        scale: float = SOFT_SCALE,
        offset: float = SOFT_OFFSET,
        progress: bool = True,
    ) -> Pruning:
        """Give every item a reliability from how often it misleads others, as one version (section 3.6, appendix I).

        Nothing is written where leave-one-out accuracy would fall, or where more than a fifth of the items would be
        touched and ``many`` does not allow it. `set_reliability` with None undoes it.

        Args:
            method: ``soft``: an item that hurts v times votes with scale / (offset + v) of its weight. ``hard``: one
                that hurts ``limit`` times or more has no vote and is not found any more.
            dry_run: whether to look only, and write nothing.
            many: whether more than a fifth of the items may be touched.
            paper: whether all neighbours count, as in the paper, and not only as many as half the class of the item
                asked about: in small classes that blames items for the size of the class.
            neighbors: with which each item is asked about; None: 10 for soft and 100 for hard pruning, as in the
                release.
            limit: of hard pruning.
            scale: of soft pruning, d in the paper; a reliability above 1 counts as 1.
            offset: of soft pruning, c in the paper.
            progress: whether to show bars.

        Raises:
            InvalidArgument: no such method, a figure out of range, fewer than two items, or hard pruning leaves none.
            PruningRefused: it would do harm, or touch many items.
            StorageError: the memory was edited meanwhile, or the disk refuses.
        """
        found = find_pruning(
            self.snapshot(),
            method=method,
            paper=paper,
            neighbors=neighbors,
            limit=limit,
            scale=scale,
            offset=offset,
            progress=progress,
        )
        return found if dry_run else self.write_pruning(found, many=many)

    def write_pruning(self, found: Pruning, *, many: bool = False) -> Pruning:
        """Write what a dry run of `prune` found, as one version, and return it as written.

        Raises:
            PruningRefused: leave-one-out accuracy would fall, or more than a fifth of the items be touched and ``many``
                not allow it; nothing is written.
            StorageError: the memory was edited since, or the disk refuses.
        """
        found.expect_harmless(self.path, many=many)
        if found.changes:
            self.set_reliability(found.reliability, of=found.version)
        return replace(found, written=found.changes)

    def set_reliability(self, values: Float[np.ndarray, " items"] | None, *, of: str | None = None) -> None:
        """Write down, as one version, how far each item can be relied on; its votes are multiplied by it.

        Args:
            values: in the order of ``snapshot().ids``, from 0 (takes no part any more) to 1; None to rely on all.
            of: the version that they were computed of (``snapshot().version``), which must still be the latest.

        Raises:
            InvalidArgument: other numbers, or as many as there are no items.
            StorageError: the memory was edited since, or the disk refuses.
        """
        with self.turn() as snapshot:
            if of not in (None, snapshot.version):
                raise StorageError(f"{self.path} was edited while its items were examined: prune it again")
            if values is not None and not (len(values) == len(snapshot.rows) and ((values >= 0) & (values <= 1)).all()):
                raise InvalidArgument(f"a number from 0 to 1 for each of {len(snapshot.rows)} items expected")
            set_reliability(self._table, values)
            self._reopen()

    def checkout(self, version: int | str) -> None:
        """Go back to an earlier version, by number or by tag: it is written anew as the latest, and nothing is lost.

        Raises:
            UnknownVersion: there is none, or none any more.
            StorageError: an erasure was cut off, whose items it might bring back; or the disk refuses.
        """
        with self.turn():
            self._expect_no_erasure()
            self._restore(version, named="checkout")

    def undo(self) -> Entry:
        """Take back the last command, with all versions that it made; return it.

        What the memory holds becomes what it was before, as a new version. Undoing again goes one command further back;
        `checkout` of the returned entry's ``number`` brings the command back, and can itself be undone. Compacting,
        which changes nothing that is held, is passed over.

        Raises:
            UnknownVersion: there is nothing to go back to, or what was erased would have to come back.
            StorageError: an erasure was cut off; or the disk refuses.
        """
        with self.turn():
            self._expect_no_erasure()
            entry, before = find_undone(self._table)
            self._restore(before, named="undo")
        return entry

    def _restore(self, version: int | str, *, named: str) -> None:
        restore(self._table, version, edit=named)
        self._reopen()

    def _expect_no_erasure(self) -> None:
        if erasure_notes(self.path):
            raise StorageError(
                f"{self.path} cannot go back while items are being erased, which an earlier version may hold:"
                f" `vmem memory forget {self.path} --resume` ends that"
            )

    def compact(self, *, keep: int = KEPT_VERSIONS) -> int:
        """Make a table of many small commits fast and small again; nothing that the memory holds changes.

        Small files are written together, and versions dropped: all but the last ``keep`` and those with a tag. Who
        reads one of them elsewhere has to open the memory anew. What the index holds of items that no version has any
        more goes too.

        Returns:
            How many versions were dropped.

        Raises:
            InvalidArgument: ``keep`` below 1.
            StorageError: the disk refuses.
        """
        if keep < 1:
            raise InvalidArgument(f"keep={keep}: 1 or more versions expected, since the latest stays")
        with self.turn():
            dropped = compact(self._table, keep=keep, before_dropping=keep_account)
            try:
                clear_indexes(self._table)
            except IndexUnavailable as error:  # an erasure, or the next time, finds the same by their keys
                _logger.warning("Items that are in no version any more stay in the index: %s", error)
            self._reopen()
        return dropped

    def tag(self, name: str, *, version: int | None = None) -> None:
        """Give a version, by default the one that is read, a name.

        Raises:
            InvalidArgument: a name that is none, or that another version has.
            UnknownVersion: there is no such version.
            StorageError: the disk refuses.
        """
        with self.turn():
            number = self._table.at(self.version if version is None else version).version
            with writing(self.path):
                set_tag(self.path, name, number)

    def untag(self, name: str) -> None:
        """Take a name from its version.

        Raises:
            UnknownVersion: no version has it.
        """
        with self.turn(), writing(self.path):
            remove_tag(self.path, name)
