"""A memory as it is read: ids, labels and index of one version of the table, each loaded when first needed."""

import contextlib
import copy
import logging
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import Float, Int, Real, Shaped

from retrieval.errors import InvalidArgument, StorageError, UnknownItem, VisualMemoryWarning
from retrieval.indexes import choose_kind
from retrieval.indexes.base import DEFAULT_RECALL, MOST_RECALL, ArrayBlocks, Skipped
from retrieval.indexes.exact import ExactIndex
from retrieval.indexes.saved import Stored, build_stored, extend_stored, load_stored
from retrieval.items import Rows
from retrieval.labels import asked_ids, composed, spellings, stored_text
from retrieval.storage.places import CENTRED_INDEX, INDEX, writer_lock
from retrieval.storage.table import ItemTable
from retrieval.types import Neighbors
from retrieval.vectors import centre, to_unit

if TYPE_CHECKING:
    import pyarrow


_BESIDE_AT_LEAST: Final = 4_096
_BESIDE_SHARE: Final = 1 / 200
"""Items beside an index, as a share of all, from which they are taken into it: compared exactly, 5,000 beside a million
cost about half as much as the search of the million itself."""


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """Which position of an index holds which slot of a version's rows."""

    slot_of: Int[np.ndarray, " positions"]  # -1: an item that the version lacks
    position_of: Int[np.ndarray, " slots"]  # -1: an item that the index lacks, or a dead slot
    aligned: bool  # whether both are the same, for items that both have

    @classmethod
    def by_keys(
        cls, keys: Int[np.ndarray, " positions"], living: Int[np.ndarray, " items"], their: Int[np.ndarray, " items"]
    ) -> "Match":
        """Match an index's keys with living slots, in order, and their keys."""
        length = min(len(keys), len(their))
        # Most indexes are of this very version, or of an earlier one to which items were added.
        same = length if np.array_equal(keys[:length], their[:length]) else 0
        slots = np.full(len(keys), -1)
        slots[:same] = living[:same]
        order = np.argsort(their[same:], kind="stable")
        rest = their[same:][order]
        if len(rest):
            place = np.minimum(np.searchsorted(rest, keys[same:]), len(rest) - 1)
            slots[same:] = np.where(rest[place] == keys[same:], living[same:][order[place]], -1)
        positions = np.full(int(living[-1]) + 1 if len(living) else 0, -1)
        found = np.flatnonzero(slots >= 0)
        positions[slots[found]] = found
        return cls(slots, positions, aligned=np.array_equal(slots[found], found))


