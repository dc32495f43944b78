"""What calls take, counted in tokens and dollars, and a limit that stops them."""

import asyncio
import logging
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from agent.errors import EveryRequestFails, ModelError
from agent.types import Reply, Request, Usage, VisionModel
from prompts.cost import Dollars, Price, estimate_prompt_tokens
from retrieval.errors import InvalidArgument
from retrieval.support.parsing import JsonLines, say_lines

logger = logging.getLogger(__name__)
_LOOK_AGAIN_SECONDS: Final = 0.05


def cost_of(usage: Usage, price: Price | None, *, batch: bool = False) -> Dollars | None:
    """Return what calls cost by the tokens that the service counted; None where the price is not known."""
    if price is None:
        return None
    return price.cost(
        usage.prompt_tokens or 0, usage.paid_as_reply, cached_tokens=usage.cached_tokens or 0, batch=batch
    )


@dataclass(slots=True)
class Meter:
    """Sums over calls that were paid for, without what the service did not count, as after a broken connection.

    With a ledger they go on from process to process, however one ends: all it holds counts from the start.
    """

    price: Price | None = None  # None where it is not known: then dollars are not counted
    max_cost: Dollars | None = None
    max_calls: int | None = None
    ledger: Path | None = None  # a file of lines; made with the first call
    calls: int = 0  # attempts that were sent
    prompt_tokens: int = 0
    cached_tokens: int = 0
    reply_tokens: int = 0
    cost: Dollars = 0.0
    _expected: Dollars = field(default=0.0, repr=False)  # of calls in flight
    _lines: JsonLines | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.max_cost is not None and not self.max_cost > 0:
            raise InvalidArgument(f"--max-cost {self.max_cost}: a number of dollars above 0 expected")
        if self.max_cost is not None and self.price is None:
            raise InvalidArgument(
                "--max-cost needs the model's price, which is not known: give one by --prices FILE, in the form of"
                " prompts/prices.toml"
            )
        if self.ledger is None:
            return
        self._lines = JsonLines(self.ledger)
        if self._lines.damaged:
            logger.warning("%s: what it counted there is not in the sums", say_lines(self.ledger, self._lines.damaged))
        for line in self._lines.records:
            self._add(line)

    def begin_calls(self, calls: int = 1) -> None:
        """Count calls that are being sent."""
        self._keep({"calls": calls})

    def count(self, usage: Usage, *, batch: bool = False) -> None:
        """Add what the service counted."""
        self._keep({"usage": asdict(usage), "batch": batch})

    def _keep(self, line: dict[str, Any]) -> None:
        if self._lines is not None:
            self._lines.append(line)
        self._add(line)

    def _add(self, line: dict[str, Any]) -> None:
        usage, batch = Usage(**line.get("usage", {})), line.get("batch", False)
        self.calls += line.get("calls", 0)
        self.prompt_tokens += usage.prompt_tokens or 0
        self.reply_tokens += usage.paid_as_reply
        self.cached_tokens += usage.cached_tokens or 0
        self.cost += cost_of(usage, self.price, batch=batch) or 0.0

    def reserve(self, request: Request, *, batch: bool = False) -> Dollars:
        """Set aside what a request may cost at most, and return that; `release` gives it back.

        Raises:
            BudgetInFlight: it would fit if calls in flight cost less than they may.
            EveryRequestFails: it might exceed a limit.
        """
        if self.max_calls is not None and self.calls >= self.max_calls:
            raise EveryRequestFails(
                f"--max-calls {self.max_calls:,} are made: go on with the same command and a higher number",
                code="budget_spent",
            )
        if self.price is None:
            return 0.0
        generation = request.generation
        tokens = estimate_prompt_tokens(request.prompt, self.price, media_resolution=generation.media_resolution)
        expected = self.price.cost(tokens, generation.max_reply_tokens, batch=batch)
        if self.max_cost is not None and self.cost + self._expected + expected > self.max_cost:
            if self._expected > 0 and self.cost + expected <= self.max_cost:
                raise BudgetInFlight("calls in flight hold what is left of the budget")
            raise EveryRequestFails(
                f"the next call could exceed --max-cost {self.max_cost:g} (spent: ${self.cost:.4f}):"
                " go on with the same command and a higher one",
                code="budget_spent",
            )
        self._expected += expected
        return expected

    def __str__(self) -> str:
        price = "at an unknown price" if self.price is None else f"${self.cost:.4f}"
        calls = "1 call" if self.calls == 1 else f"{self.calls:,} calls"
        return (
            f"{calls}: {self.prompt_tokens:,} tokens in ({self.cached_tokens:,} of them cached by the service),"
            f" {self.reply_tokens:,} out, {price}"
        )

    def hold(self, expected: Dollars) -> None:
        """Set aside what requests of an earlier process may cost."""
        self._expected += expected

    def release(self, expected: Dollars) -> None:
        """Give back what was set aside for a request."""
        self._expected -= expected


class BudgetInFlight(Exception):
    """Calls in flight have to end before it is known whether another one fits the budget."""


class Metered:
    """A model whose calls a meter counts, those that failed and were charged included."""

    def __init__(self, model: VisionModel, meter: Meter) -> None:
        self._model = model
        self._meter = meter

    @property
    def name(self) -> str:
        """The model's name."""
        return self._model.name

    async def generate(self, request: Request) -> Reply:
        """Return the reply to a request.

        Raises:
            EveryRequestFails: the call might exceed the limit; it was not made.
            ModelError: there is no reply.
        """
        while True:
            try:
                expected = self._meter.reserve(request)
                break
            except BudgetInFlight:
                await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        self._meter.begin_calls()
        started = time.perf_counter()
        try:
            reply = await self._model.generate(request)
        except ModelError as error:
            if error.usage:
                self._meter.count(error.usage)
            raise
        finally:
            self._meter.release(expected)
        self._meter.count(reply.usage)
        return replace(reply, seconds=time.perf_counter() - started)
