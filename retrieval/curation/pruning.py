"""How far each item of a memory can be relied on, from querying the memory with itself (section 3.6, appendix I).

An item helps a query whose label it has, and hurts one whose label is another: the paper's "contributed to a wrong
decision", counted as its release counts it (code/main_analysis_plots.ipynb), whatever the whole vote decided. What
hurts too often is left out (hard pruning), or has less weight the more often it hurts (soft).

Where an item's class has fewer items than neighbours are counted, some neighbours must be of other labels, and would be
blamed for the size of the class. So a neighbour counts only among as many of the nearest as half the class: as many as
could all be of its label with as many to spare. With the whole class in place of half of it, classes of 8 lose 1.6
points on pictures that are not in the memory; with half of it, nothing.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from retrieval.errors import InvalidArgument, PruningRefused
from retrieval.indexes.base import Skipped
from retrieval.indexes.exact import ExactIndex
from retrieval.support.terminal import track
from retrieval.voting import Factors, encode_labels, predict_every_k

if TYPE_CHECKING:
    from retrieval.version import Snapshot


NEIGHBORS: Final = {"soft": 10, "hard": 100}  # that each item is answered with (the release; appendix I for hard)
HARD_LIMIT: Final = 128  # wrong votes from which an item is left out (appendix I)
SOFT_SCALE: Final = 1.75  # d of appendix I
SOFT_OFFSET: Final = 1.0  # c of appendix I
_ITEMS_AT_A_TIME: Final = 8192  # a search's answers for so many take some 10 MB

Search = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
"""From unit vectors and k to rows and distances, each of shape (vectors, k), nearest first: as `Index.search`."""


@dataclass(frozen=True, slots=True, eq=False)
class Ledger:
    """How often each item was among the neighbours of another."""

    helped: Int[np.ndarray, " items"]  # with the label of that other one
    hurt: Int[np.ndarray, " items"]  # with another label: v of appendix I


def count_self_votes(
    vectors: Float[np.ndarray, "items dimension"],
    labels: Int[np.ndarray, " items"],
    search: Search,
    *,
    k: int,
    within: Int[np.ndarray, " items"] | None = None,
    progress: bool = False,
) -> Ledger:
    """Return how often each item helps and hurts when every item of a memory is a query to all others (appendix I).

    Memory grows with the number of items, not with items × k.

    Args:
        vectors: of the memory, of length 1.
        labels: of its items, as numbers.
        search: answers from the same vectors, in the same order.
        k: neighbours of each query.
        within: how many of each query's nearest neighbours count, as `half_of_class` gives them; None: all k.
        progress: whether to show a bar.

    Raises:
        InvalidArgument: k below 1.
    """
    found = nearest_others(vectors, search, k=k, doing="Asking about each item", shown=progress)
    return count_votes(((own, rows) for own, rows, _ in found), labels, within=within)


def half_of_class(labels: Int[np.ndarray, " items"]) -> Int[np.ndarray, " items"]:
    """Return half the size of each item's class, rounded down: 0 for an item that is the only one of its label."""
    half: np.ndarray = np.bincount(labels)[labels] // 2
    return half


def nearest_others(
    vectors: Float[np.ndarray, "items dimension"],
    search: Search,
    *,
    k: int,
    asked: Int[np.ndarray, " asked"] | None = None,
    doing: str = "",
    shown: bool = True,
) -> Iterator[tuple[Int[np.ndarray, " some"], Int[np.ndarray, "some k"], Float[np.ndarray, "some k"]]]:
    """Yield rows of items with rows and distances of their k nearest others, some thousand items at a time.

    k is clipped to the number of other items, and to what the search gives less one. ``asked``: rows of the items that
    are asked about; None: all. ``doing``: what a bar says that is shown meanwhile; empty for none. ``shown``:
    whether there is a bar; a page that waits is told all the same.

    Raises:
        InvalidArgument: k below 1.
    """
    if k < 1:
        raise InvalidArgument(f"k={k}: each item is to be answered with one neighbour or more")
    asked = np.arange(len(vectors)) if asked is None else asked
    starts = range(0, len(asked), _ITEMS_AT_A_TIME)
    for start in track(starts, doing, total=len(starts), unit=" blocks", shown=shown and bool(doing)):
        own = asked[start : start + _ITEMS_AT_A_TIME]
        rows, distances = search(vectors[own], min(k + 1, len(vectors)))
        counted = other_places(rows, own)
        yield own, *(found[counted].reshape(len(own), -1) for found in (rows, distances))


