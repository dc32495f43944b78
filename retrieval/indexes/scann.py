"""Approximate search with ScaNN (Guo et al., 2020), as in section 2.2 of the paper.

ScaNN holds a tree and a few bits for each number of a vector, by which it names candidates. They are compared exactly
from rows of 16-bit fixed point mapped from disk: a memory of a million opens at once, and takes half the room.
"""

import json
import os
import tempfile
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
from jaxtyping import Float, Int, UInt32

from retrieval.indexes import base, plans
from retrieval.indexes.base import DEFAULT_RECALL, WORN_SHARE, Skipped, VectorBlocks, Written
from retrieval.indexes.exact import ExactIndex
from retrieval.indexes.fixed_point import ROWS, FixedPointRows, erase_rows
from retrieval.indexes.plans import Effort, Layout, Plan
from retrieval.support.allocator import return_freed_memory
from retrieval.support.parsing import parse_json
from retrieval.support.terminal import track

BATCHED_FROM: Final = 64
"""Queries from which ScaNN goes through a leaf for many of them at once, one and a half times as fast. It then rounds
otherwise, so that one candidate in a thousand is another. It does so from about 40 on, and in a third way from 3 to 40:
fewer than this are therefore asked one by one, so that there are two ways, not three."""

_CODES: Final = "hashed_dataset.npy"  # ScaNN's own names
_LEAF_OF_EACH: Final = "datapoint_to_token.npy"
_CENTRES: Final = "serialized_partitioner.pb"
_ASSETS: Final = "scann_assets.pbtxt"
_TELLING: Final = 0.99  # cosine of a centre to a vector: those of clusters reach 0.8
_NOTHING: Final = 1e-12  # below it a centre's length is that of one set to zeros
_BATCH: Final = 256  # queries or vectors that a thread takes at a time; fastest of 1 to 512

Searcher = Any
"""ScaNN's object, of which Python knows no type."""


def train(sample: Float[np.ndarray, "sample dimension"], layout: Layout) -> Searcher:
    """Return an empty searcher, trained on float32 vectors of length 1 by all cores."""
    from scann import scann_ops_pybind

    # No anisotropic quantisation: the 0.2 that examples carry drops recall to a third on clustered unit vectors.
    tree = scann_ops_pybind.builder(sample, 1, "dot_product").tree(
        num_leaves=layout.leaves, num_leaves_to_search=layout.leaves, training_sample_size=len(sample)
    )
    searcher = tree.score_ah(layout.dimensions_per_word).build().searcher
    searcher.delete(list(range(len(sample) - 1, -1, -1)))  # ScaNN trains on what it is to hold; from the end: no moves
    return searcher


