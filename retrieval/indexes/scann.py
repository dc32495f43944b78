"""Approximate search with ScaNN (Guo et al., 2020), as in section 2.2 of the paper."""

import math
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
from jaxtyping import Float, Int

BRUTE_FORCE_BELOW: Final = 10_000
"""Below this many vectors ScaNN's own brute force answers in 0.4 ms or less: no tree is worth its misses."""

_LEAVES_PER_ROOT: Final = 2.0  # leaves of the tree = 2 √n: fastest at recall 0.99 between 1,000 and 1,000,000 vectors
_SEARCHED_SHARE: Final = 0.25  # of the leaves: 0.17 to 0.25 give recall@50 of 0.99
_REORDER_PER_NEIGHBOR: Final = 6  # candidates compared exactly
_LEAST_REORDERED: Final = 300
_TRAINING_SAMPLE: Final = 250_000
# No anisotropic quantisation: the value of 0.2 that examples carry drops recall to a third on clustered unit vectors.
_DIMENSIONS_PER_BLOCK: Final = 2


class ScannIndex:
    """A tree of leaves, quantised comparison inside them, exact comparison of the best."""

    kind: ClassVar[str] = "scann"

    def __init__(self, searcher: Any) -> None:  # noqa: ANN401 - ScaNN is untyped
        self._searcher = searcher
        self._size = int(searcher.size())

    @classmethod
    def build(cls, vectors: Float[np.ndarray, "items dimension"]) -> "ScannIndex":
        """Return an index over a copy of the vectors, trained on all cores."""
        from scann import scann_ops_pybind

        items = len(vectors)
        builder = scann_ops_pybind.builder(np.asarray(vectors), min(items, 50), "dot_product")
        if items < BRUTE_FORCE_BELOW:
            return cls(builder.score_brute_force().build())
        leaves = round(_LEAVES_PER_ROOT * math.sqrt(items))
        tree = builder.tree(
            num_leaves=leaves,
            num_leaves_to_search=round(_SEARCHED_SHARE * leaves),
            training_sample_size=min(items, _TRAINING_SAMPLE),
        )
        return cls(tree.score_ah(_DIMENSIONS_PER_BLOCK).reorder(_LEAST_REORDERED).build())

    @classmethod
    def load(cls, folder: Path) -> "ScannIndex":
        """Return the index that `save` wrote.

        Raises:
            ValueError: the files are damaged, or a pickle lies among them, which ScaNN's loader would run.
        """
        from scann import scann_ops_pybind

        if any(folder.glob("*.pkl")):
            raise ValueError(f"{folder} holds a pickle, which no index of ours has: delete the folder")
        try:
            return cls(scann_ops_pybind.load_searcher(str(folder)))
        except (RuntimeError, OSError) as error:
            raise ValueError(f"the ScaNN files in {folder} are damaged: {error}") from error

    def save(self, folder: Path) -> None:
        """Write ScaNN's own files, with paths relative to the folder."""
        self._searcher.serialize(str(folder), relative_path=True)

    def __len__(self) -> int:
        return self._size

    def search(
        self, queries: Float[np.ndarray, "queries dimension"], k: int
    ) -> tuple[Int[np.ndarray, "queries k"], Float[np.ndarray, "queries k"]]:
        """Return positions and cosine distances, nearest first."""
        reordered = min(self._size, max(_LEAST_REORDERED, _REORDER_PER_NEIGHBOR * k))
        positions, similarities = self._searcher.search_batched_parallel(queries, k, reordered)
        positions, similarities = positions.astype(np.int64), similarities.astype(np.float32)
        # NaN: the leaves searched held fewer than k vectors. Search every leaf for those queries.
        short = np.flatnonzero(np.isnan(similarities).any(axis=1))
        if short.size:
            found = self._searcher.search_batched_parallel(queries[short], k, self._size, self._size)
            positions[short], similarities[short] = found
        return positions, np.clip(1.0 - similarities, 0.0, 2.0)
