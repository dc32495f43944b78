"""What runs on each machine of a Ray cluster: an embedder that turns blocks of pictures into blocks of vectors."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from retrieval.embedders import load_embedder
from retrieval.embedders.base import Embedder
from retrieval.embedders.execution import Requested
from retrieval.embedders.int8 import Calibration
from retrieval.errors import VisualMemoryError
from retrieval.features import FeatureCache
from retrieval.images import ImageLike
from retrieval.pipeline import EmbeddedBatch, embed_images

if TYPE_CHECKING:
    import pyarrow

PATH: Final = b"p"  # begins a picture's cell that holds its path, as the system spells it
BYTES: Final = b"b"  # begins one that holds its bytes


def to_cell(image: ImageLike) -> bytes:
    """Return a picture as it travels: a path, for machines that share their files, or what it holds.

    Raises:
        TypeError: neither a path nor bytes.
    """
    if isinstance(image, str | Path):
        return PATH + os.fsencode(os.path.abspath(image))
    if isinstance(image, bytes):
        return BYTES + image
    raise TypeError(f"got a picture as {type(image).__name__}: a path or bytes can be sent to a cluster")


def _from_cell(cell: bytes) -> ImageLike:
    return Path(os.fsdecode(cell[1:])) if cell[:1] == PATH else cell[1:]


class Worker:
    """An embedder on one machine; Ray makes as many as there is room for."""

    def __init__(
        self, name: str, requested: Requested, calibration: Sequence[bytes], thumbnail_pixels: int | None, cache: bool
    ) -> None:
        self._thumbnail_pixels = thumbnail_pixels
        self._embedder: Embedder | None = None
        pictures = Calibration([_from_cell(cell) for cell in calibration])
        try:
            self._embedder = load_embedder(name, **requested.to_dict(), calibration=pictures)
        except VisualMemoryError as error:  # Ray would make a page of it, three times: it is told with the first block
            self._about = json.dumps({"refused": [type(error).__name__, str(error)]})
            return
        identity, execution = self._embedder.identity, self._embedder.execution
        self._features = FeatureCache(identity, execution) if cache else None
        self._about = json.dumps({"identity": identity.to_json(), "execution": execution.to_dict()})

    def __call__(self, block: "pyarrow.Table") -> "pyarrow.Table":
        """Return vectors, or the reason why there is none, under the pictures' numbers."""
        import pyarrow as pa

        if self._embedder is None:
            return pa.table({"about": [self._about]})
        pictures = list(zip(block["number"].to_pylist(), block["image"].to_pylist(), strict=True))
        batches = embed_images(
            pictures,
            self._embedder,
            image_of=lambda picture: _from_cell(picture[1]),
            thumbnail_pixels=self._thumbnail_pixels,
            features=self._features,
        )
        return pa.concat_tables([self._rows(batch, self._embedder.identity.dimension) for batch in batches])

    def _rows(self, batch: EmbeddedBatch[tuple[int, bytes]], dimension: int) -> "pyarrow.Table":
        import pyarrow as pa

        good, bad = len(batch.items), len(batch.failures)
        vectors = np.zeros((good + bad, dimension), np.float32)
        vectors[:good] = batch.vectors
        nothing: list[None] = [None] * bad
        unasked: list[None] = [None] * good
        return pa.table(
            {
                "number": [number for number, _ in (*batch.items, *(failure.item for failure in batch.failures))],
                "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), dimension),
                "thumbnail": pa.array([*(batch.thumbnails or unasked), *nothing], pa.binary()),
                "digest": pa.array([*(batch.digests or unasked), *nothing], pa.string()),
                "error": pa.array(
                    [None] * good + [type(failure.error).__name__ for failure in batch.failures], pa.string()
                ),
                "reason": pa.array([None] * good + [str(failure.error) for failure in batch.failures], pa.string()),
                # Once a batch is enough to tell what made it.
                "about": pa.array([self._about] + [None] * (good + bad - 1), pa.string()),
            }
        )