@dataclass(frozen=True, eq=False)
class Layers:
    """An index, what of it is skipped, and the items beside it."""

    stored: Stored
    match: Match
    skip: Skipped
    fresh: Int[np.ndarray, " fresh"]  # slots of the items beside
    vectors: Real[np.ndarray, "fresh dimension"]  # as stored
    moved: Mapping[int, int] = field(default_factory=dict)  # position → slot, of items that an edit gave another slot
    home: Mapping[int, int] = field(default_factory=dict)  # the same the other way round

    def __len__(self) -> int:
        return self._in_index + len(self.fresh)

    @cached_property
    def _in_index(self) -> int:
        return int(np.count_nonzero(~self.skip.mask))

    @cached_property
    def _exact(self) -> ExactIndex:
        return ExactIndex.build(ArrayBlocks(self.vectors), None)

    @cached_property
    def _moves(self) -> tuple[np.ndarray, np.ndarray]:
        positions = np.array(sorted(self.moved), np.int64)
        return positions, np.array([self.moved[position] for position in positions.tolist()], np.int64)

    def without(self, slots: Int[np.ndarray, " gone"]) -> "Layers":
        """Return what answers as if the items in some slots were not there."""
        skip = self.skip.mask.copy()
        skip[self._positions(slots)] = True
        kept = ~np.isin(self.fresh, slots)
        return replace(self, skip=Skipped(skip), fresh=self.fresh[kept], vectors=self.vectors[kept])

    def _positions(self, slots: np.ndarray) -> np.ndarray:
        """Return the positions of some slots, of those that have one."""
        settled = slots[slots < len(self.match.position_of)]
        positions = self.match.position_of[settled]
        moved = [self.home[slot] for slot in slots.tolist() if slot in self.home] if self.home else []
        return np.concatenate([positions[positions >= 0], np.array(moved, np.int64)])

    def position(self, slot: int) -> int | None:
        """Return where in the index the item of a slot is; None for one that is beside it."""
        if slot in self.home:
            return self.home[slot]
        position = int(self.match.position_of[slot]) if slot < len(self.match.position_of) else -1
        return None if position < 0 else position

    def moving(self, slots: Mapping[int, int]) -> "Layers":
        """Return what finds items of the index in other slots than before (old slot → new slot)."""
        moved, home = dict(self.moved), dict(self.home)
        for old, new in slots.items():
            position = self.position(old)
            if position is not None:
                moved[position], home[new] = new, position
                home.pop(old, None)
        return replace(self, moved=moved, home=home)

    def adding(self, slots: Int[np.ndarray, " added"], vectors: Real[np.ndarray, "added dimension"]) -> "Layers":
        """Return what finds some more items beside the index."""
        fresh, all_vectors = np.concatenate([self.fresh, slots]), np.concatenate([self.vectors, vectors])
        return replace(self, fresh=fresh, vectors=all_vectors)

    def search(
        self, queries: Float[np.ndarray, "queries dimension"], k: int, *, recall: float = DEFAULT_RECALL
    ) -> tuple[Int[np.ndarray, "queries k"], Float[np.ndarray, "queries k"]]:
        """Return slots and distances, nearest first, for 1 <= k <= len(self)."""
        if not len(self.fresh):
            return self._search_index(queries, k, recall)
        beside, distances = self._exact.search(queries, min(k, len(self.fresh)))
        slots = self.fresh[beside]
        if self._in_index:
            more, further = self._search_index(queries, min(k, self._in_index), recall)
            slots, distances = np.concatenate([more, slots], axis=1), np.concatenate([further, distances], axis=1)
        order = np.lexsort((slots, distances))[:, :k]
        return np.take_along_axis(slots, order, axis=1), np.take_along_axis(distances, order, axis=1)

    def _search_index(self, queries: np.ndarray, k: int, recall: float) -> tuple[np.ndarray, np.ndarray]:
        skip = self.skip if self._in_index < len(self.skip.mask) else None
        positions, distances = self.stored.index.search(queries, k, skip=skip, recall=recall)
        slots = positions if self.match.aligned else self.match.slot_of[positions]
        if self.moved:
            moved, to = self._moves
            place = np.minimum(np.searchsorted(moved, positions), len(moved) - 1)
            slots = np.where(moved[place] == positions, to[place], slots)
        return slots, distances


def is_crowded(beside: int, *, items: int) -> bool:
    """Tell whether so many of the items lie beside an index that they had better be taken into it."""
    return beside > max(_BESIDE_AT_LEAST, _BESIDE_SHARE * items)


_BLOCK: Final = 8_192  # vectors that are read at a time
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class _Blocks:
    """The vectors in some slots, read when they are gone through."""

    snapshot: "Snapshot"
    slots: Int[np.ndarray, " some"]

    @property
    def dimension(self) -> int:
        return self.snapshot._table.dimension

    def __len__(self) -> int:
        return len(self.slots)

    def __iter__(self) -> Iterator[np.ndarray]:
        if len(self.slots) == len(self.snapshot.rows):
            yield from map(self.snapshot._as_searched, self.snapshot._table)
        else:
            for start in range(0, len(self.slots), _BLOCK):
                yield self.snapshot._vectors_in(self.slots[start : start + _BLOCK])


_NAMED: Final = 3  # of many ids in a message


