"""One progress bar for everything that takes longer than a moment."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def track(
    items: Iterable[T], what: str, *, total: int | None = None, unit: str = " images", shown: bool = True
) -> Iterator[T]:
    """Yield the items, with a bar on standard error, or in the notebook, once it has taken a second.

    Nothing is shown where standard error is no terminal.
    """
    from tqdm.auto import tqdm

    hidden = None if shown else True  # None: tqdm looks whether there is a terminal
    yield from tqdm(items, desc=what, total=total, unit=unit, disable=hidden, delay=1.0, file=sys.stderr)
