"""A memory whose items can be edited: every edit is one version, and counts in the next search."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float

from retrieval.curation.prune_memory import Pruning, prune
from retrieval.curation.pruning import HARD_LIMIT, SOFT_OFFSET, SOFT_SCALE
from retrieval.disk import writing
from retrieval.editing import Editor
from retrieval.embedding import Embedding
from retrieval.errors import InvalidArgument, StorageError, UnknownItem
from retrieval.forgetting.deed import erase_items, is_pending
from retrieval.forgetting.erasing import dead_keys_of_ids
from retrieval.forgetting.receipts import Receipt
from retrieval.forgetting.traces import Traces
from retrieval.labels import asked_ids, stored_texts
from retrieval.snapshot import Snapshot
from retrieval.storage.history import Entry, find_undone
from retrieval.storage.places import address_of
from retrieval.storage.table import ItemTable
from retrieval.storage.versions import remove_tag, set_tag
from retrieval.view import MemoryView

KEPT_VERSIONS: Final = 20  # by `compact`: as many as `vmem memory history` shows


class EditableMemory(MemoryView):
    """The latest version of a memory, or the one opened or written last, and what makes the next."""

    def __init__(self, path: Path, table: ItemTable, embedding: Embedding) -> None:
        self._editor = Editor(table, path)
        super().__init__(path, table, embedding, self._editor.snapshot)

    @classmethod
    def _of(cls, path: Path, table: ItemTable, embedding: Embedding, hidden: list[str]) -> "EditableMemory":
        return cls(path, table, embedding)

    def snapshot(self, *, centred: bool = False) -> Snapshot:
        """Return the version opened or written last: its ids, labels and index."""
        self._view = self._editor.snapshot
        return super().snapshot(centred=centred)

    def refresh(self) -> bool:
        """Move on to the latest version, which another process may have written; tell whether there was one."""
        return self._editor.refresh()

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
        with self._editor.turn():
            slots = self._editor.select(ids=ids, label=label, where=where)
            self._editor.forget(slots)
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
            The receipt, which lies in the memory's folder too; `retrieval.forgetting.examining.verify` proves it again.

        Raises:
            UnknownItem, InvalidArgument: as for `forget`.
            StorageError: the disk refuses, or something is left.
        """
        if address := address_of(self.path):
            raise StorageError(f"{address} cannot be searched byte by byte: erase from a memory in a folder, or forget")
        ids = None if ids is None else asked_ids(ids)
        with self._editor.turn() as snapshot:
            try:
                slots = self._editor.select(ids=ids, label=label, where=where)
                keys = snapshot.rows.keys(slots)
            except UnknownItem:
                if ids is None:
                    raise
                found = snapshot.rows.find(ids)
                slots, gone = found[found >= 0], [id_ for id_, slot in zip(ids, found, strict=True) if slot < 0]
                keys = np.concatenate([snapshot.rows.keys(slots), dead_keys_of_ids(self.path, gone)])
            receipt = erase_items(self.path, keys, traces=traces, prove=prove, progress=progress)
            self._editor.follow(slots)
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
        with self._editor.turn() as snapshot:
            if isinstance(to, Mapping):
                slots, labels = snapshot.slots_of(list(to)), list(to.values())
                if len(np.unique(slots)) < len(slots):
                    raise InvalidArgument("two of the ids to relabel are one item's, spelt differently: give each once")
            else:
                slots = self._editor.select(ids=ids, label=label, where=where)
                labels = [to] * len(slots)
            self._editor.relabel(slots, stored_texts(labels, "label"))
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
        """Let items count less, or not at all, that mislead others too often (section 3.6).

        Arguments, result and errors are those of `retrieval.curation.prune_memory.prune`: nothing is written where
        leave-one-out accuracy would fall, nor without ``many`` where more than a fifth of the items would be touched.
        """
        return prune(
            self,
            method=method,
            dry_run=dry_run,
            many=many,
            paper=paper,
            neighbors=neighbors,
            limit=limit,
            scale=scale,
            offset=offset,
            progress=progress,
        )

    def set_reliability(self, values: Float[np.ndarray, " items"] | None, *, of: str | None = None) -> None:
        """Write down, as one version, how far each item can be relied on; its votes are multiplied by it.

        Args:
            values: in the order of ``snapshot().ids``, from 0 (takes no part any more) to 1; None to rely on all.
            of: the version that they were computed of (``snapshot().version``), which must still be the latest.

        Raises:
            InvalidArgument: other numbers, or as many as there are no items.
            StorageError: the memory was edited since, or the disk refuses.
        """
        with self._editor.turn() as snapshot:
            if of not in (None, snapshot.version):
                raise StorageError(f"{self.path} was edited while its items were examined: prune it again")
            if values is not None and not (len(values) == len(snapshot.rows) and ((values >= 0) & (values <= 1)).all()):
                raise InvalidArgument(f"a number from 0 to 1 for each of {len(snapshot.rows)} items expected")
            self._editor.set_reliability(values)

    def checkout(self, version: int | str) -> None:
        """Go back to an earlier version, by number or by tag: it is written anew as the latest, and nothing is lost.

        Raises:
            UnknownVersion: there is none, or none any more.
            StorageError: an erasure was cut off, whose items it might bring back; or the disk refuses.
        """
        with self._editor.turn():
            self._expect_no_erasure()
            self._editor.restore(version)

    def undo(self) -> Entry:
        """Take back the last command, with all versions that it made; return it.

        What the memory holds becomes what it was before, as a new version. Undoing again goes one command further back;
        `checkout` of the returned entry's ``number`` brings the command back, and can itself be undone. Compacting,
        which changes nothing that is held, is passed over.

        Raises:
            UnknownVersion: there is nothing to go back to, or what was erased would have to come back.
            StorageError: an erasure was cut off; or the disk refuses.
        """
        with self._editor.turn():
            self._expect_no_erasure()
            entry, before = find_undone(self._table)
            self._editor.restore(before, deed="undo")
        return entry

    def _expect_no_erasure(self) -> None:
        if is_pending(self.path):
            raise StorageError(
                f"{self.path} cannot go back while items are being erased, which an earlier version may hold:"
                f" `vmem memory forget {self.path} --resume` ends that"
            )

    def compact(self, *, keep: int = KEPT_VERSIONS) -> int:
        """Make a table of many small commits fast and small again; nothing that the memory holds changes.

        Small files are written together, and versions dropped: all but the last ``keep`` and those with a tag. Who
        reads one of them elsewhere has to open the memory anew.

        Returns:
            How many versions were dropped.

        Raises:
            InvalidArgument: ``keep`` below 1.
            StorageError: the disk refuses.
        """
        if keep < 1:
            raise InvalidArgument(f"keep={keep}: 1 or more versions expected, since the latest stays")
        return self._editor.compact(keep=keep)

    def tag(self, name: str, *, version: int | None = None) -> None:
        """Give a version, by default the one that is read, a name.

        Raises:
            InvalidArgument: a name that is none, or that another version has.
            UnknownVersion: there is no such version.
            StorageError: the disk refuses.
        """
        with self._editor.turn():
            number = self._table.at(self.version if version is None else version).version
            with writing(self.path):
                set_tag(self.path, name, number)

    def untag(self, name: str) -> None:
        """Take a name from its version.

        Raises:
            UnknownVersion: no version has it.
        """
        with self._editor.turn(), writing(self.path):
            remove_tag(self.path, name)
