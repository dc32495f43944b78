"""Successive halving over settings: each rung asks those that are left about more queries, and the worse half leaves.

Every setting's rung is an ordinary run on the queries that are new on that rung, in ``<setting>/rung-<n>``; figures
pool a setting's rungs. So a race that was cut off, be it by ``kill -9``, goes on with what its logs lack.
"""

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np

from agent.calls.ready import LoadedModel
from agent.classify import Stages
from agent.errors import EveryRequestFails
from agent.settings import CONCURRENCY
from eval.metrics.votes import are_right, final_labels
from eval.runs.log import LOG, read_run
from eval.runs.runner import estimate_run, run_evaluation
from eval.types import Dataset, Names, Outcome, Percent, QueryResults, Run, RunError, RunInfo, Sample
from prompts.template import Template, load_template
from retrieval.errors import InvalidArgument
from retrieval.support.terminal import counted
from retrieval.view import MemoryView

Query = tuple[str, Sample]  # with the name of its data set


@dataclass(frozen=True, slots=True)
class Setting:
    """A prompt with a number of neighbours."""

    prompt: str  # a released name or a path, as it was given
    template: Template
    neighbors: int

    @property
    def name(self) -> str:
        """How tables call it."""
        return f"{self.template.name} k={self.neighbors}"

    @property
    def folder(self) -> str:
        """The name of the folder of its runs."""
        return f"{self.template.name}-k{self.neighbors}"


@dataclass(frozen=True, slots=True)
class Rung:
    """A step of the race."""

    settings: int  # how many are asked
    start: int  # of the queries in their order, the first that is new on this rung
    stop: int  # and the first that is not reached

    @property
    def fresh(self) -> int:
        """Queries that each setting is asked about anew."""
        return self.stop - self.start


def make_settings(prompts: Sequence[str], ks: Iterable[int]) -> list[Setting]:
    """Return every prompt with every number of neighbours; one that shows none and offers all labels, with one only.

    Raises:
        UnknownPrompt: no such template.
        InvalidArgument: two templates of one name, whose runs could not be told apart.
    """
    templates: dict[str, tuple[str, Template]] = {}
    for prompt in prompts:
        template = load_template(prompt)
        known = templates.setdefault(template.name, (prompt, template))
        if known[1].digest != template.digest:
            raise InvalidArgument(f"--prompt {known[0]} and {prompt} have one name: rename one of the files")
    descending = sorted(set(ks), reverse=True)
    return [
        Setting(prompt, template, k)
        for prompt, template in templates.values()
        for k in (descending[:1] if template.neighbors == "none" and template.candidates == "all" else descending)
    ]