def other_places(
    rows: Int[np.ndarray, "queries found"], own: Int[np.ndarray, " queries"]
) -> Bool[np.ndarray, "queries found"]:
    """Tell all but one of each query's neighbours: all but its own item wherever that stands, else but the farthest.

    The paper discards the first neighbour. Where pictures are in a memory twice that may be the other one, and the item
    would vote for itself.
    """
    others: np.ndarray = rows != own[:, None]
    others[others.all(axis=1), -1:] = False
    return others


def count_votes(
    found: Iterable[tuple[Int[np.ndarray, " _"], Int[np.ndarray, "_ k"]]],
    labels: Int[np.ndarray, " items"],
    *,
    within: Int[np.ndarray, " items"] | None = None,
) -> Ledger:
    """Return how often each item helps and hurts.

    Args:
        found: rows of items that were queries, with the rows of their neighbours, nearest first.
        labels: of all items, as numbers.
        within: how many of each query's nearest neighbours count; None: all.
    """
    helped, hurt = np.zeros(len(labels), np.int64), np.zeros(len(labels), np.int64)
    for queries, neighbors in found:
        same, counted = _judged(queries, neighbors, labels, within)
        helped += np.bincount(neighbors[same & counted], minlength=len(labels))
        hurt += np.bincount(neighbors[~same & counted], minlength=len(labels))
    return Ledger(helped, hurt)


def _judged(
    queries: Int[np.ndarray, " queries"],
    neighbors: Int[np.ndarray, "queries k"],
    labels: Int[np.ndarray, " items"],
    within: Int[np.ndarray, " items"] | None,
) -> tuple[Bool[np.ndarray, "queries k"], Bool[np.ndarray, "#queries k"]]:
    """Tell which neighbours have the labels of the items that they are neighbours of, and which of them count."""
    ranks = np.arange(neighbors.shape[1])[None]
    counted = ranks >= 0 if within is None else ranks < within[queries][:, None]
    return labels[neighbors] == labels[queries][:, None], counted


def leave_one_out(
    vectors: Float[np.ndarray, "items dimension"],
    labels: Int[np.ndarray, " items"],
    asked: Int[np.ndarray, " asked"],
    reliability: Float[np.ndarray, " items"],
    *,
    k: int,
    factors_of: Callable[[np.ndarray, np.ndarray], Factors] | None = None,
) -> Bool[np.ndarray, " asked"]:
    """Tell which items get their own label from the rank vote of their k nearest others, compared exactly.

    Similarities are computed in blocks, and no more than k of each item's are kept.

    Args:
        vectors: of the memory, of length 1.
        labels: of its items, as numbers.
        asked: rows of the items that are asked about.
        reliability: by which an item's vote is multiplied; where it is 0 the item is not found.
        k: neighbours that vote, clipped to as many as there are.
        factors_of: from rows of asked items and of their neighbours to what the votes are multiplied by, where that is
            not the neighbour's reliability.
    """
    skip = Skipped(reliability == 0)
    living, index = len(vectors) - skip.number, ExactIndex(vectors)

    def search(queries: np.ndarray, wanted: int) -> tuple[np.ndarray, np.ndarray]:
        return index.search(queries, min(wanted, living), skip=skip if skip.number else None)

    right = np.zeros(len(asked), bool)
    done = 0
    for own, rows, distances in nearest_others(vectors, search, k=k, asked=asked) if living > 1 else ():
        factors = reliability[rows] if factors_of is None else factors_of(own, rows)
        won = predict_every_k(labels[rows], distances, factors=factors)[:, -1]
        right[done : done + len(own)] = won == labels[own]
        done += len(own)
    return right


def kept_items(hurt: Int[np.ndarray, " items"], *, limit: int = HARD_LIMIT) -> Bool[np.ndarray, " items"]:
    """Tell which items hard pruning keeps: those that hurt less often than the limit (appendix I).

    Raises:
        InvalidArgument: a limit below 1, at which nothing could be kept.
    """
    if limit < 1:
        raise InvalidArgument(f"a limit of {limit} wrong votes leaves no item: 1 or more expected")
    kept: np.ndarray = hurt < limit
    return kept


