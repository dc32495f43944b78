"""Pictures inside a page: each kept once, small, and named by its number."""

import base64
from collections.abc import Callable, Hashable, Sequence
from typing import Final

from eval.types import Dataset, Sample
from retrieval.errors import ImageError
from retrieval.images import ImageLike, decode, thumbnail

QUERY_PIXELS: Final = 160
NEIGHBOR_PIXELS: Final = 96
_QUALITY: Final = 75  # of JPEG: half the bytes of 85, and as good at this size
NO_PICTURE: Final = -1


class Pictures:
    """The pictures of a page."""

    def __init__(self) -> None:
        self.encoded: list[str] = []  # JPEG in base64, by number
        self._numbers: dict[Hashable, int] = {}

    def query(self, sample: Sample | None, key: Hashable) -> int:
        """Return the number of a query's picture, -1 where there is none that can be used."""
        return self._number(key, None if sample is None else sample.picture, QUERY_PIXELS)

    def neighbor(self, stored: bytes | None, key: Hashable) -> int:
        """Return the number of a neighbour's picture, -1 where the memory keeps none."""
        return self._number(key, None if stored is None else lambda: stored, NEIGHBOR_PIXELS)

    def _number(self, key: Hashable, read: Callable[[], ImageLike] | None, pixels: int) -> int:
        if key not in self._numbers:
            small = None if read is None else scaled(read, pixels)
            self._numbers[key] = NO_PICTURE if small is None else len(self.encoded)
            if small is not None:
                self.encoded.append(base64.b64encode(small).decode())
        return self._numbers[key]


def find_samples(dataset: Dataset | None, ids: Sequence[str]) -> list[Sample | None]:
    """Return some of a data set's samples by their ids; None for those that are no longer there."""
    wanted = set(ids)
    found = {sample.id: sample for sample in dataset.samples if sample.id in wanted} if dataset else {}
    return [found.get(query) for query in ids]


def scaled(read: Callable[[], ImageLike], pixels: int) -> bytes | None:
    """Return a picture as JPEG that fits so many pixels; None where it cannot be used."""
    try:
        return thumbnail(decode(read()), longest_side=pixels, quality=_QUALITY)
    except ImageError:  # a file that is gone by now leaves a gap on the page
        return None
