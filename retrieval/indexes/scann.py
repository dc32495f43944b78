"""Approximate search with ScaNN (Guo et al., 2020), as in section 2.2 of the paper.

ScaNN holds a tree and a few bits for each number of a vector, by which it names candidates. They are compared exactly
from rows of 16-bit fixed point mapped from disk: a memory of a million opens at once, and takes half the room.
"""

import json
import tempfile
from bisect import bisect_left
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Final

import numpy as np
from jaxtyping import Float, Int

from retrieval.indexes import tree
from retrieval.indexes.base import DEFAULT_RECALL, WORN_SHARE, Skipped, VectorBlocks, Written
from retrieval.indexes.candidates import measure_plans, search_tree
from retrieval.indexes.exact import ExactIndex
from retrieval.indexes.fixed_point import ROWS, FixedPointRows, erase_rows
from retrieval.indexes.nearest import unranked
from retrieval.indexes.tuning import RECALLS, Effort, Plan, layout_for
from retrieval.outside import parse_json

BRUTE_FORCE_BELOW: Final = 10_000
"""Below this many vectors comparing all takes 0.4 ms or less: no tree is worth its misses."""

_FACTS: Final = "facts.json"
_GROWTH: Final = (
    2.0  # since training: the best number of leaves goes by the root, and is 1.4 times another from here on
)
_UNEVEN: Final = 0.5  # more imbalance than after training: the leaves that a search reads hold half as much again
_QUERIES_AT_A_TIME: Final = 4096  # whose candidates take 10 MB


@dataclass(frozen=True, slots=True)
class Facts:
    """What an index's other files do not say."""

    dimension: int
    trained: int  # vectors there were when the tree was trained; 0 where there is no tree
    leaves: int
    imbalance: float  # of the leaves after training
    plans: tuple[Plan, ...]  # for each of `RECALLS`

    @classmethod
    def read(cls, folder: Path) -> "Facts":
        """Return what `write` wrote. Raises OSError, ValueError or TypeError."""
        facts = parse_json((folder / _FACTS).read_text())
        plans = (Plan(Effort(**plan["first"]), plan["beyond"], Effort(**plan["second"])) for plan in facts["plans"])
        return cls(**{**facts, "plans": tuple(plans)})

    def write(self, folder: Path) -> None:
        """Write the facts into a folder."""
        (folder / _FACTS).write_text(json.dumps(asdict(self)))

    def plan(self, recall: float, k: int) -> Plan:
        """Return what finds a share of the k nearest; the most there is, where no more was measured."""
        return self.plans[min(bisect_left(RECALLS, recall), len(RECALLS) - 1)].for_neighbors(k)


