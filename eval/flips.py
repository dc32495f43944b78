"""Where two sides differ: classes that moved, and queries that got another answer."""

from collections import Counter
from dataclasses import dataclass
from itertools import chain
from typing import Final, Literal

import numpy as np

from eval.intervals import mcnemar_p
from eval.pairing import Pairs

FlipKind = Literal["fixed", "broken", "wrong either way", "right either way"]
KINDS: Final[tuple[FlipKind, ...]] = ("fixed", "broken", "wrong either way", "right either way")


@dataclass(frozen=True, slots=True)
class MovedClass:
    """A true label some of whose queries were fixed or broken."""

    label: str
    count: int  # queries for which the label is right
    fixed: int
    broken: int
    p: float  # exact McNemar, two-sided
    q: float  # p by Benjamini and Hochberg's method, over the moved classes of the data set

    @property
    def net(self) -> int:
        """Queries won; below 0: lost."""
        return self.fixed - self.broken


@dataclass(frozen=True, slots=True)
class Flip:
    """A query that got another answer."""

    id: str
    truth: frozenset[str]
    before: str  # the answers
    after: str
    kind: FlipKind
    before_row: int  # its place in its side's `QueryResults`
    after_row: int


def moved_classes(pairs: Pairs) -> list[MovedClass]:
    """Return the true labels some of whose queries were fixed or broken, most moved first.

    A query with several right labels counts for each of them. Labels none of whose queries changed are no tests, and
    the adjustment of p leaves them out.
    """
    from scipy.stats import false_discovery_control

    truths, change = pairs.truths, pairs.change
    fixed, broken = (
        Counter(label for pair in np.flatnonzero(change == sign).tolist() for label in truths[pair]) for sign in (1, -1)
    )
    labels = sorted(fixed.keys() | broken.keys())
    if not labels:
        return []
    counts = Counter(chain.from_iterable(truths))
    p = mcnemar_p(*(np.array([moved[label] for label in labels]) for moved in (fixed, broken)))
    moved = [
        MovedClass(label, counts[label], fixed[label], broken[label], *both)
        for label, *both in zip(labels, p.tolist(), false_discovery_control(p).tolist(), strict=True)
    ]
    return sorted(moved, key=lambda one: (-abs(one.net), -one.fixed - one.broken))


def list_flips(pairs: Pairs) -> list[Flip]:
    """Return the queries that got another answer, in the order of the first side."""
    before, after = pairs.labels
    was_right, is_right = pairs.right
    # In KINDS' order: wrong and right, right and wrong, both wrong, both right.
    kind = np.where(was_right == is_right, 2 + is_right, was_right)
    ids, truths = pairs.before.results.ids, pairs.before.results.truths
    return [
        Flip(ids[row], truths[row], before[pair], after[pair], KINDS[kind[pair]], row, int(pairs.after_rows[pair]))
        for pair, row in zip(
            np.flatnonzero(before != after).tolist(), pairs.before_rows[before != after].tolist(), strict=True
        )
    ]
