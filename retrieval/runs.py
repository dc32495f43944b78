"""Where numbers stand that come in runs, as the keys of items do."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """Numbers as runs of successive ones: small, and asked in steps that grow with the logarithm of the runs."""

    starts: Int[np.ndarray, " runs"]  # the first number of each run, in order
    places: Int[np.ndarray, " runs"]  # where it stands; the others of its run stand behind it
    lengths: Int[np.ndarray, " runs"]

    @classmethod
    def of(cls, numbers: Int[np.ndarray, " numbers"]) -> "Runs":
        """Return the runs of some numbers; negative ones stand for nothing.

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

    def without(self, others: Iterable["Runs"]) -> Int[np.ndarray, " left"]:
        """Return the numbers that none of the others has, in order."""
        ours = self.starts, self.starts + self.lengths
        theirs = list(others)
        starts = np.concatenate([self.starts[:0], *(runs.starts for runs in theirs)])
        order = np.argsort(starts, kind="stable")
        starts = starts[order]
        ends = np.concatenate([self.starts[:0], *(runs.starts + runs.lengths for runs in theirs)])[order]
        reached = np.maximum.accumulate(ends)  # runs of several others may overlap
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
