"""What a race may still cost: before each rung an estimate, during it the meter's hard stop."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from agent.loading import LoadedModel
from agent.stages import Stages
from eval.estimate import estimate_run
from eval.tuning.plan import Query, gathered

_SAMPLED: Final = 20  # queries whose prompts are made to see their size, which differs little between queries


@dataclass(frozen=True, slots=True)
class Needed:
    """About what asking takes."""

    calls: int
    prompt_tokens: int
    reply_tokens: int
    cost: float | None  # dollars; None where the price is not known

    def times(self, factor: float) -> "Needed":
        """Return what so many times as many queries take."""
        cost = None if self.cost is None else self.cost * factor
        return Needed(
            round(self.calls * factor), round(self.prompt_tokens * factor), round(self.reply_tokens * factor), cost
        )


def add_needed(parts: Iterable[Needed]) -> Needed:
    """Return the sum; its cost is None where that of a part is not known."""
    every = list(parts)
    costs = [part.cost for part in every]
    return Needed(
        sum(part.calls for part in every),
        sum(part.prompt_tokens for part in every),
        sum(part.reply_tokens for part in every),
        None if None in costs else sum(cost for cost in costs if cost is not None),
    )


def estimate_queries(stages: Stages, queries: Sequence[Query], model: LoadedModel, *, kept: bool) -> Needed:
    """Return about what a setting takes for queries, by some of them; nothing is asked.

    Args:
        stages: of the setting.
        queries: to be asked.
        model: that would be.
        kept: whether to leave out replies that are kept.
    """
    if not queries:
        return Needed(0, 0, 0, 0.0)
    # Evenly spread: of a race that was cut off the first have their replies kept, and the others not.
    count = min(_SAMPLED, len(queries))
    sampled = [queries[number * len(queries) // count] for number in range(count)]
    found = estimate_run(stages, gathered(sampled), model if kept else replace(model, store=None))
    return Needed(found.calls, found.prompt_tokens, found.reply_tokens, found.cost).times(len(queries) / len(sampled))


def is_limited(model: LoadedModel) -> bool:
    """Tell whether there is a limit to keep."""
    return model.meter.max_cost is not None or model.meter.max_calls is not None


def lacking(needed: Needed, model: LoadedModel) -> str:
    """Say why there is not enough left for what is needed; empty where there is."""
    meter = model.meter
    if meter.max_calls is not None and meter.calls + needed.calls > meter.max_calls:
        left = max(0, meter.max_calls - meter.calls)
        return f"it would take about {needed.calls:,} calls, and {left:,} of --max-calls {meter.max_calls:,} are left"
    if meter.max_cost is not None and needed.cost is not None and meter.cost + needed.cost > meter.max_cost:
        unspent = max(0.0, meter.max_cost - meter.cost)
        return f"it would cost about ${needed.cost:,.2f}, and ${unspent:,.2f} of --max-cost {meter.max_cost:g} is left"
    return ""
