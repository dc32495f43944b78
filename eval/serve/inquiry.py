"""A picture put to the memory: searched once, counted as often as somebody moves a slider."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from jaxtyping import Float

from eval.wording import counted
from retrieval.errors import InvalidArgument
from retrieval.labels import full_name
from retrieval.types import Label, Neighbor, Neighbors, Votes
from retrieval.view import MemoryView
from retrieval.voting import count_votes

MOST_NEIGHBORS: Final = 200


@dataclass(frozen=True, slots=True)
class Inquiry:
    """What a search found, for up to `MOST_NEIGHBORS` to be counted."""

    view: MemoryView  # the memory without what was left out
    found: Neighbors  # of one query

    @classmethod
    def make(cls, memory: MemoryView, vector: Float[np.ndarray, "1 dimension"], *, without: Iterable[str] = ()) -> Self:
        """Search for a picture's neighbours as if some items were gone; ids that are not there do not matter.

        Raises:
            InvalidArgument: nothing is left that could be found.
        """
        hidden = list(without)
        there = memory.snapshot().rows_of(hidden) >= 0 if hidden else ()
        hidden = [item for item, known in zip(hidden, there, strict=True) if known]
        view = memory.without(hidden) if hidden else memory
        if view.findable < 1:
            raise InvalidArgument("no picture of the memory is left that could be a neighbour")
        return cls(view, view.search_vectors(vector, k=min(MOST_NEIGHBORS, view.findable)))

    def count(self, k: int, method: str) -> tuple[tuple[Neighbor, ...], Votes]:
        """Return the nearest k neighbours and their vote."""
        nearest = self.found.nearest(k)
        (votes,) = count_votes(nearest.labels, nearest.distances, method=method, factors=nearest.reliabilities)
        return nearest[0], votes


def verdict(votes: Votes, voters: int, method: str) -> str:
    """Return a vote's decision in words."""
    share = f"{votes.percents[0]} % of the vote" if votes.weights[0] else "nobody has a vote, so the nearest decides"
    return f"{full_name(votes.winner)}: {share}, {counted(voters, 'neighbour')} by {method} voting"


def change(before: Label | None, after: Label) -> str:
    """Return in words whether a decision is another one than before; empty at the first."""
    if before is None:
        return ""
    if before == after:
        return f"The decision stays {full_name(after)}."
    return f"The decision changed: {full_name(before)} → {full_name(after)}"


def spoken(rank: int, neighbor: Neighbor) -> str:
    """Return what a neighbour's button is called for who does not see it."""
    return f"Neighbour {rank}, {full_name(neighbor.label)}, distance {neighbor.distance:.2f}"
