"""How a ScaNN tree is laid out and searched, by the number of vectors and their dimension."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Layout:
    """What is fixed when a tree is trained."""

    leaves: int
    dimensions_per_block: int  # that share one of 16 code words
    sample: int  # vectors that it is trained on


@dataclass(frozen=True, slots=True)
class Effort:
    """What a search may cost."""

    leaves: int  # looked into; ScaNN takes more than there are for all
    candidates: int  # compared exactly

    def times(self, factor: float) -> "Effort":
        """Return so many times the effort."""
        return Effort(math.ceil(self.leaves * factor), math.ceil(self.candidates * factor))


def layout_for(items: int, dimension: int) -> Layout:
    """Return the layout for a number of vectors."""
    leaves = round(2 * math.sqrt(items))
    return Layout(leaves, 2, min(items, 125 * leaves))


def effort_for(leaves: int, k: int) -> Effort:
    """Return what finds 0.99 of the k nearest in a tree of so many leaves."""
    return Effort(max(1, round(0.1 * leaves)), max(300, 6 * k))