class ScannIndex:
    """A tree of leaves, quantised comparison inside them, exact comparison of the best.

    A query's neighbours do not depend on which queries are searched beside it. They may, by one candidate in a
    thousand, on whether ScaNN is asked for `tree.BATCHED_FROM` or more at once, at first or for those asked again.
    """

    kind: ClassVar[str] = "scann"
    saved: ClassVar[bool] = True
    mapped: ClassVar[tuple[str, ...]] = (ROWS,)

    def __init__(self, rows: FixedPointRows, searcher: tree.Searcher | None, facts: Facts, folder: Path | None) -> None:
        self._rows = rows
        self._searcher = searcher
        self._facts = facts
        self._folder = folder
        self._all = None if searcher else ExactIndex.build(rows)

    @classmethod
    def build(cls, blocks: VectorBlocks, folder: Path | None) -> "ScannIndex":
        """Return an index over vectors, its tree trained on a sample of them by all cores."""
        rows = FixedPointRows.write(blocks, folder)
        if len(rows) < BRUTE_FORCE_BELOW:
            return cls._kept(rows, None, Facts(rows.dimension, 0, 0, 0.0, ()), folder)
        layout = layout_for(len(rows))
        searcher = tree.train(rows.sample(layout.sample), layout)
        tree.fill(searcher, rows, items=len(rows))
        imbalance = tree.imbalance(searcher)
        if folder is not None:  # before rows are mapped, since this is when most memory is taken
            tree.save(searcher, folder)
            rows = rows.arranged(tree.leaf_of_each(folder), folder)
        plans = measure_plans(searcher, rows, layout.leaves)
        return cls._kept(rows, searcher, Facts(rows.dimension, len(rows), layout.leaves, imbalance, plans), folder)

    @classmethod
    def load(cls, folder: Path) -> "ScannIndex":
        """Return the index in a folder; its tree is read, its rows are mapped."""
        facts = Facts.read(folder)
        rows = FixedPointRows.load(folder, dimension=facts.dimension)
        searcher = tree.load(folder) if facts.trained else None
        if searcher and searcher.size() != len(rows):
            raise ValueError(f"{folder} holds {len(rows)} vectors, but {searcher.size()} in the tree")
        return cls(rows, searcher, facts, folder)

    def extended(self, blocks: VectorBlocks, folder: Path | None) -> "ScannIndex":
        """Return another index with more vectors, put into the leaves that there are."""
        rows = self._rows.extended(blocks, folder)
        if self._searcher is None:
            return self._kept(rows, None, self._facts, folder)
        searcher = self._copy() if folder is None or self._folder is None else tree.load(self._folder)
        tree.fill(searcher, rows.blocks(len(self)), items=len(blocks))
        if folder is not None:
            tree.save(searcher, folder)
        return self._kept(rows, searcher, self._facts, folder)

    @classmethod
    def _kept(
        cls, rows: FixedPointRows, searcher: tree.Searcher | None, facts: Facts, folder: Path | None
    ) -> "ScannIndex":
        if folder is not None:
            facts.write(folder)
        return cls(rows, searcher, facts, folder)

    def _copy(self) -> tree.Searcher:
        """Return another searcher like this one's; without its files, which may have been replaced."""
        with tempfile.TemporaryDirectory() as aside:
            tree.save(self._searcher, Path(aside))
            return tree.load(Path(aside))

    @classmethod
    def erase(cls, folder: Path, positions: Int[np.ndarray, " erased"]) -> Written:
        """Overwrite rows, lengths, codes and leaves, and centres of leaves that are as good as one of the vectors."""
        facts = Facts.read(folder)
        rows = FixedPointRows.load(folder, dimension=facts.dimension)
        written = tree.erase(folder, positions, rows.unit(positions)) if facts.trained else {}
        return {**written, **erase_rows(folder, positions, dimension=facts.dimension)}

    @classmethod
    def discard(cls, folder: Path, *, live: Path | None = None) -> None:
        """Do nothing: there is nothing outside the folder."""

    def worn(self, *, skipped: int) -> bool:
        """Tell whether a tree of the present size would be another, or its leaves have become uneven."""
        if skipped > WORN_SHARE * len(self):
            return True
        if self._searcher is None:
            return len(self) >= BRUTE_FORCE_BELOW
        grown = len(self) > _GROWTH * self._facts.trained or _GROWTH * (len(self) - skipped) < self._facts.trained
        return grown or tree.imbalance(self._searcher) > self._facts.imbalance + _UNEVEN

    def __len__(self) -> int:
        return len(self._rows)

    def search(
        self,
        queries: Float[np.ndarray, "queries dimension"],
        k: int,
        *,
        skip: Skipped | None = None,
        recall: float = DEFAULT_RECALL,
    ) -> tuple[Int[np.ndarray, "queries k"], Float[np.ndarray, "queries k"]]:
        """Return positions and cosine distances, nearest first; equal distances in order of position."""
        if self._all:
            return self._all.search(queries, k, skip=skip)
        plan = self._facts.plan(recall, k)
        if len(queries) <= _QUERIES_AT_A_TIME:
            return unranked(search_tree(self._searcher, self._rows, queries, k, plan, skip))
        parts = np.array_split(queries, -(-len(queries) // _QUERIES_AT_A_TIME))  # of one size, so that none is small
        found = [search_tree(self._searcher, self._rows, part, k, plan, skip) for part in parts]
        return unranked(np.concatenate(found))
