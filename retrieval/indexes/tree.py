"""ScaNN itself: training, filling, keeping and asking a tree of leaves with quantised vectors in them.

The object beneath its Python wrapper is used, which takes positions: the wrapper's `upsert` wants docids and would keep
them as a pickle, and its `load_searcher` runs a pickle that lies in the folder.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float, Int, UInt32

from retrieval.allocator import return_freed_memory
from retrieval.indexes.base import BLOCK_ITEMS, Written
from retrieval.indexes.tuning import Effort, Layout
from retrieval.progress import track

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
    for block in track(blocks, "Indexing", total=-(-items // BLOCK_ITEMS), unit=" blocks"):
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


def leaf_of_each(folder: Path) -> Int[np.ndarray, " items"]:
    """Return the leaf of each vector that a saved searcher holds."""
    leaves: np.ndarray = np.load(folder / _LEAF_OF_EACH, allow_pickle=False)
    return leaves


def imbalance(searcher: Searcher) -> float:
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
