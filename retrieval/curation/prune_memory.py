"""Pruning a memory: its items' help and hurt, what of them stays in decisions, and the worst of them for people to see.

Section 3.6 and appendix I of the paper. All items are asked about, those that an earlier pruning left out as well, so
that pruning twice is pruning once.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import Float, Int, Shaped

from retrieval.curation.pruning import (
    HARD_LIMIT,
    NEIGHBORS,
    SOFT_OFFSET,
    SOFT_SCALE,
    Ledger,
    Search,
    blocks_of,
    count_votes,
    half_of_class,
    kept_items,
    leave_one_out,
    nearest_others,
    reliability,
    wrong_votes,
)
from retrieval.errors import InvalidArgument, PruningRefused
from retrieval.progress import track
from retrieval.voting import encode_labels

if TYPE_CHECKING:
    from retrieval.editable import EditableMemory
    from retrieval.snapshot import Snapshot

METHODS: Final = tuple(NEIGHBORS)
MANY: Final = 0.2  # of the items: above it a pruning is no longer one of a few bad examples, and is asked about
_VOTERS: Final = 50  # the paper's k, with which decisions are made
_ASKED: Final = 10_000  # items at most that the accuracy is measured on: seconds, and within a point of that on all


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
    """What pruning a memory comes to, in row order of the version that was looked at.

    The accuracies are leave-one-out, in percent: an item is answered by the rank vote of its 50 nearest others, as the
    memory is now and as it would be. Its own judgement of these others does not count then, else each item would have
    weakened the very votes against it, and the accuracy would rise on the memory and nowhere else.
    """

    method: str
    neighbors: int  # that each item was asked about with; of small classes fewer count, unless as in the paper
    version: str  # that was looked at, as `Snapshot.version`
    ids: Shaped[np.ndarray, " items"]
    labels: Shaped[np.ndarray, " items"]
    ledger: Ledger
    reliability: Float[np.ndarray, " items"]
    asked: int  # items that the accuracies are measured on: all, or some drawn at random
    before: float
    after: float
    changes: bool  # False: each item's reliability is already what it would be
    written: bool = False  # False: a dry run, or nothing to change

    @property
    def left_out(self) -> int:
        """How many items have no vote any more."""
        return int(np.count_nonzero(self.reliability == 0))

    @property
    def weakened(self) -> int:
        """How many items have a vote of less weight."""
        return int(np.count_nonzero((self.reliability > 0) & (self.reliability < 1)))

    @property
    def touched(self) -> int:
        """How many items count less than fully, or not at all."""
        return self.left_out + self.weakened

    @property
    def is_worse(self) -> bool:
        """Whether the memory would answer fewer of its own items rightly."""
        return self.after < self.before

    @property
    def is_many(self) -> bool:
        """Whether more than a fifth of the items are touched."""
        return self.touched > MANY * len(self.ids)

    @property
    def in_words(self) -> str:
        """The accuracies as people read them; with two decimals where one would hide which is higher."""
        drawn = f" on {self.asked:,} items drawn at random" if self.asked < len(self.ids) else ""
        decimals = 1 if abs(self.after - self.before) >= 0.1 or self.after == self.before else 2
        both = f"{self.before:.{decimals}f} % before, {self.after:.{decimals}f} % after"
        return f"leave-one-out accuracy{drawn}: {both}"

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
    many: bool = False,
    paper: bool = False,
    neighbors: int | None = None,
    limit: int = HARD_LIMIT,
    scale: float = SOFT_SCALE,
    offset: float = SOFT_OFFSET,
    progress: bool = True,
) -> Pruning:
    """Give every item of a memory a reliability from how often it hurts, as one version (section 3.6, appendix I).

    Nothing is written where leave-one-out accuracy would fall, or where more than a fifth of the items would be touched
    and ``many`` does not allow it.

    Args:
        memory: to be pruned; `VisualMemory.set_reliability` with None undoes it.
        method: ``soft``: an item that hurts v times votes with scale / (offset + v) of its weight. ``hard``: one that
            hurts ``limit`` times or more has no vote and is not found any more.
        dry_run: whether to look only, and write nothing.
        many: whether more than a fifth of the items may be touched.
        paper: whether all neighbours count, as in the paper, and not only as many as half the class of the item asked
            about: in small classes that blames items for the size of the class.
        neighbors: with which each item is asked about; None: 10 for soft and 100 for hard pruning, as in the release.
        limit: of hard pruning.
        scale: of soft pruning, d in the paper; a reliability above 1 counts as 1.
        offset: of soft pruning, c in the paper.
        progress: whether to show bars.

    Raises:
        InvalidArgument: no such method, a figure out of range, fewer than two items, or hard pruning leaves none.
        PruningRefused: it would do harm, or touch many items.
        StorageError: the memory was edited meanwhile, or the disk refuses.
    """
    factor = _factor(method, limit, scale, offset)
    factor(np.zeros(0, np.int64))  # refused before anything slow is done
    neighbors = NEIGHBORS[method] if neighbors is None else neighbors
    now = memory.snapshot()
    snapshot = now.unpruned()
    codes = _codes(snapshot)
    within = None if paper else half_of_class(codes)
    ledger = keep_ledger(snapshot, neighbors=neighbors, within=within, progress=progress)
    values = factor(ledger.hurt)
    if not values.any():
        raise InvalidArgument(f"a limit of {limit} wrong votes leaves no item: give a higher one, or prune softly")
    current = now.reliabilities
    current = np.ones(len(values), np.float32) if current is None else current

    def without_own_judgement(own: np.ndarray, rows: np.ndarray) -> np.ndarray:
        judged = wrong_votes(own, rows[:, :neighbors], codes, within=within)
        others = ledger.hurt[rows]
        others[:, :neighbors] -= judged
        return factor(np.maximum(others, 0))  # an index that is not exact may have found others

    vectors, asked = snapshot.vectors(), _drawn(len(codes))
    was = leave_one_out(vectors, codes, asked, current, k=_VOTERS)
    # Where items are left out their ranks are others' and nothing tells whom an item of those asked had judged.
    is_ = leave_one_out(
        vectors, codes, asked, values, k=_VOTERS, factors_of=without_own_judgement if method == "soft" else None
    )
    found = Pruning(
        method=method,
        neighbors=neighbors,
        version=now.version,
        ids=snapshot.ids,
        labels=snapshot.labels,
        ledger=ledger,
        reliability=values,
        asked=len(asked),
        before=100.0 * float(was.mean()),
        after=100.0 * float(is_.mean()),
        changes=not np.array_equal(values, current),
    )
    return found if dry_run else write_pruning(memory, found, many=many)


def write_pruning(memory: "EditableMemory", found: Pruning, *, many: bool = False) -> Pruning:
    """Write what a dry run of `prune` found, as one version, and return it as written.

    Raises:
        PruningRefused: leave-one-out accuracy would fall, or more than a fifth of the items be touched and ``many`` not
            allow it; nothing is written.
        StorageError: the memory was edited since, or the disk refuses.
    """
    if found.is_worse:
        raise PruningRefused(
            f"{memory.path} stays as it is: pruned like that it would be right about fewer of its own items"
            f" ({found.in_words}); choose another method, or leave it unpruned"
        )
    if found.is_many and not many:
        raise PruningRefused(
            f"{memory.path} stays as it is: {found.touched:,} of {len(found.ids):,} items would count less, more than"
            f" {100 * MANY:.0f} %; if you want that, say --yes (in Python many=True)"
        )
    if found.changes:
        memory.set_reliability(found.reliability, of=found.version)
    return replace(found, written=found.changes)


def keep_ledger(
    snapshot: "Snapshot",
    *,
    neighbors: int,
    within: Int[np.ndarray, " items"] | None = None,
    progress: bool = True,
) -> Ledger:
    """Return how often each item of a version helps and hurts when all are asked about with their nearest others.

    Args:
        snapshot: of the version.
        neighbors: with which each item is asked about.
        within: how many of these count for each item, as for `count_votes`.
        progress: whether to show a bar.

    Raises:
        InvalidArgument: ``neighbors`` below 1, or fewer than two items.
    """
    items = len(snapshot.ids)
    if items < 2:
        raise InvalidArgument(f"a memory of {items} items cannot be asked about its own: 2 or more expected")
    found = nearest_others(snapshot.vectors(), search_rows(snapshot), k=neighbors)
    blocks = track(found, "Asking about each item", total=blocks_of(items), unit=" blocks", shown=progress)
    return count_votes(((own, rows) for own, rows, _ in blocks), _codes(snapshot), within=within)


def search_rows(snapshot: "Snapshot") -> Search:
    """Return a version's search as one that answers with rows and distances."""

    def search(vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        found = snapshot.search(vectors, k)
        return found.rows, found.distances

    return search


def _codes(snapshot: "Snapshot") -> Int[np.ndarray, " items"]:
    return encode_labels(snapshot.labels[:, None])[0][:, 0]


def _drawn(items: int) -> Int[np.ndarray, " asked"]:
    """Return the rows of the items that the accuracy is measured on; the same ones of as many at each time."""
    if items <= _ASKED:
        return np.arange(items)
    return np.sort(np.random.default_rng(0).choice(items, _ASKED, replace=False))


def _factor(method: str, limit: int, scale: float, offset: float) -> Callable[[np.ndarray], np.ndarray]:
    """Return what makes reliabilities, float32, of how often items hurt."""
    if method not in METHODS:
        raise InvalidArgument(f"no pruning method {method!r}: choose one of {', '.join(METHODS)}")
    if method == "hard":
        return lambda hurt: kept_items(hurt, limit=limit).astype(np.float32)
    return lambda hurt: np.minimum(reliability(hurt, scale=scale, offset=offset), 1.0).astype(np.float32)
