"""Work split over machines without a coordinator: each takes every n-th file of the same sorted list."""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from retrieval.errors import InvalidArgument

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Shard:
    """One worker's part of the work; parts of the same ``count`` never overlap and leave nothing out."""

    number: int  # from 1
    count: int

    def pick(self, items: Sequence[T]) -> Sequence[T]:
        """Return this worker's items: every ``count``-th, so that each worker gets some of every label."""
        return items[self.number - 1 :: self.count]

    def stream(self, items: Iterable[T]) -> Iterator[T]:
        """Yield what `pick` returns, of what is not listed but read."""
        return itertools.islice(items, self.number - 1, None, self.count)

    def size(self, total: int) -> int:
        """Return how many of ``total`` items are this worker's."""
        return len(range(self.number - 1, total, self.count))

    def name(self, file: Path) -> Path:
        """Return the name of this worker's own file beside the others': ``features-2-of-8.parquet``."""
        return file.with_name(f"{file.stem}-{self.number}-of-{self.count}{file.suffix}")


def parse_shard(text: str) -> Shard:
    """Return the shard that ``i/n`` says: worker i of n.

    Raises:
        InvalidArgument: anything else than two whole numbers with 1 <= i <= n.
    """
    parts = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    shard = Shard(int(parts[1]), int(parts[2])) if parts else Shard(0, 0)
    if not 1 <= shard.number <= shard.count:
        raise InvalidArgument(f"shard={text!r}: worker i of n as i/n with 1 <= i <= n expected, such as 2/8")
    return shard
