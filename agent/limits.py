"""How many requests may travel: per minute, and at once."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from agent.config import TransportConfig

if TYPE_CHECKING:
    from aiolimiter import AsyncLimiter

_WINDOW_SECONDS: Final = 6.0  # a tenth of a minute: a minute never sees more than a tenth above its limit
_LONGEST_PAUSE_SECONDS: Final = 60.0  # of all for the sake of one: it may have asked for an hour
_FLAT_SECONDS: Final = 1.0  # complaints within this time are one: they speak of the same crowd


class Limits:
    """Admits requests: no more at once than the service bears, no more a minute than the user allows.

    Adaptive concurrency: it halves when the service says that there are too many, and grows by one with each round of
    calm answers, up to the configured number (additive increase, multiplicative decrease: Chiu and Jain, 1989).
    """

    def __init__(self, transport: TransportConfig) -> None:
        self._most = transport.concurrency
        self.allowed = float(transport.concurrency)
        self.in_flight = 0
        self._room = asyncio.Condition()
        self._pause_until = 0.0  # on the loop's clock
        self._last_cut = -math.inf
        self._requests = _per_minute(transport.requests_per_minute)
        self._tokens = _per_minute(transport.tokens_per_minute)

    @asynccontextmanager
    async def admitted(self, tokens: int) -> AsyncIterator[None]:
        """Wait for admission, and hold it while the context lasts."""
        if self._requests:
            await self._requests.acquire()
        remaining = float(tokens) if self._tokens else 0.0
        while self._tokens and remaining > 0:  # a request may be larger than what the window admits at once
            await self._tokens.acquire(min(remaining, self._tokens.max_rate))
            remaining -= self._tokens.max_rate
        async with self._room:
            await self._room.wait_for(lambda: self.in_flight < max(1, int(self.allowed)))
            self.in_flight += 1
        try:
            while (pause := self._pause_until - asyncio.get_running_loop().time()) > 0:
                await asyncio.sleep(pause)
            yield
        finally:
            async with self._room:
                self.in_flight -= 1
                self._room.notify_all()

    def calm(self) -> None:
        """Take note of an answer."""
        self.allowed = min(self._most, self.allowed + 1 / self.allowed)

    def crowded(self, pause_seconds: float | None) -> None:
        """Take note that the service had too many requests; all wait as long as it says."""
        now = asyncio.get_running_loop().time()
        if now - self._last_cut > _FLAT_SECONDS:
            self._last_cut = now
            self.allowed = max(1.0, self.allowed / 2)
        if pause_seconds:
            self._pause_until = max(self._pause_until, now + min(pause_seconds, _LONGEST_PAUSE_SECONDS))


def _per_minute(limit: float | None) -> "AsyncLimiter | None":
    from aiolimiter import AsyncLimiter

    if limit is None:
        return None
    return AsyncLimiter(max(1.0, limit * _WINDOW_SECONDS / 60), max(_WINDOW_SECONDS, 60 / limit))
