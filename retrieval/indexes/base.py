"""What every index can do."""

from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int


@runtime_checkable
class Index(Protocol):
    """Finds the nearest of a fixed set of unit vectors, known by their position in it."""

    kind: ClassVar[str]

    @classmethod
    def build(cls, vectors: Float[np.ndarray, "items dimension"]) -> "Index":
        """Return an index over float32 vectors of length 1; at least one."""
        ...

    @classmethod
    def load(cls, folder: Path) -> "Index":
        """Return the index that `save` wrote. Raises OSError or ValueError where the files are damaged."""
        ...

    def save(self, folder: Path) -> None:
        """Write the index into an empty folder, in files that hold data only, never code."""
        ...

    def __len__(self) -> int:
        """Return the number of vectors."""
        ...

    def search(
        self, queries: Float[np.ndarray, "queries dimension"], k: int
    ) -> tuple[Int[np.ndarray, "queries k"], Float[np.ndarray, "queries k"]]:
        """Return positions (int64) and cosine distances (float32), nearest first, for 1 <= k <= len(self)."""
        ...
