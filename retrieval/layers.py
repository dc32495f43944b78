"""One version searched by the index of another: what that has too much is skipped, what it lacks compared exactly."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

import numpy as np
from jaxtyping import Float, Int, Real

from retrieval.indexes.base import DEFAULT_RECALL, ArrayBlocks, Skipped
from retrieval.indexes.exact import ExactIndex
from retrieval.indexes.store import Stored

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

    @classmethod
    def over(cls, stored: Stored, match: Match, fresh: np.ndarray, vectors: np.ndarray) -> "Layers":
        """Put an index and the items beside it together."""
        return cls(stored, match, Skipped(match.slot_of < 0), fresh, vectors)

    def __len__(self) -> int:
        return self._items

    @cached_property
    def _items(self) -> int:
        return self._in_index + len(self.fresh)

    @property
    def crowded(self) -> bool:
        """Whether the items beside had better be taken into the index."""
        return is_crowded(len(self.fresh), items=len(self))

    @property
    def _in_index(self) -> int:
        return len(self.skip.mask) - self.skip.number

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
        skip = self.skip if self.skip.number else None
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