def reliability(
    hurt: Int[np.ndarray, "*any"], *, scale: float = SOFT_SCALE, offset: float = SOFT_OFFSET
) -> Float[np.ndarray, "*any"]:
    """Return what soft pruning multiplies each item's weight by: γ = d / (c + v), and 1 where v = 0 (appendix I).

    Raises:
        InvalidArgument: d or c not above 0.
    """
    if not (0 < scale < np.inf and 0 < offset < np.inf):
        raise InvalidArgument(f"scale {scale} and offset {offset}: both must be finite and above 0")
    return np.where(hurt == 0, 1.0, scale / (offset + hurt))


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

    def expect_harmless(self, path: Path, *, many: bool) -> None:
        """Raise PruningRefused unless it may be written, as `VisualMemory.write_pruning` says."""
        if self.is_worse:
            raise PruningRefused(
                f"{path} stays as it is: pruned like that it would be right about fewer of its own items"
                f" ({self.in_words}); choose another method, or leave it unpruned"
            )
        if self.is_many and not many:
            raise PruningRefused(
                f"{path} stays as it is: {self.touched:,} of {len(self.ids):,} items would count less, more than"
                f" {100 * MANY:.0f} %; if you want that, say --yes (in Python many=True)"
            )

    def worst(self, count: int) -> list[Offender]:
        """Return the items that hurt most often, of equal ones those first that help less; none that never hurts."""
        order = np.lexsort((self.ledger.helped, -self.ledger.hurt))[:count]
        columns = (self.ids, self.labels, self.ledger.helped, self.ledger.hurt, self.reliability)
        found = (Offender(*values) for values in zip(*(column[order].tolist() for column in columns), strict=True))
        return [offender for offender in found if offender.hurt]


def find_pruning(
    now: "Snapshot",
    *,
    method: str,
    paper: bool,
    neighbors: int | None,
    limit: int,
    scale: float,
    offset: float,
    progress: bool,
) -> Pruning:
    """Return what pruning a version comes to; arguments and errors as for `VisualMemory.prune`."""
    factor = _factor(method, limit, scale, offset)
    factor(np.zeros(0, np.int64))  # refused before anything slow is done
    neighbors = NEIGHBORS[method] if neighbors is None else neighbors
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
        same, counted = _judged(own, rows[:, :neighbors], codes, within)
        others = ledger.hurt[rows]
        others[:, :neighbors] -= ~same & counted
        return factor(np.maximum(others, 0))  # an index that is not exact may have found others

    vectors, asked = snapshot.vectors(), np.arange(len(codes))
    if len(asked) > _ASKED:  # the same ones of as many at each time
        asked = np.sort(np.random.default_rng(0).choice(len(codes), _ASKED, replace=False))
    was = leave_one_out(vectors, codes, asked, current, k=_VOTERS)
    # Where items are left out their ranks are others' and nothing tells whom an item of those asked had judged.
    is_ = leave_one_out(
        vectors, codes, asked, values, k=_VOTERS, factors_of=without_own_judgement if method == "soft" else None
    )
    return Pruning(
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
    if len(snapshot.ids) < 2:
        raise InvalidArgument(
            f"a memory of {len(snapshot.ids)} items cannot be asked about its own: 2 or more expected"
        )
    search, codes = search_rows(snapshot), _codes(snapshot)
    return count_self_votes(snapshot.vectors(), codes, search, k=neighbors, within=within, progress=progress)


def search_rows(snapshot: "Snapshot") -> Search:
    """Return a version's search as one that answers with rows and distances."""

    def search(vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        found = snapshot.search(vectors, k)
        return found.rows, found.distances

    return search


def _codes(snapshot: "Snapshot") -> Int[np.ndarray, " items"]:
    return encode_labels(snapshot.labels[:, None])[0][:, 0]


def _factor(method: str, limit: int, scale: float, offset: float) -> Callable[[np.ndarray], np.ndarray]:
    """Return what makes reliabilities, float32, of how often items hurt."""
    if method not in METHODS:
        raise InvalidArgument(f"no pruning method {method!r}: choose one of {', '.join(METHODS)}")
    if method == "hard":
        return lambda hurt: kept_items(hurt, limit=limit).astype(np.float32)
    return lambda hurt: np.minimum(reliability(hurt, scale=scale, offset=offset), 1.0).astype(np.float32)
