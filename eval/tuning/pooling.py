"""Runs of one setting on different queries as one run, and what one query of it took."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from eval.scoring import are_right, final_labels
from eval.types import Names, Outcome, Percent, QueryResults, Run, RunInfo


def pool_runs(runs: Sequence[Run]) -> Run:
    """Return one run with the queries of all, of which no two runs share one."""
    about = runs[0].info.about
    counts: dict[str, int] = {}
    for run in runs:
        for name, count in run.info.about["queries"].items():
            counts[name] = counts.get(name, 0) + count
    places = {name: place for run in runs for name, place in run.info.about["datasets"].items()}
    found = {
        name: _joined([run.results[name] for run in runs if name in run.results])
        for name in counts
        if any(name in run.results for run in runs)
    }
    return Run(RunInfo(runs[0].info.settings, about | {"queries": counts, "datasets": places}), found)


def _joined(parts: Sequence[QueryResults]) -> QueryResults:
    answered = [part for part in parts if len(part)] or list(parts[:1])
    outcomes = [outcome for part in answered for outcome in part.outcomes or ()]
    factors = [np.ones_like(p.neighbor_distances) if p.reliabilities is None else p.reliabilities for p in answered]
    return QueryResults(
        ids=[query for part in answered for query in part.ids],
        truths=[truth for part in answered for truth in part.truths],
        neighbor_ids=_joined_names([part.neighbor_ids for part in answered]),
        neighbor_labels=_joined_names([part.neighbor_labels for part in answered]),
        neighbor_distances=np.concatenate([part.neighbor_distances for part in answered]),
        unreadable={query: reason for part in parts for query, reason in part.unreadable.items()},
        outcomes=outcomes or None,
        reliabilities=np.concatenate(factors) if any(p.reliabilities is not None for p in answered) else None,
    )


def _joined_names(tables: Sequence[Names]) -> Names:
    numbers: dict[str, int] = {}
    codes = []
    for table in tables:
        renumbered = np.array([numbers.setdefault(name, len(numbers)) for name in table.names], np.int32)
        codes.append(renumbered[table.codes] if len(table.names) else table.codes)
    return Names(np.concatenate(codes), list(numbers))


def at_fewer_neighbors(run: Run, k: int) -> Run:
    """Return a run as if it had looked at the k nearest neighbours only."""

    def cut(found: QueryResults) -> QueryResults:
        return replace(
            found,
            neighbor_ids=Names(found.neighbor_ids.codes[:, :k], found.neighbor_ids.names),
            neighbor_labels=Names(found.neighbor_labels.codes[:, :k], found.neighbor_labels.names),
            neighbor_distances=found.neighbor_distances[:, :k],
            reliabilities=found.factors(np.s_[:, :k]),
        )

    return Run(run.info, {name: cut(found) for name, found in run.results.items()})


def top1(run: Run) -> Percent:
    """Return the accuracy of a run's final answers over all its queries; 0 where it has none."""
    right = [are_right(final_labels(found), found.truths) for found in run.results.values() if len(found)]
    return 100.0 * float(np.concatenate(right).mean()) if right else 0.0


def outcomes_of(run: Run) -> list[Outcome]:
    """Return what the second stage made of every query."""
    return [outcome for found in run.results.values() for outcome in found.outcomes or ()]


def cost_per_query(run: Run) -> float | None:
    """Return the dollars that a query takes where no reply is kept; None where that is not known."""
    costs: list[Any] = [outcome.full_cost for outcome in outcomes_of(run)]
    return None if not costs or None in costs else math.fsum(costs) / len(costs)


def tokens_per_query(run: Run) -> float | None:
    """Return the tokens, those of the reply included, that a query takes; None where no call told them."""
    asked = outcomes_of(run)
    calls = sum(outcome.calls for outcome in asked)
    tokens = sum(outcome.prompt_tokens + outcome.reply_tokens for outcome in asked)
    if not calls or not tokens:
        return None
    return tokens / calls * sum(outcome.calls + outcome.calls_saved for outcome in asked) / len(asked)


def seconds_per_call(run: Run) -> float | None:
    """Return the median of what calls took; None where none was made."""
    seconds = [taken for outcome in outcomes_of(run) for taken in outcome.seconds]
    return float(np.median(seconds)) if seconds else None


def tie_break(run: Run) -> tuple[float, float, int]:
    """Return what a query takes, for settling a tie: dollars, tokens, neighbours."""
    return cost_per_query(run) or 0.0, tokens_per_query(run) or 0.0, int(run.info.settings["k"])
