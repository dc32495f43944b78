"""What a searched memory keeps at hand of every item, and how an edit changes it without reading it all again.

Each item stands in a slot. An edit leaves the slots as they are: it marks some as dead and puts new ones at the end. A
row is an item's place among the living, as the table counts.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import Float, Int, Shaped, UInt64

from retrieval.labels import composed, is_text
from retrieval.storage.table import RELIABILITY, ItemTable

if TYPE_CHECKING:
    import pyarrow


_EDITS_AT_LEAST: Final = 4_096
_EDITED_SHARE: Final = 1 / 64  # of the items: from there on all is read anew, which takes 0.3 s for a million


class _Columns:
    """Columns of some items, in the table's order."""

    def __init__(self, table: "pyarrow.Table", names: Shaped[np.ndarray, " names"]) -> None:
        """Take over light columns; labels become numbers, for those names first that there are already."""
        import pyarrow as pa
        import pyarrow.compute as pc

        labels = _composed(table["label"].combine_chunks())
        new = pc.unique(labels).filter(pc.invert(pc.is_in(pc.unique(labels), value_set=pa.array(names, pa.string()))))
        self.names = np.concatenate([names, new.to_numpy(zero_copy_only=False)]) if len(new) else names
        self.label_codes = pc.index_in(labels, value_set=pa.array(self.names, pa.string())).to_numpy()
        self.ids = table["id"].combine_chunks()
        self.keys = table["key"].to_numpy()
        self.addresses = table["_rowid"].to_numpy()
        pruned = RELIABILITY in table.column_names
        self.reliabilities = pc.fill_null(table[RELIABILITY], 1.0).to_numpy() if pruned else None

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def _by_hash(self) -> tuple[Int[np.ndarray, " items"], Int[np.ndarray, " items"]]:
        """The ids' hashes in order, and whose they are: finds an id in steps that grow with the logarithm."""
        hashes = _hashes(self.ids.to_pylist())
        order = np.argsort(hashes)
        return hashes[order], order

    def find(self, ids: list[str]) -> Int[np.ndarray, " ids"]:
        """Return where some ids stand, -1 for one that is not there."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if not len(self):
            return np.full(len(ids), -1)
        hashes, order = self._by_hash
        wanted = _hashes(ids)
        asked = _texts(ids)
        first = np.minimum(np.searchsorted(hashes, wanted), len(self) - 1)
        places = np.where(hashes[first] == wanted, order[first], -1)
        there = self.ids.take(pa.array(np.maximum(places, 0)))
        unequal = (places >= 0) & ~pc.fill_null(pc.equal(there, asked), False).to_numpy(zero_copy_only=False)
        if unequal.any():  # two texts of one hash: these are looked up the long way
            found = pc.index_in(asked.filter(pa.array(unequal)), value_set=self.ids)
            places[unequal] = found.fill_null(-1).to_numpy()
        return places

    @cached_property
    def odd(self) -> dict[str, int]:
        """Where ids stand that are not in their composed form, as the first memories keep them, by that form."""
        import pyarrow.compute as pc

        places = np.flatnonzero(~pc.string_is_ascii(self.ids).to_numpy(zero_copy_only=False))
        ids = self.ids.take(places)
        changed = pc.not_equal(ids, _composed(ids)).to_numpy(zero_copy_only=False)
        return dict(zip(map(composed, ids.filter(changed).to_pylist()), places[changed].tolist(), strict=True))


def _composed(texts: "pyarrow.Array") -> "pyarrow.Array":
    import pyarrow.compute as pc

    plain = pc.all(pc.string_is_ascii(pc.unique(texts)), min_count=0).as_py()
    return texts if plain else pc.utf8_normalize(texts, form="NFC")


def _texts(ids: list[str]) -> "pyarrow.Array":
    """Return ids as a column; null for what cannot be one, and so is not there."""
    import pyarrow as pa

    try:
        return pa.array(ids, pa.string())
    except (pa.ArrowException, UnicodeError):
        return pa.array([id_ if is_text(id_) else None for id_ in ids], pa.string())


def _hashes(ids: list[str]) -> Int[np.ndarray, " ids"]:
    return np.fromiter(map(hash, ids), np.int64, len(ids))


@dataclass(frozen=True, eq=False)
class Rows:
    """Ids, labels, keys, row addresses and reliabilities of one version's items."""

    settled: _Columns
    recent: _Columns  # added since the settled ones were read; of an id that is there twice, the last counts
    dead: Int[np.ndarray, " dead"]  # slots, in order

    @classmethod
    def of(cls, table: ItemTable, *, pruned: bool = True) -> "Rows":
        """Read them from a table; without its reliabilities where what was pruned is to count as well."""
        columns = table.light_columns()
        if not pruned and RELIABILITY in columns.column_names:
            columns = columns.drop_columns(RELIABILITY)
        settled = _Columns(columns, np.empty(0, object))
        return cls(settled, _Columns(columns.slice(0, 0), settled.names), np.empty(0, np.int64))

    def __len__(self) -> int:
        return self.slots - len(self.dead)

    @property
    def slots(self) -> int:
        """How many slots there are, dead ones too."""
        return len(self.settled) + len(self.recent)

    @property
    def crowded(self) -> bool:
        """Whether there were so many edits that reading all anew is worth its time."""
        return len(self.recent) + len(self.dead) > max(_EDITS_AT_LEAST, _EDITED_SHARE * len(self.settled))

    def changed(self, dead: Int[np.ndarray, " dead"], new: "pyarrow.Table") -> "Rows":
        """Return the rows without some slots and with new ones at the end, in time that grows with the edits alone.

        Args:
            dead: slots.
            new: light columns.
        """
        import pyarrow as pa

        recent = self.recent
        if len(new):
            recent = _Columns(pa.concat_tables([self._recent_table(new), new]), recent.names)
        return Rows(self.settled, recent, np.union1d(self.dead, dead))

    def _recent_table(self, like: "pyarrow.Table") -> "pyarrow.Table":
        import pyarrow as pa

        recent = self.recent
        columns = {
            "id": recent.ids,
            "label": pa.array(recent.names[recent.label_codes], pa.string()),
            "key": recent.keys,
            RELIABILITY: recent.reliabilities,
            "_rowid": recent.addresses,
        }
        return pa.table([columns[name] for name in like.column_names], schema=like.schema)

    def numbers_of(self, slots: Int[np.ndarray, "*any"]) -> Int[np.ndarray, "*any"]:
        """Return the rows of living slots."""
        return slots - self.dead.searchsorted(slots) if len(self.dead) else slots

    def slots_of(self, rows: Int[np.ndarray, " rows"]) -> Int[np.ndarray, " rows"]:
        """Return the slots of some rows."""
        return rows + np.searchsorted(self.dead - np.arange(len(self.dead)), rows, side="right")

    def living(self) -> Int[np.ndarray, " items"]:
        """Return every living slot, in row order."""
        return np.delete(np.arange(self.slots), self.dead)

    def find(self, ids: list[str]) -> Int[np.ndarray, " ids"]:
        """Return the slots of some ids, -1 for one that is not there; as they are spelt, or else in another form."""
        slots = self._find_as_spelt(ids)
        lost = [place for place in np.flatnonzero(slots < 0).tolist() if is_text(ids[place])]
        lost = [place for place in lost if not ids[place].isascii()]
        if lost:
            wanted = [composed(ids[place]) for place in lost]
            known, odd = self._find_as_spelt(wanted), self._odd
            slots[lost] = [odd.get(text, -1) if slot < 0 else slot for text, slot in zip(wanted, known, strict=True)]
        return slots

    @cached_property
    def _odd(self) -> dict[str, int]:
        moved = {text: len(self.settled) + place for text, place in self.recent.odd.items()}
        both = [*self.settled.odd.items(), *moved.items()]
        alive = ~self._are_dead(np.array([slot for _, slot in both], np.int64))
        return {text: slot for (text, slot), living in zip(both, alive.tolist(), strict=True) if living}

    def _find_as_spelt(self, ids: list[str]) -> Int[np.ndarray, " ids"]:
        import pyarrow as pa
        import pyarrow.compute as pc

        slots = self.settled.find(ids)
        if len(self.recent):
            backwards = self.recent.ids.take(pa.array(np.arange(len(self.recent))[::-1]))
            found = pc.index_in(_texts(ids), value_set=backwards).fill_null(-1).to_numpy()
            slots = np.where(found >= 0, self.slots - 1 - found, slots)
        slots[self._are_dead(slots)] = -1
        return slots

    def _are_dead(self, slots: np.ndarray) -> np.ndarray:
        place = np.searchsorted(self.dead, slots)
        dead: np.ndarray = np.append(self.dead, -2)[place] == slots  # -2: no slot
        return dead

    def at_addresses(self, addresses: UInt64[np.ndarray, " found"]) -> Int[np.ndarray, " found"]:
        """Return the slots of rows that lie at some of Lance's addresses."""
        every = np.concatenate([self.settled.addresses, self.recent.addresses])
        order = np.argsort(every)
        slots: np.ndarray = order[np.searchsorted(every[order], addresses)]
        return slots

    def with_label(self, label: str) -> Int[np.ndarray, " found"]:
        """Return the slots of one label's items."""
        codes = np.flatnonzero(self.recent.names == label)
        both = np.concatenate([self.settled.label_codes, self.recent.label_codes])
        return np.setdiff1d(np.flatnonzero(np.isin(both, codes)), self.dead)

    def ids(self, slots: Int[np.ndarray, "*any"]) -> Shaped[np.ndarray, "*any"]:
        """Return the ids in some slots."""
        import pyarrow as pa

        flat = slots.ravel()
        if not len(self.recent):
            taken = self.settled.ids.take(pa.array(flat))
        else:
            taken = pa.chunked_array([self.settled.ids, self.recent.ids]).take(pa.array(flat)).combine_chunks()
        found: np.ndarray = taken.to_numpy(zero_copy_only=False)
        return found.reshape(slots.shape)

    def labels(self, slots: Int[np.ndarray, "*any"]) -> Shaped[np.ndarray, "*any"]:
        """Return the labels in some slots."""
        found: np.ndarray = self.recent.names[self._gathered("label_codes", slots)]
        return found

    def keys(self, slots: Int[np.ndarray, "*any"]) -> Int[np.ndarray, "*any"]:
        """Return the keys in some slots."""
        return self._gathered("keys", slots)

    def addresses(self, slots: Int[np.ndarray, "*any"]) -> UInt64[np.ndarray, "*any"]:
        """Return Lance's row addresses of some slots."""
        return self._gathered("addresses", slots)

    def reliabilities(self, slots: Int[np.ndarray, "*any"]) -> Float[np.ndarray, "*any"] | None:
        """Return how far the items in some slots can be relied on; None where nothing is pruned."""
        return None if self.settled.reliabilities is None else self._gathered("reliabilities", slots)

    def _gathered(self, column: str, slots: np.ndarray) -> np.ndarray:
        first, then = getattr(self.settled, column), getattr(self.recent, column)
        if not len(self.recent):
            settled: np.ndarray = first[slots]
            return settled
        early = slots < len(first)
        gathered = np.empty(slots.shape, then.dtype)
        gathered[early], gathered[~early] = first[slots[early]], then[slots[~early] - len(first)]
        return gathered


