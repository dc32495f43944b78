"""Another attempt where that may help, within limits of time, number and patience. The only layer that retries."""

import asyncio
import itertools
import logging
import math
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from agent.errors import CircuitOpen, CutOff, EmptyReply, EveryRequestFails, ModelError, PassingFailure
from agent.settings import TransportConfig
from agent.types import Reply, Request, Usage, VisionModel, total_usage
from prompts.answer import is_answer
from prompts.cost import Price, estimate_prompt_tokens

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


logger = logging.getLogger(__name__)

_LONGEST_WAIT_SECONDS: Final = 60.0
_SILENCE_SECONDS: Final = 10.0  # between two lines about waiting
_REFUSED_FROM_THE_START: Final = 10  # requests, after which it is not the requests
_LARGER: Final = 4  # times the limit of tokens, for a reply that was cut off


class Retrying:
    """A model, asked again where a failure may pass, and left alone where the service is down.

    Which failure is worth what is said by its class in `agent.errors`. The service's own word on how long to wait goes
    before the backoff, which doubles with jitter. After ``failed_calls_before_break`` calls in a row that failed for
    good, the following ones fail at once, save for a probe now and then.
    """

    def __init__(self, model: VisionModel, transport: TransportConfig, *, price: Price | None = None) -> None:
        """Wrap a model.

        Args:
            model: whose failures are those of `agent.errors`.
            transport: the limits.
            price: says how many tokens a picture takes, for the limit of tokens a minute.
        """
        self._model = model
        self._transport = transport
        self._price = price
        self._limits = Limits(transport)
        self._failed_calls = 0  # in a row
        self._next_probe = 0.0
        self._next_word = 0.0
        self._refusals = 0
        self._has_answered = False

    @property
    def name(self) -> str:
        """The model's name."""
        return self._model.name

    async def generate(self, request: Request) -> Reply:
        """Return the reply to a request; one that is no answer even the second time is returned as it is.

        Raises:
            CircuitOpen: the service failed too often; nothing was sent.
            ModelError: the last attempt's.
        """
        self._expect_closed_circuit()
        try:
            reply = await self._answered(request)
        except PassingFailure:
            self._count_failed_call()
            raise
        except ModelError as error:
            self._failed_calls = 0  # the service is there: it says what it thinks of this request
            if error.code == "request_refused":
                self._count_refusal(error)
            raise
        self._failed_calls, self._has_answered = 0, True
        return reply

    async def _answered(self, request: Request) -> Reply:
        """Make attempts until one is answered, or none may follow; waiting for admission is none of their time."""
        transport, usages = self._transport, list[Usage]()
        seconds, repeated = 0.0, False
        for attempt in itertools.count(1):
            outcome, took = await self._attempt(request, transport.deadline_seconds - seconds)
            usages.append(outcome.usage or Usage())
            if isinstance(outcome, Reply) and is_answer(outcome.text, request.prompt):
                break
            once_more = isinstance(outcome, Reply | CutOff | EmptyReply)
            if (once_more and repeated) or not (once_more or isinstance(outcome, PassingFailure)):
                break
            repeated = repeated or once_more
            wait = self._wait(outcome, attempt)
            seconds += took + wait
            if attempt >= transport.attempts or seconds >= transport.deadline_seconds:
                break
            await asyncio.sleep(wait)
            request = _asked_anew(request, outcome)
        if isinstance(outcome, Reply):
            return replace(outcome, usage=total_usage(usages))
        outcome.usage = total_usage(usages)
        raise outcome

    async def _attempt(self, request: Request, remaining: float) -> tuple[Reply | ModelError, float]:
        """Return what came of one attempt, and the seconds that it took."""
        resolution = request.generation.media_resolution
        tokens = estimate_prompt_tokens(request.prompt, self._price, media_resolution=resolution)
        outcome: Reply | ModelError
        async with self._limits.admitted(tokens):
            limit, began = min(self._transport.timeout_seconds, remaining), time.monotonic()
            try:
                async with asyncio.timeout(limit):
                    outcome = await self._model.generate(request)
                self._limits.calm()
            except TimeoutError:
                outcome = PassingFailure(f"no answer within {limit:.0f} s", code="timed_out")
            except ModelError as error:
                outcome = error
                if isinstance(error, PassingFailure) and error.code == "rate_limited":
                    self._limits.crowded(error.retry_after_seconds)
            return outcome, time.monotonic() - began

    def _wait(self, outcome: Reply | ModelError, attempt: int) -> float:
        """Return how many seconds to wait before another attempt, and say so now and then."""
        if isinstance(outcome, CutOff | Reply):
            return 0.0
        asked = outcome.retry_after_seconds if isinstance(outcome, PassingFailure) else None
        backoff = min(_LONGEST_WAIT_SECONDS, self._transport.first_wait_seconds * 2 ** min(attempt - 1, 64))
        seconds = max(asked or 0.0, random.uniform(0.0, backoff))
        now = time.monotonic()
        if now >= self._next_word:
            self._next_word = now + _SILENCE_SECONDS
            logger.info("%s: %s; another attempt in %.0f s", self.name, outcome, seconds)
        return seconds

    def _count_refusal(self, error: ModelError) -> None:
        self._refusals += 1
        if self._refusals >= _REFUSED_FROM_THE_START and not self._has_answered:
            raise EveryRequestFails(
                f"{self.name} answered none of the first {self._refusals} requests, the last: {error}",
                code="request_refused",
                usage=error.usage,
            ) from None

    def _expect_closed_circuit(self) -> None:
        if self._failed_calls < self._transport.failed_calls_before_break:
            return
        now = time.monotonic()
        if now < self._next_probe:
            raise CircuitOpen(
                f"the last {self._failed_calls} calls failed, so the service is left alone for a while",
                code="circuit_open",
            )
        self._next_probe = now + self._transport.probe_after_seconds

    def _count_failed_call(self) -> None:
        self._failed_calls += 1
        if self._failed_calls == self._transport.failed_calls_before_break:
            logger.warning(
                "%s failed %d calls in a row: the following queries fall back to the vote, with one try every %.0f s",
                self.name,
                self._failed_calls,
                self._transport.probe_after_seconds,
            )
        if self._failed_calls >= self._transport.failed_calls_before_break:
            self._next_probe = time.monotonic() + self._transport.probe_after_seconds


def _asked_anew(request: Request, outcome: Reply | ModelError) -> Request:
    """Return the request of another attempt: with room for a longer reply, or for another answer."""
    if isinstance(outcome, CutOff):
        return with_larger_limit(request)
    return replace(request, replicate=request.replicate + 1) if isinstance(outcome, Reply) else request


def with_larger_limit(request: Request) -> Request:
    """Return a request that leaves the reply four times as many tokens, for one that was cut off."""
    generation = request.generation
    larger = replace(generation, max_reply_tokens=_LARGER * generation.max_reply_tokens)
    return replace(request, generation=larger)
