"""Edits made through the pages of one server, and the way back from the last of them."""

import threading
from dataclasses import dataclass
from datetime import datetime

from retrieval.errors import StorageError
from retrieval.labels import full_name
from retrieval.memory import VisualMemory


@dataclass(frozen=True, slots=True)
class Edit:
    """One edit that was made here."""

    words: str  # what was done, untrusted names included
    before: int  # the version that undoing goes back to
    when: datetime


class Edits:
    """Edits one after the other, each one version; the last that was not undone can be."""

    def __init__(self, memory: VisualMemory) -> None:
        self._memory = memory
        self._made: list[Edit] = []
        self._left_at = 0  # the version that the last edit or undoing of ours made
        self._turn = threading.RLock()

    @property
    def made(self) -> tuple[Edit, ...]:
        """The edits that were not undone, oldest first."""
        return tuple(self._made)

    def relabel(self, item_id: str, label: str) -> Edit:
        """Give an item another label, known or new.

        Raises:
            UnknownItem, InvalidArgument, StorageError: as for `VisualMemory.relabel`.
        """
        with self._turn:
            before = self._latest()
            self._memory.relabel(label, ids=[item_id])
            return self._note(f"{item_id} relabelled {full_name(label)}", before)

    def forget(self, item_id: str) -> Edit:
        """Take an item out of every decision.

        Raises:
            UnknownItem, StorageError: as for `VisualMemory.forget`.
        """
        with self._turn:
            before = self._latest()
            self._memory.forget(ids=[item_id])
            return self._note(f"{item_id} forgotten", before)

    def undo(self) -> Edit:
        """Go back to before the last edit, by its version, and return that edit.

        Raises:
            StorageError: there is none, somebody else edited the memory since, or the disk refuses.
            UnknownVersion: the version is gone, by `compact` or `erase`.
        """
        with self._turn:
            if not self._made:
                raise StorageError(
                    "nothing was edited here that could be undone: `vmem memory checkout` goes back further"
                )
            if self._latest() != self._left_at:
                raise StorageError(
                    f"the memory was edited elsewhere since, which going back would undo too: `vmem memory checkout"
                    f" {self._memory.path} {self._made[-1].before}` does that all the same"
                )
            self._memory.checkout(self._made[-1].before)
            self._left_at = self._memory.version
            return self._made.pop()

    def _latest(self) -> int:
        self._memory.refresh()
        return self._memory.version

    def _note(self, words: str, before: int) -> Edit:
        self._left_at = self._memory.version
        edit = Edit(words, before, datetime.now().astimezone())
        self._made.append(edit)
        return edit
