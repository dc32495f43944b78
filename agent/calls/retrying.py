"""Another attempt where that may help, within limits of time, number and patience. The only layer that retries."""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

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


class _NoAnswer(Exception):
    """A reply that answers with none of the candidates."""

    def __init__(self, reply: Reply) -> None:
        super().__init__()
        self.reply = reply


_REPEATED_ONCE: Final = (EmptyReply, CutOff, _NoAnswer)


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
            reply = await self._Call(self, request).outcome()
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

    def _say_that_it_waits(self, error: BaseException | None, seconds: float) -> None:
        """Tell whoever watches why nothing happens, now and then."""
        now = time.monotonic()
        if now >= self._next_word:
            self._next_word = now + _SILENCE_SECONDS
            logger.info("%s: %s; another attempt in %.0f s", self.name, error, seconds)

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

    class _Call:
        """One call: its attempts, and the seconds it has had, in which waiting for admission does not count."""

        def __init__(self, owner: "Retrying", request: Request) -> None:
            self._owner = owner
            self._request = request
            self._seconds = 0.0
            self._repeated = False
            self._usages: list[Usage] = []  # of every attempt that was answered
            self._backoff = wait_random_exponential(
                multiplier=owner._transport.first_wait_seconds, max=_LONGEST_WAIT_SECONDS
            )

        async def outcome(self) -> Reply:
            attempts = AsyncRetrying(
                retry=retry_if_exception(self._worth_another),
                wait=self._wait,
                stop=self._stop,
                reraise=True,
            )
            try:
                reply: Reply = await attempts(self._attempt)
            except _NoAnswer as error:
                return replace(error.reply, usage=total_usage(self._usages))
            except ModelError as error:
                error.usage = total_usage(self._usages)
                raise
            return replace(reply, usage=total_usage(self._usages))

        async def _attempt(self) -> Reply:
            owner, transport = self._owner, self._owner._transport
            resolution = self._request.generation.media_resolution
            tokens = estimate_prompt_tokens(self._request.prompt, owner._price, media_resolution=resolution)
            async with owner._limits.admitted(tokens):
                began = time.monotonic()
                try:
                    remaining = min(transport.timeout_seconds, transport.deadline_seconds - self._seconds)
                    async with asyncio.timeout(remaining):
                        reply = await owner._model.generate(self._request)
                except TimeoutError:
                    reply = None
                except ModelError as failure:
                    self._usages.append(failure.usage or Usage())
                    if isinstance(failure, PassingFailure) and failure.code == "rate_limited":
                        owner._limits.crowded(failure.retry_after_seconds)
                    raise
                finally:
                    self._seconds += time.monotonic() - began
            if reply is None:
                raise PassingFailure(f"no answer within {remaining:.0f} s", code="timed_out")
            owner._limits.calm()
            self._usages.append(reply.usage)
            if not is_answer(reply.text, self._request.prompt):
                raise _NoAnswer(reply)
            return reply

        def _worth_another(self, error: BaseException) -> bool:
            if isinstance(error, _REPEATED_ONCE):
                worth, self._repeated = not self._repeated, True
                if isinstance(error, CutOff):
                    self._request = with_larger_limit(self._request)
                elif isinstance(error, _NoAnswer):
                    self._request = replace(self._request, replicate=self._request.replicate + 1)
                return worth
            return isinstance(error, PassingFailure)

        def _wait(self, state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            asked = error.retry_after_seconds if isinstance(error, PassingFailure) else None
            if isinstance(error, CutOff | _NoAnswer):
                return 0.0
            seconds = max(asked or 0.0, self._backoff(state))
            self._owner._say_that_it_waits(error, seconds)
            return seconds

        def _stop(self, state: RetryCallState) -> bool:
            transport = self._owner._transport
            self._seconds += state.upcoming_sleep
            return state.attempt_number >= transport.attempts or self._seconds >= transport.deadline_seconds


def with_larger_limit(request: Request) -> Request:
    """Return a request that leaves the reply four times as many tokens, for one that was cut off."""
    generation = request.generation
    larger = replace(generation, max_reply_tokens=_LARGER * generation.max_reply_tokens)
    return replace(request, generation=larger)
