"""One progress bar for everything that takes longer than a moment."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from tqdm import tqdm

T = TypeVar("T")
_watcher: Final[ContextVar[Callable[[str, float], None] | None]] = ContextVar("watcher", default=None)


def track(
    items: Iterable[T], what: str, *, total: int | None = None, unit: str = " images", shown: bool = True
) -> Iterator[T]:
    """Yield the items, with a bar on standard error, or in the notebook, once it has taken a second.

    Nothing is shown where standard error is no terminal.
    """
    from tqdm.auto import tqdm

    hidden = None if shown else True  # None: tqdm looks whether there is a terminal
    told = _watcher.get()
    bar = tqdm(items, desc=what, total=total, unit=unit, disable=hidden, delay=1.0, file=sys.stderr)
    for done, item in enumerate(bar):
        if told and total:
            told(what, done / total)
        yield item


@contextmanager
def watched(told: Callable[[str, float], None]) -> Iterator[None]:
    """Have `track` say, in this thread, what it is at and which part is done, 0 to 1: for a page beside a terminal."""
    token = _watcher.set(told)
    try:
        yield
    finally:
        _watcher.reset(token)


@contextmanager
def counter(what: str, *, total: int, unit: str = " images", shown: bool = True) -> Iterator["Counter"]:
    """Give a bar like that of `track`, to be moved by hand, with words behind it."""
    from tqdm.auto import tqdm

    with tqdm(
        desc=what, total=total, unit=unit, disable=None if shown else True, delay=1.0, file=sys.stderr, leave=True
    ) as bar:
        yield Counter(bar)


class Counter:
    """A bar's handle."""

    def __init__(self, bar: "tqdm[None]") -> None:
        self._bar = bar

    def advance(self, steps: int, state: str) -> None:
        """Move on by some steps, and say how things stand."""
        self._bar.set_postfix_str(state, refresh=False)
        self._bar.update(steps)
