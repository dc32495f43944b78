"""What an analysis is given and what it gives."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from eval.types import Names, QueryResults

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Cell = str | int | float | None


@dataclass(frozen=True, slots=True)
class Neighborhoods:
    """The neighbours of one set of queries, from a run, a neighbour file or a search: all that most analyses need."""

    name: str  # of the data set
    embedder: str
    results: QueryResults

    def nearest(self, k: int | None) -> "Neighborhoods":
        """Return the same queries with their nearest k neighbours at most; None keeps all."""
        results = self.results
        if k is None or results.k <= k:
            return self
        cut = replace(
            results,
            neighbor_ids=Names(results.neighbor_ids.codes[:, :k], results.neighbor_ids.names),
            neighbor_labels=Names(results.neighbor_labels.codes[:, :k], results.neighbor_labels.names),
            neighbor_distances=results.neighbor_distances[:, :k],
            reliabilities=results.factors(np.s_[:, :k]),
        )
        return replace(self, results=cut)


@dataclass(frozen=True, slots=True)
class Analysis:
    """A table, a plot and a sentence."""

    name: str  # as on the command line: "aggregation"
    title: str
    source: str  # where in the paper: "Figures 2, 7 and 8; Tables 4 to 9"
    columns: tuple[str, ...]
    rows: list[tuple[Cell, ...]]
    finding: str  # what it shows, in a plain sentence with its figures
    draw: "Callable[[], Figure]"  # with units on the axes, and the paper's curve beside ours where it states numbers
    notes: list[str] = field(default_factory=list)  # how it differs from the paper's, one sentence each