def plan_rungs(settings: int, queries: int, *, eta: int) -> list[Rung]:
    """Return the rungs of successive halving (Jamieson & Talwalkar 2016; Karnin et al. 2013).

    On every rung the settings that are left answer the same queries, eta times as many as before, those before among
    them; then the best of eta stay. The last rung has at most eta settings and all queries.

    Args:
        settings: how many enter the race.
        queries: how many there are.
        eta: 2 keeps the better half; 1 keeps all, so that every setting is asked about every query.

    Raises:
        InvalidArgument: eta below 1, no settings, or too few queries for so many rungs.
    """
    if eta < 1 or settings < 1:
        raise InvalidArgument(f"{counted(settings, 'setting')} and eta = {eta}: 1 or more expected")
    alive = [settings]
    while eta > 1 and alive[-1] > eta:
        alive.append(-(-alive[-1] // eta))
    least = int(eta ** (len(alive) - 1))
    if queries < least:
        raise InvalidArgument(
            f"{counted(queries, 'query')} for {counted(settings, 'setting')}: {least:,} or more expected, and hundreds"
            " to tell anything"
        )
    stops = [-(-queries // eta ** (len(alive) - 1 - rung)) for rung in range(len(alive))]
    return [Rung(*rung) for rung in zip(alive, [0, *stops], stops, strict=False)]


def draw_queries(datasets: Mapping[str, Dataset], count: int | None, *, seed: int) -> list[Query]:
    """Return queries in a random order; of a smaller count those that a larger one begins with.

    Raises:
        InvalidArgument: a count below 1.
    """
    if count is not None and count < 1:
        raise InvalidArgument(f"--queries {count}: 1 or more expected")
    queries = [(name, sample) for name, dataset in datasets.items() for sample in dataset.samples]
    random.Random(seed).shuffle(queries)
    return queries[:count]


def gathered(queries: Iterable[Query]) -> dict[str, Dataset]:
    """Return queries as data sets again."""
    by_name: dict[str, list[Sample]] = {}
    for name, sample in queries:
        by_name.setdefault(name, []).append(sample)
    return {name: Dataset(samples) for name, samples in by_name.items()}


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


def pool_runs(runs: Sequence[Run]) -> Run:
    """Return one run with the queries of all, of which no two runs share one."""
    info = runs[0].info
    counts, places = Counter[str](), dict[str, str]()
    parts: dict[str, list[QueryResults]] = {}
    for run in runs:
        counts.update(run.info.about["queries"])
        places |= run.info.about["datasets"]
        for name, results in run.results.items():
            parts.setdefault(name, []).append(results)
    about = info.about | {"queries": dict(counts), "datasets": places}
    found = {name: _joined(parts[name]) for name in counts if name in parts}
    return Run(RunInfo(info.settings, about), found)


def _joined(parts: Sequence[QueryResults]) -> QueryResults:
    answered = [part for part in parts if len(part)] or list(parts[:1])
    factors = [np.ones_like(p.neighbor_distances) if p.reliabilities is None else p.reliabilities for p in answered]
    return QueryResults(
        ids=[query for part in answered for query in part.ids],
        truths=[truth for part in answered for truth in part.truths],
        neighbor_ids=_joined_names([part.neighbor_ids for part in answered]),
        neighbor_labels=_joined_names([part.neighbor_labels for part in answered]),
        neighbor_distances=np.concatenate([part.neighbor_distances for part in answered]),
        unreadable={query: reason for part in parts for query, reason in part.unreadable.items()},
        outcomes=[outcome for part in answered for outcome in part.outcomes or ()] or None,
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
    return Run(run.info, {name: found.nearest(k) for name, found in run.results.items()})


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


VOTE: Final = "vote"  # folder of the run that asks nobody
_SPENT: Final = "budget_spent"


@dataclass(frozen=True, slots=True, eq=False)
class Tried:
    """A setting with its answers on all rungs that it stood on."""

    setting: Setting
    run: Run
    rungs: int  # that it stood on
    in_race: bool  # whether it was still among the best at the end


@dataclass(frozen=True, slots=True, eq=False)
class Race:
    """What came of a race."""

    tried: list[Tried]  # the best first; those that left the race later before those that left it earlier
    vote: Run  # the vote alone, at the largest number of neighbours, on all queries
    queries: int
    rungs: list[Rung]
    stopped: str  # why it ended before its last rung; empty where it did not


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What a race is run with."""

    memory: MemoryView
    queries: Sequence[Query]
    rungs: Sequence[Rung]
    out: Path
    model: LoadedModel
    stages_of: Callable[[Setting], Stages]
    concurrency: int = CONCURRENCY
    paths: Mapping[str, str] | None = None  # where each data set lies
    say: Callable[[str], None] = lambda _: None
    progress: bool = True


def run_race(settings: Sequence[Setting], course: Course) -> Race:
    """Ask settings rung by rung, drop the worse ones after each, and return what every one answered.

    Of settings that are equally good the cheaper stays. The vote is counted beside them, which asks nobody. A rung that
    would not fit the limits of the model's meter is not begun, and of one that met them halfway nothing is told. With a
    ledger they hold for earlier invocations too, save for what calls cost that were under way at a ``kill -9``.

    Raises:
        RunError: the folder cannot be used, or the limit ends the race on its first rung.
        OtherSettings: the folder holds a race with other queries or settings.
        EveryRequestFails: the model refuses everything.
    """
    if (course.out / LOG).exists():
        raise RunError(f"{course.out} holds a run: choose another --out")
    vote = run_evaluation(
        course.memory,
        gathered(course.queries),
        course.out / VOTE,
        k=max(setting.neighbors for setting in settings),
        paths=course.paths,
        progress=course.progress,
    )
    alive, left, stopped = list(settings), list[Tried](), ""
    done: dict[str, list[Run]] = {setting.name: [] for setting in settings}

    def tried(setting: Setting, *, in_race: bool) -> Tried:
        return Tried(setting, pool_runs(done[setting.name]), len(done[setting.name]), in_race)

    def rank(setting: Setting) -> tuple[float, ...]:
        run = pool_runs(done[setting.name])
        return (-top1(run), *tie_break(run))

    for number, rung in enumerate(course.rungs):
        alive, leaving = alive[: rung.settings], alive[rung.settings :]
        left = [tried(setting, in_race=False) for setting in leaving] + left
        runs, stopped = _ask_rung(alive, number, course)
        if stopped:
            break
        for setting in alive:
            done[setting.name].append(runs[setting.name])
        alive.sort(key=rank)
    best = [tried(setting, in_race=True) for setting in alive]
    return Race(best + left, vote, len(course.queries), list(course.rungs), stopped)


def _ask_rung(alive: Sequence[Setting], number: int, course: Course) -> tuple[dict[str, Run], str]:
    """Return the rung's runs by setting's name, or why it could not be gone through."""
    rung = course.rungs[number]
    fresh = course.queries[rung.start : rung.stop]
    course.say(
        f"Rung {number + 1} of {len(course.rungs)}: {counted(len(alive), 'setting')} on"
        f" {counted(len(fresh), 'query')} each, {rung.stop:,} so far"
    )
    why = _too_dear(alive, number, fresh, course)
    runs = {}
    try:
        for setting in alive if not why else ():
            course.say(f"  {setting.name}")
            runs[setting.name] = run_evaluation(
                course.memory,
                gathered(fresh),
                _folder(setting, number, course),
                k=setting.neighbors,
                stages=course.stages_of(setting),
                concurrency=course.concurrency,
                price=course.model.meter.price,
                paths=course.paths,
                progress=course.progress,
            )
    except EveryRequestFails as error:
        if error.code != _SPENT:
            raise
        why = str(error)
    if why and number == 0:
        raise RunError(f"the race was not got through its first rung: {why}; the same command with more goes on")
    return runs, f"the race ended before rung {number + 1} of {len(course.rungs)}: {why}" if why else ""


def _too_dear(alive: Sequence[Setting], number: int, fresh: Sequence[Query], course: Course) -> str:
    if course.model.meter.max_cost is None and course.model.meter.max_calls is None:
        return ""
    needed = []
    for setting in alive:
        folder, answered = _folder(setting, number, course), set[tuple[str, str]]()
        if (folder / LOG).exists():
            for name, found in read_run(folder).results.items():
                answered |= {(name, query) for query in chain(found.ids, found.unreadable)}
        missing = [(name, sample) for name, sample in fresh if (name, sample.id) not in answered]
        needed.append(estimate_queries(course.stages_of(setting), missing, course.model, kept=True))
    return lacking(add_needed(needed), course.model)


def _folder(setting: Setting, number: int, course: Course) -> Path:
    return course.out / setting.folder / f"rung-{number + 1}"