@dataclass(frozen=True, slots=True, eq=False)
class KeyRanges:
    """Keys as ranges of successive ones: small, and searched in steps that grow with the logarithm of their number."""

    starts: Int[np.ndarray, " ranges"]  # the first number of each range, in order
    places: Int[np.ndarray, " ranges"]  # where it stands; the others of its range stand behind it
    lengths: Int[np.ndarray, " ranges"]

    @classmethod
    def of(cls, numbers: Int[np.ndarray, " numbers"]) -> "KeyRanges":
        """Return the ranges of some keys; negative ones stand for nothing.

        Raises:
            ValueError: a number is there twice.
        """
        there = np.flatnonzero(numbers >= 0)
        kept = numbers[there]
        firsts = np.flatnonzero(np.diff(kept, prepend=-2) != 1)
        firsts = np.union1d(firsts, np.flatnonzero(np.diff(there, prepend=-2) != 1))
        lengths = np.diff(firsts, append=len(kept))
        order = np.argsort(kept[firsts], kind="stable")
        starts, places, lengths = kept[firsts][order], there[firsts][order], lengths[order]
        if (starts[1:] < starts[:-1] + lengths[:-1]).any():
            raise ValueError("a key is there twice")
        return cls(starts, places, lengths)

    def find(self, wanted: Int[np.ndarray, " wanted"]) -> Int[np.ndarray, " wanted"]:
        """Return where some numbers stand; -1 for one that does not."""
        if not len(self.starts):
            return np.full(len(wanted), -1)
        run = np.maximum(np.searchsorted(self.starts, wanted, side="right") - 1, 0)
        beyond = wanted - self.starts[run]
        return np.where((beyond >= 0) & (beyond < self.lengths[run]), self.places[run] + beyond, -1)

    def without(self, others: Iterable["KeyRanges"]) -> Int[np.ndarray, " left"]:
        """Return the numbers that none of the others has, in order."""
        ours = self.starts, self.starts + self.lengths
        theirs = list(others)
        starts = np.concatenate([self.starts[:0], *(ranges.starts for ranges in theirs)])
        order = np.argsort(starts, kind="stable")
        starts = starts[order]
        ends = np.concatenate([self.starts[:0], *(ranges.starts + ranges.lengths for ranges in theirs)])[order]
        reached = np.maximum.accumulate(ends)  # ranges of several others may overlap
        # What lies between theirs: before the first, after each, as far as the next.
        gaps = np.append(-1, reached), np.append(starts, np.iinfo(np.int64).max)
        first = np.searchsorted(gaps[1], ours[0], side="right")
        count = np.maximum(np.searchsorted(gaps[0], ours[1]) - first, 0)
        run = np.repeat(np.arange(len(count)), count)
        gap = np.arange(len(run)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)
        begins, stops = np.maximum(ours[0][run], gaps[0][gap]), np.minimum(ours[1][run], gaps[1][gap])
        lengths = np.maximum(stops - begins, 0)
        left: np.ndarray = np.arange(lengths.sum()) + np.repeat(begins - (np.cumsum(lengths) - lengths), lengths)
        return left