def fill(searcher: Searcher, blocks: Iterable[np.ndarray], *, items: int) -> None:
    """Put float32 vectors of length 1, a number of items in all, after what a searcher holds."""
    for block in track(blocks, "Indexing", total=-(-items // base.BLOCK_ITEMS), unit=" blocks"):
        searcher.upsert([None] * len(block), block, _BATCH)


def save(searcher: Searcher, folder: Path) -> None:
    """Write a searcher's files, for which ScaNN makes a copy of its code words for each leaf. Raises OSError."""
    return_freed_memory()  # so that the copies, 2 GB for 2,000 leaves × 384 dimensions, do not come on top of it
    try:
        searcher.serialize(str(folder), True)  # with paths relative to the folder
    except RuntimeError as error:
        raise OSError(f"{folder} cannot be written: {error}") from error
    finally:
        return_freed_memory()


def load(folder: Path) -> Searcher:
    """Return the searcher that `save` wrote. Raises OSError and ValueError; damaged numbers can end the process."""
    from scann.scann_ops.py import scann_ops_pybind

    try:
        return scann_ops_pybind.scann_pybind.ScannNumpy(str(folder), (folder / _ASSETS).read_text())
    except RuntimeError as error:
        raise ValueError(f"the ScaNN files in {folder} are damaged: {error}") from error


def ask(
    searcher: Searcher, queries: Float[np.ndarray, "queries dimension"], effort: Effort
) -> tuple[UInt32[np.ndarray, "queries candidates"], Float[np.ndarray, "queries candidates"]]:
    """Return positions and rough similarities; NaN beside a position that is none, as the leaves held fewer."""
    candidates, batch = effort.candidates, 1
    rows = np.ascontiguousarray(queries, np.float32)
    if len(queries) == 1:  # a tenth faster than as a batch of one
        positions, similarities = searcher.search(rows[0], candidates, candidates, effort.leaves)
        if missing := candidates - len(positions):
            positions = np.pad(positions, (0, missing))
            similarities = np.pad(similarities, (0, missing), constant_values=np.nan)
        return positions[None], similarities[None]
    if len(queries) >= BATCHED_FROM:
        parts = max(-(-len(queries) // _BATCH), min(os.cpu_count() or 1, len(queries) // BATCHED_FROM))
        batch = -(-len(queries) // parts)  # parts of about one size, so that none is small
    found: tuple[np.ndarray, np.ndarray] = searcher.search_batched(
        rows, candidates, candidates, effort.leaves, len(queries) > 1, batch
    )
    return found


def imbalance_of(searcher: Searcher) -> float:
    """Return by how much more than the mean the leaf of an average vector holds: 0 for leaves of one size."""
    return float(searcher.get_health_stats()["partition_weighted_avg_relative_imbalance"])


def erase(folder: Path, positions: Int[np.ndarray, " erased"], rows: Float[np.ndarray, "erased dimension"]) -> Written:
    """Overwrite what a searcher's files hold of some vectors.

    They stay in some leaf, since ScaNN counts on one for each: in any, so that it says nothing of the vector. A leaf's
    centre is the mean of its vectors, and stays, unless it is as good as one of the erased. It is then set to zeros,
    and what else is in that leaf is found only by searches that look into many.

    Args:
        folder: of the searcher.
        positions: of the vectors.
        rows: the vectors, float32 of length 1.
    """
    partition, centres = _read_centres(folder)
    lengths = np.maximum(np.linalg.norm(centres, axis=1), _NOTHING)
    telling = np.flatnonzero((centres @ rows.T / lengths[:, None]).max(axis=1) > _TELLING)
    for leaf in telling.tolist():
        partition.kmeans.kmeans_tree.root.centers[leaf].dimension[:] = [0.0] * centres.shape[1]
    if telling.size:
        (folder / _CENTRES).write_bytes(partition.SerializeToString())
    anywhere = np.random.default_rng().integers(len(centres), size=len(positions))
    for name, value in ((_CODES, 0), (_LEAF_OF_EACH, anywhere)):
        array = np.load(folder / name, mmap_mode="r+", allow_pickle=False)
        array[positions] = value
        array.flush()
    written = {_CODES: positions, _LEAF_OF_EACH: positions}
    return written | ({_CENTRES: telling} if telling.size else {})


def _read_centres(folder: Path) -> tuple[Any, np.ndarray]:
    """Return ScaNN's message that holds the leaves' centres, and those."""
    from scann.partitioning import partitioner_pb2

    partition = partitioner_pb2.SerializedPartitioner()
    partition.ParseFromString((folder / _CENTRES).read_bytes())
    centres = partition.kmeans.kmeans_tree.root.centers
    return partition, np.array([np.array(centre.dimension, np.float32) for centre in centres])


_MOST: Final = 16_384  # candidates, whose rows take 40 MB at 384 dimensions; beyond, all vectors are gone through
_COMPARED_AT_A_TIME: Final = 65_536  # when all are
_ROUNDING: Final = 1e-6  # that similarities differ by which are computed in two ways


def search_tree(
    searcher: Searcher,
    rows: FixedPointRows,
    queries: Float[np.ndarray, "queries dimension"],
    k: int,
    plan: Plan,
    skip: Skipped | None,
) -> Int[np.ndarray, "queries k"]:
    """Return numbers (`retrieval.indexes.base`) of the nearest that are not skipped.

    Queries that lie far from their neighbours are asked for twice, as planned. Those most of whose candidates are
    skipped are asked for again, more widely each time, at last by all vectors.
    """
    living, enough = len(rows), max(k, plan.first.candidates // 2)
    if skip:
        living -= skip.number
        plan = plan.times(len(rows) / max(living, 1))
    numbers, asked = np.empty((len(queries), k), np.int64), np.arange(len(queries))
    while living > _MOST >= plan.first.candidates:
        some = queries[asked]
        found = rows.ranked(some, *ask(searcher, some, plan.first), skip.mask if skip else None)
        found.sort(axis=1)
        numbers[asked] = found[:, :k]
        unsure = found[:, enough - 1] == base.NOTHING
        if plan.beyond < plans.NONE_IS_FARTHER:
            unsure |= found[:, plans.NEIGHBORS - 1] > base.farthest_within(plan.beyond)
        if not unsure.any():
            return numbers
        asked, plan = asked[unsure], plan.again()
    numbers[asked] = _compare_all(rows, queries[asked], k, skip)
    return numbers


def measure_plans(searcher: Searcher, rows: FixedPointRows, leaves: int) -> tuple[Plan, ...]:
    """Return the plans (`retrieval.indexes.plans`) that find enough of the neighbours of some of the vectors.

    Those are the last of the shuffled ones, where the tree was trained on the first.
    """
    own = np.sort(rows.shuffled()[-plans.asked_of(len(rows)) :])
    queries = rows.unit(own)
    nearest = _compare_all(rows, queries, plans.NEIGHBORS + 1, None)  # each is its own nearest
    farthest = base.unranked(nearest)[1][:, -1:]

    def search(effort: Effort) -> tuple[np.ndarray, np.ndarray]:
        positions, distances = base.unranked(rows.ranked(queries, *ask(searcher, queries, effort), None))
        distances[positions == own[:, None]] = np.nan
        return distances <= farthest + _ROUNDING, distances

    return tuple(plans.cheapest_plans(search, items=len(rows), leaves=leaves))


def _compare_all(rows: FixedPointRows, queries: np.ndarray, k: int, skip: Skipped | None) -> np.ndarray:
    """Return numbers of the nearest of all vectors that are not skipped."""
    living = np.arange(len(rows)) if skip is None else np.flatnonzero(~skip.mask)
    numbers = np.empty((len(queries), 0), np.int64)
    for start in range(0, len(living), _COMPARED_AT_A_TIME):
        some = living[start : start + _COMPARED_AT_A_TIME]
        found, distances = ExactIndex(rows.unit(some)).search(queries, min(k, len(some)))
        numbers = np.concatenate([numbers, base.ranked(some[found], 1 - distances)], axis=1)
        numbers = np.sort(numbers, axis=1)[:, :k]
    return numbers


BRUTE_FORCE_BELOW: Final = 10_000
"""Below this many vectors comparing all takes 0.4 ms or less: no tree is worth its misses."""

_FACTS: Final = "facts.json"
_GROWTH: Final = 2.0  # since training: the best number of leaves goes by the root, and has grown by 1.4 from here on
_UNEVEN: Final = 0.5  # more imbalance than after training: the leaves that a search reads hold half as much again
_QUERIES_AT_A_TIME: Final = 4096  # whose candidates take 10 MB


@dataclass(frozen=True, slots=True)
class Facts:
    """What an index's other files do not say."""

    dimension: int
    trained: int  # vectors there were when the tree was trained; 0 where there is no tree
    leaves: int
    imbalance: float  # of the leaves after training
    plans: tuple[Plan, ...]  # for each of `plans.RECALLS`

    @classmethod
    def read(cls, folder: Path) -> "Facts":
        """Return what a folder's file says. Raises OSError, ValueError or TypeError."""
        facts = parse_json((folder / _FACTS).read_text())
        known = (Plan(Effort(**plan["first"]), plan["beyond"], Effort(**plan["second"])) for plan in facts["plans"])
        return cls(**{**facts, "plans": tuple(known)})

    def plan(self, recall: float, k: int) -> Plan:
        """Return what finds a share of the k nearest; the most there is, where no more was measured."""
        place = min(bisect_left(plans.RECALLS, recall), len(plans.RECALLS) - 1)
        return self.plans[place].for_neighbors(k)


class ScannIndex:
    """A tree of leaves, quantised comparison inside them, exact comparison of the best.

    A query's neighbours do not depend on which queries are searched beside it. They may, by one candidate in a
    thousand, on whether ScaNN is asked for `BATCHED_FROM` or more at once, at first or for those asked again.
    """

    kind: ClassVar[str] = "scann"
    saved: ClassVar[bool] = True
    mapped: ClassVar[tuple[str, ...]] = (ROWS,)

    def __init__(self, rows: FixedPointRows, searcher: Searcher | None, facts: Facts, folder: Path | None) -> None:
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
            return cls._noted(rows, None, Facts(rows.dimension, 0, 0, 0.0, ()), folder)
        layout = plans.layout_for(len(rows))
        searcher = train(rows.sample(layout.sample), layout)
        fill(searcher, rows, items=len(rows))
        imbalance = imbalance_of(searcher)
        if folder is not None:  # before rows are mapped, since this is when most memory is taken
            save(searcher, folder)
            rows = rows.arranged(np.load(folder / _LEAF_OF_EACH, allow_pickle=False), folder)
        found = measure_plans(searcher, rows, layout.leaves)
        return cls._noted(rows, searcher, Facts(rows.dimension, len(rows), layout.leaves, imbalance, found), folder)

    @classmethod
    def _noted(cls, rows: FixedPointRows, searcher: Searcher | None, facts: Facts, folder: Path | None) -> "ScannIndex":
        if folder is not None:
            (folder / _FACTS).write_text(json.dumps(asdict(facts)))
        return cls(rows, searcher, facts, folder)

    @classmethod
    def load(cls, folder: Path) -> "ScannIndex":
        """Return the index in a folder; its tree is read, its rows are mapped."""
        facts = Facts.read(folder)
        rows = FixedPointRows.load(folder, dimension=facts.dimension)
        searcher = load(folder) if facts.trained else None
        if searcher and searcher.size() != len(rows):
            raise ValueError(f"{folder} holds {len(rows)} vectors, but {searcher.size()} in the tree")
        return cls(rows, searcher, facts, folder)

    def extended(self, blocks: VectorBlocks, folder: Path | None) -> "ScannIndex":
        """Return another index with more vectors, put into the leaves that there are."""
        rows = FixedPointRows.write(blocks, folder, before=self._rows)
        searcher = None
        if self._searcher is not None:
            if folder is None or self._folder is None:  # without its files, which may have been replaced
                with tempfile.TemporaryDirectory() as aside:
                    save(self._searcher, Path(aside))
                    searcher = load(Path(aside))
            else:
                searcher = load(self._folder)
            fill(searcher, rows.blocks(len(self)), items=len(blocks))
            if folder is not None:
                save(searcher, folder)
        return self._noted(rows, searcher, self._facts, folder)

    @classmethod
    def erase(cls, folder: Path, positions: Int[np.ndarray, " erased"]) -> Written:
        """Overwrite rows, lengths, codes and leaves, and centres of leaves that are as good as one of the vectors."""
        facts = Facts.read(folder)
        rows = FixedPointRows.load(folder, dimension=facts.dimension)
        written = erase(folder, positions, rows.unit(positions)) if facts.trained else {}
        return {**written, **erase_rows(folder, positions, dimension=facts.dimension)}

    @classmethod
    def discard(cls, folder: Path, *, live: Path | None = None) -> None:
        """Do nothing: there is nothing outside the folder."""

    def worn(self, *, skipped: int) -> bool:
        """Tell whether much is skipped, there are twice or half as many vectors as trained on, or leaves are uneven."""
        if skipped > WORN_SHARE * len(self):
            return True
        if self._searcher is None:
            return len(self) >= BRUTE_FORCE_BELOW
        grown = len(self) > _GROWTH * self._facts.trained or _GROWTH * (len(self) - skipped) < self._facts.trained
        return grown or imbalance_of(self._searcher) > self._facts.imbalance + _UNEVEN

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
            return base.unranked(search_tree(self._searcher, self._rows, queries, k, plan, skip))
        parts = np.array_split(queries, -(-len(queries) // _QUERIES_AT_A_TIME))  # of one size, so that none is small
        found = [search_tree(self._searcher, self._rows, part, k, plan, skip) for part in parts]
        return base.unranked(np.concatenate(found))
