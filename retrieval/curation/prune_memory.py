"""Pruning a memory: its items' help and hurt, what of them stays in decisions, and the worst of them for people to see.

Section 3.6 and appendix I of the paper. All items are asked about, those that an earlier pruning left out as well, so
that pruning twice is pruning once.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import Float, Int, Shaped

from retrieval.curation.pruning import (
    HARD_LIMIT,
    SELF_NEIGHBORS,
    SOFT_OFFSET,
    SOFT_SCALE,
    Ledger,
    Search,
    blocks_of,
    count_votes,
    kept_items,
    nearest_others,
    reliability,
)
from retrieval.errors import InvalidArgument
from retrieval.progress import track
from retrieval.voting import encode_labels

if TYPE_CHECKING:
    from retrieval.editable import EditableMemory
    from retrieval.snapshot import Snapshot

METHODS: Final = ("soft", "hard")


@dataclass(frozen=True, slots=True)
class Offender:
    """An item as the ledger sees it."""

    id: str
    label: str
    helped: int  # items of its label whose neighbour it is
    hurt: int  # items of other labels whose neighbour it is
    reliability: float  # 0: left out


@dataclass(frozen=True, slots=True, eq=False)
class Pruning:
    """What pruning a memory comes to, in row order of the version that was looked at."""

    method: str
    neighbors: int  # that each item was asked about with
    ids: Shaped[np.ndarray, " items"]
    labels: Shaped[np.ndarray, " items"]
    ledger: Ledger
    reliability: Float[np.ndarray, " items"]
    written: bool  # False: a dry run

    @property
    def left_out(self) -> int:
        """How many items have no vote any more."""
        return int(np.count_nonzero(self.reliability == 0))

    @property
    def weakened(self) -> int:
        """How many items have a vote of less weight."""
        return int(np.count_nonzero((self.reliability > 0) & (self.reliability < 1)))

    def worst(self, count: int) -> list[Offender]:
        """Return the items that hurt most often, of equal ones those first that help less; none that never hurts."""
        order = np.lexsort((self.ledger.helped, -self.ledger.hurt))[:count]
        return [self._offender(row) for row in order.tolist() if self.ledger.hurt[row]]

    def _offender(self, row: int) -> Offender:
        helped, hurt = int(self.ledger.helped[row]), int(self.ledger.hurt[row])
        return Offender(str(self.ids[row]), str(self.labels[row]), helped, hurt, float(self.reliability[row]))


def prune(
    memory: "EditableMemory",
    *,
    method: str = "soft",
    dry_run: bool = False,
    neighbors: int = SELF_NEIGHBORS,
    limit: int = HARD_LIMIT,
    scale: float = SOFT_SCALE,
    offset: float = SOFT_OFFSET,
    progress: bool = True,
) -> Pruning:
    """Give every item of a memory a reliability from how often it hurts, as one version (section 3.6, appendix I).

    Args:
        memory: to be pruned; `VisualMemory.set_reliability` with None undoes it.
        method: ``soft``: an item that hurts v times votes with scale / (offset + v) of its weight. ``hard``: one that
            hurts ``limit`` times or more has no vote and is not found any more.
        dry_run: whether to look only, and write nothing.
        neighbors: with which each item is asked about.
        limit: of hard pruning.
        scale: of soft pruning, d in the paper; a reliability above 1 counts as 1.
        offset: of soft pruning, c in the paper.
        progress: whether to show a bar.

    Raises:
        InvalidArgument: no such method, a figure out of range, fewer than two items, or hard pruning leaves none.
        StorageError: the disk refuses.
    """
    values = _values(np.zeros(0, np.int64), method, limit, scale, offset)  # refused before anything slow is done
    version = memory.snapshot().version
    snapshot = memory.snapshot().unpruned()
    ledger = keep_ledger(snapshot, neighbors=neighbors, progress=progress)
    values = _values(ledger.hurt, method, limit, scale, offset)
    if not values.any():
        raise InvalidArgument(f"a limit of {limit} wrong votes leaves no item: give a higher one, or prune softly")
    if not dry_run:
        memory.set_reliability(values, of=version)
    return Pruning(method, neighbors, snapshot.ids, snapshot.labels, ledger, values, written=not dry_run)


def keep_ledger(snapshot: "Snapshot", *, neighbors: int = SELF_NEIGHBORS, progress: bool = True) -> Ledger:
    """Return how often each item of a version helps and hurts when all are asked about with their nearest others.

    Raises:
        InvalidArgument: ``neighbors`` below 1, or fewer than two items.
    """
    items = len(snapshot.ids)
    if items < 2:
        raise InvalidArgument(f"a memory of {items} items cannot be asked about its own: 2 or more expected")
    codes = encode_labels(snapshot.labels[:, None])[0][:, 0]
    found = nearest_others(snapshot.vectors(), search_rows(snapshot), k=neighbors)
    blocks = track(found, "Asking about each item", total=blocks_of(items), unit=" blocks", shown=progress)
    return count_votes(((own, rows) for own, rows, _ in blocks), codes)


def search_rows(snapshot: "Snapshot") -> Search:
    """Return a version's search as one that answers with rows and distances."""

    def search(vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        found = snapshot.search(vectors, k)
        return found.rows, found.distances

    return search


def _values(
    hurt: Int[np.ndarray, " items"], method: str, limit: int, scale: float, offset: float
) -> Float[np.ndarray, " items"]:
    if method not in METHODS:
        raise InvalidArgument(f"no pruning method {method!r}: choose one of {', '.join(METHODS)}")
    if method == "hard":
        values: np.ndarray = kept_items(hurt, limit=limit)
    else:
        values = np.minimum(reliability(hurt, scale=scale, offset=offset), 1.0)
    return values.astype(np.float32)