class Snapshot:
    """Answers searches from one version; an edit makes another from it."""

    def __init__(self, table: ItemTable, path: Path, *, centred: bool = False, saves: bool = True) -> None:
        """Pin a version.

        Args:
            table: the memory's table.
            path: the memory's folder.
            centred: whether the vectors that are searched have their mean taken off.
            saves: whether an index that has to be built is kept on disk.
        """
        self._table = table.pinned()
        self.version = self._table.version_id
        self._path = path
        self.is_centred = centred
        self._saves = saves
        # A mean is one version's: an index without it serves no other.
        self._index_name, self._stamp = (CENTRED_INDEX, self.version) if centred else (INDEX, "")
        self._hidden = np.empty(0, np.int64)  # slots of the items that this one answers without

    @cached_property
    def rows(self) -> Rows:
        """The columns at hand, by slot."""
        return Rows.of(self._table)

    @cached_property
    def _layers(self) -> Layers:
        """What answers: the saved index, whatever version it was made of, and the items beside it.

        It is extended when many items are not in it, and built anew when there is none, when it is damaged, of another
        kind, or worn.
        """
        living = self._taking_part(self.rows.living())
        keys = self.rows.keys(living)
        # No tree is made of nothing.
        kind = choose_kind(self._table.settings.index, items=len(living)) if len(living) else "exact"
        stored = load_stored(self._path / self._index_name, stamp=self._stamp)
        if stored is None or stored.index.kind != kind:
            stored = self._build(kind, living, keys)
        match = Match.by_keys(stored.keys, living, keys)
        beside = living[match.position_of[living] < 0]
        if stored.index.worn(skipped=int((match.slot_of < 0).sum())):
            stored, beside = self._build(kind, living, keys), beside[:0]
            match = Match.by_keys(stored.keys, living, keys)
        elif is_crowded(len(beside), items=len(living)):
            with self._place_of_index() as folder:
                stored = extend_stored(stored, _Blocks(self, beside), self.rows.keys(beside), folder)
            match, beside = Match.by_keys(stored.keys, living, keys), beside[:0]
        return Layers(stored, match, Skipped(match.slot_of < 0), beside, self._vectors_in(beside))

    def _build(self, kind: str, living: np.ndarray, keys: np.ndarray) -> Stored:
        if kind != "exact":  # which takes no time worth a word
            _logger.info("Building a %s index over %s pictures …", kind, f"{len(living):,}")
        with self._place_of_index() as folder:
            return build_stored(kind, _Blocks(self, living), keys, folder, stamp=self._stamp)

    @contextmanager
    def _place_of_index(self) -> Iterator[Path | None]:
        """Tell where an index may be kept: nowhere from an old version, which may hold what was erased since."""
        if not self._saves:
            yield None
            return
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(writer_lock(self._path, wait_seconds=0.0))
            except StorageError:  # a disk that can only be read, or another writer: search all the same
                yield None
                return
            yield self._path / self._index_name if self._table.is_latest() else None

    def _taking_part(self, slots: Int[np.ndarray, " some"]) -> Int[np.ndarray, " part"]:
        """Return those of some slots whose items are searched: what was pruned away is not."""
        factors = self.rows.reliabilities(slots)
        return slots if factors is None else slots[factors > 0]

    def _vectors_in(self, slots: Int[np.ndarray, " some"]) -> Real[np.ndarray, "some dimension"]:
        return self._as_searched(self._table.vectors_at(self.rows.addresses(slots)))

    def _as_searched(self, stored: Real[np.ndarray, "some dimension"]) -> Real[np.ndarray, "some dimension"]:
        return centre(to_unit(stored), self.mean) if self.is_centred else stored

    def __len__(self) -> int:
        return len(self.rows) - len(self._hidden)

    @property
    def hidden_ids(self) -> list[str]:
        """The ids of the items that this one answers without."""
        return list(self.rows.ids(self._hidden)) if len(self._hidden) else []

    @cached_property
    def ids(self) -> Shaped[np.ndarray, " items"]:
        """Every id, in row order."""
        return self.rows.ids(self.rows.living())

    @cached_property
    def labels(self) -> Shaped[np.ndarray, " items"]:
        """Every label, in row order."""
        return self.rows.labels(self.rows.living())

    @cached_property
    def digests(self) -> Shaped[np.ndarray, " items"]:
        """The digest of every picture (`content_digest`), in row order; None where it is not known."""
        return self._table.digests()

    def unpruned(self) -> "Snapshot":
        """Return the same version with every item counting fully."""
        if self.reliabilities is None:
            return self
        whole = Snapshot(self._table, self._path, centred=self.is_centred, saves=False)
        whole.rows = Rows.of(self._table, pruned=False)
        return whole.without(self.hidden_ids)

    @property
    def reliabilities(self) -> Float[np.ndarray, " items"] | None:
        """How far every item can be relied on, in row order; None where nothing is pruned (section 3.6)."""
        return self.rows.reliabilities(self.rows.living())

    def label_counts(self) -> dict[str, int]:
        """Return how many items each label has, most frequent first."""
        left = Counter[str]()
        for label, count in self._table.label_counts().items():  # which the first memories may spell in two ways
            left[composed(label)] += count
        left.subtract(self.rows.labels(self._hidden).tolist())
        return {label: left[label] for label in sorted(left, key=lambda label: (-left[label], label)) if left[label]}

    def rows_of(self, ids: Sequence[str]) -> Int[np.ndarray, " ids"]:
        """Return the rows of some ids, -1 for an id that is not there."""
        slots = self.rows.find(list(ids))
        return np.where(slots < 0, -1, self.rows.numbers_of(slots))

    def vectors(self) -> Float[np.ndarray, "items dimension"]:
        """Return every vector as it is stored, float32, in row order; read anew at each call."""
        return self._table.vectors()

    def pictures(self, rows: Int[np.ndarray, " rows"]) -> tuple[list[str], list[bytes | None]]:
        """Return the ids and thumbnails of some rows."""
        addresses = self.rows.addresses(self.rows.slots_of(rows))
        taken = self._table.take_at(addresses, ["id", "thumbnail"])
        return taken["id"].to_pylist(), taken["thumbnail"].to_pylist()

    @cached_property
    def mean(self) -> Float[np.ndarray, " dimension"]:
        """The mean of all vectors, float64."""
        total = np.zeros(self._table.dimension)
        for block in self._table:
            total += to_unit(block).sum(axis=0, dtype=np.float64)
        mean: np.ndarray = total / len(self.rows)
        return mean

    @property
    def index_kind(self) -> str:
        """The kind of index that answers, built now if need be."""
        return self._layers.stored.index.kind

    @property
    def findable(self) -> int:
        """How many items a search can find: what was pruned away takes no part."""
        return len(self._layers)

    def search(
        self, queries: Float[np.ndarray, "queries dimension"], k: int, *, recall: float = DEFAULT_RECALL
    ) -> Neighbors:
        """Return the neighbours of unit vectors, nearest first."""
        check_neighbors(k)
        if not 0 < recall <= MOST_RECALL:
            raise InvalidArgument(
                f"recall={recall}: a share above 0, up to {MOST_RECALL}, expected; index exact finds all"
            )
        items = self.findable
        if k > items:
            if not len(self.rows):
                raise InvalidArgument("the memory is empty: add pictures with `vmem memory add MEMORY FOLDER`")
            if not items:
                raise InvalidArgument(
                    "no item of the memory takes part in decisions: undo the pruning, or add pictures"
                )
            said = f"k={k} is more than the {items} items in the memory: all {items} are used"
            warnings.warn(said, VisualMemoryWarning, stacklevel=3)
            k = items
        if not len(queries):
            nothing = np.empty((0, k))
            return Neighbors(nothing, nothing, nothing.astype(np.int64), lambda: nothing)
        slots, distances = self._layers.search(queries, k, recall=recall)
        rows, factors = self.rows, self.rows.reliabilities(slots)
        if factors is not None and (factors == 1).all():
            factors = None
        return Neighbors(rows.labels(slots), distances, rows.numbers_of(slots), lambda: rows.ids(slots), factors)

    def centred(self) -> "Snapshot":
        """Return the same version without the mean of its vectors."""
        return Snapshot(self._table, self._path, centred=True, saves=self._saves).without(self.hidden_ids)

    def slots_of(self, ids: Iterable[object]) -> Int[np.ndarray, " ids"]:
        """Return the slots of some ids, in their order.

        Raises:
            InvalidArgument: one text in place of several.
            UnknownItem: ids that are not there.
        """
        ids = asked_ids(ids)
        slots = self.rows.find(ids)
        missing = np.flatnonzero((slots < 0) | np.isin(slots, self._hidden))
        if missing.size:
            some = tuple(ids[place] for place in missing[:_NAMED])
            which = f"item {some[0]!r}" if missing.size == 1 else f"items {', '.join(map(repr, some))}"
            which += f" and {missing.size - len(some):,} more" if missing.size > len(some) else ""
            raise UnknownItem(
                f"{self._path} has no {which}: nothing was changed; `vmem memory search` shows ids",
                ids=some,
            )
        return slots

    def select(
        self, *, ids: Iterable[object] | None = None, label: str | None = None, where: str | None = None
    ) -> Int[np.ndarray, " found"]:
        """Return the slots of the items that one of three ways of choosing means.

        Raises:
            InvalidArgument: none or several ways, or a condition that is none.
            UnknownItem: ids that are not there, or a label or a condition that nothing has.
        """
        if sum(choice is not None for choice in (ids, label, where)) != 1:
            raise InvalidArgument("say which items: give one of ids, label and where")
        if ids is not None:
            return np.unique(self.slots_of(ids))
        if label is not None:
            slots = self.rows.with_label(composed(label) if isinstance(label, str) else stored_text(label, "label"))
        else:  # written by hand, its texts may be spelt otherwise than those that are kept
            tries = dict.fromkeys([composed(str(where)), *spellings(str(where))])
            found = next(filter(len, map(self._table.select, tries)), np.empty(0, np.uint64))
            slots = self.rows.at_addresses(found)
        if not len(slots):
            wanted = f"with the label {label!r}" if label is not None else f"where {where}"
            raise UnknownItem(f"{self._path} has no item {wanted}: nothing was changed", ids=())
        return slots

    def without(self, ids: Iterable[object]) -> "Snapshot":
        """Return what answers as if some items were gone.

        Raises:
            UnknownItem: ids that are not there.
        """
        slots = np.unique(self.slots_of(ids))
        if not len(slots):
            return self
        view = copy.copy(self)
        view._layers = self._layers.without(slots)
        view._hidden = np.union1d(self._hidden, slots)
        return view

    def changed(self, table: ItemTable, dead: Int[np.ndarray, " dead"], new: "pyarrow.Table") -> "Snapshot":
        """Return the snapshot of the version that an edit made from this one, without reading it all.

        Args:
            table: at the new version.
            dead: slots of items that are gone, or have gone to another slot.
            new: light columns of the items that came, in other slots or for the first time.
        """
        after = Snapshot(table, self._path, saves=self._saves)
        if "rows" not in vars(self) or self.rows.crowded:
            return after
        after.rows = self.rows.changed(dead, new)
        if "_layers" in vars(self):
            layers = self._relayered(after, dead)
            if not is_crowded(len(layers.fresh), items=len(layers)):
                after._layers = layers
        return after

    def _relayered(self, after: "Snapshot", dead: np.ndarray) -> Layers:
        before, came = self._layers, after._taking_part(np.arange(self.rows.slots, after.rows.slots))
        left = dict(zip(self.rows.keys(dead).tolist(), dead.tolist(), strict=True))
        pairs = (
            (left.get(key, -1), slot) for key, slot in zip(after.rows.keys(came).tolist(), came.tolist(), strict=True)
        )
        moves = {old: new for old, new in pairs if old >= 0 and before.position(old) is not None}
        gone = np.setdiff1d(dead, np.fromiter(moves, np.int64, len(moves)))
        came = np.setdiff1d(came, np.fromiter(moves.values(), np.int64, len(moves)))
        layers = before.without(gone).moving(moves)
        return layers.adding(came, after._vectors_in(came)) if len(came) else layers


def check_neighbors(k: object) -> None:
    """Raise InvalidArgument unless k is a whole number of at least 1."""
    if type(k) is int and k > 0:  # asked first, since asking for an Integral takes as long as finding a label
        return
    if isinstance(k, bool) or not isinstance(k, Integral) or int(k) < 1:
        raise InvalidArgument(f"k={k!r}: a whole number of neighbours, 1 or more, expected")
