"""Things kept for a while in the server's memory, by names that cannot be guessed."""

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """The latest things that together are no larger than a limit."""

    def __init__(self, *, most: int, size: Callable[[T], int]) -> None:
        """Begin with nothing.

        Args:
            most: bytes of all together; beyond them the oldest go.
            size: how many bytes one takes.
        """
        self._most = most
        self._size = size
        self._by_name: OrderedDict[str, T] = OrderedDict()
        self._changing = threading.Lock()

    def put(self, thing: T) -> str:
        """Keep a thing and return its name."""
        name = secrets.token_urlsafe(16)
        with self._changing:
            self._by_name[name] = thing
            while sum(map(self._size, self._by_name.values())) > self._most and len(self._by_name) > 1:
                self._by_name.popitem(last=False)
        return name

    def get(self, name: str) -> T | None:
        """Return a thing; None where it is not kept any more."""
        with self._changing:
            return self._by_name.get(name)
