"""Successive halving over settings: each rung asks those that are left about more queries, and the worse half leaves.

Every setting's rung is an ordinary run on the queries that are new on that rung, in ``<setting>/rung-<n>``; figures
pool a setting's rungs. So a race that was cut off, be it by ``kill -9``, goes on with what its logs lack.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final

from agent.errors import EveryRequestFails
from agent.loading import LoadedModel
from agent.stages import CONCURRENCY, Stages
from eval.errors import RunError
from eval.log_reader import LOG, read_run
from eval.runner import run_evaluation
from eval.tuning.budget import add_needed, estimate_queries, is_limited, lacking
from eval.tuning.plan import Query, Rung, Setting, gathered
from eval.tuning.pooling import pool_runs, tie_break, top1
from eval.types import Run
from eval.wording import counted
from retrieval.view import MemoryView

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
    vote = _vote(course, max(setting.neighbors for setting in settings))
    alive, left, stopped = list(settings), list[Tried](), ""
    done: dict[str, list[Run]] = {setting.name: [] for setting in settings}
    for number, rung in enumerate(course.rungs):
        alive, leaving = alive[: rung.settings], alive[rung.settings :]
        left = [_tried(setting, done, in_race=False) for setting in leaving] + left
        runs, stopped = _ask_rung(alive, number, course)
        if stopped:
            break
        for setting in alive:
            done[setting.name].append(runs[setting.name])
        alive.sort(key=lambda setting: _standing(pool_runs(done[setting.name])))
    best = [_tried(setting, done, in_race=True) for setting in alive]
    return Race(best + left, vote, len(course.queries), list(course.rungs), stopped)


def _tried(setting: Setting, done: Mapping[str, list[Run]], *, in_race: bool) -> Tried:
    runs = done[setting.name]
    return Tried(setting, pool_runs(runs), len(runs), in_race)


def _standing(run: Run) -> tuple[float, ...]:
    return (-top1(run), *tie_break(run))


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
            runs[setting.name] = _ask(setting, number, fresh, course)
    except EveryRequestFails as error:
        if error.code != _SPENT:
            raise
        why = str(error)
    if why and number == 0:
        raise RunError(f"the race was not got through its first rung: {why}; the same command with more goes on")
    return runs, f"the race ended before rung {number + 1} of {len(course.rungs)}: {why}" if why else ""


def _too_dear(alive: Sequence[Setting], number: int, fresh: Sequence[Query], course: Course) -> str:
    if not is_limited(course.model):
        return ""
    missing = {setting: _missing(fresh, _folder(setting, number, course)) for setting in alive}
    needed = [
        estimate_queries(course.stages_of(setting), queries, course.model, kept=True)
        for setting, queries in missing.items()
    ]
    return lacking(add_needed(needed), course.model)


def _missing(queries: Sequence[Query], folder: Path) -> list[Query]:
    if not (folder / LOG).exists():
        return list(queries)
    results = read_run(folder).results
    answered = {(name, query) for name, found in results.items() for query in chain(found.ids, found.unreadable)}
    return [(name, sample) for name, sample in queries if (name, sample.id) not in answered]


def _ask(setting: Setting, number: int, queries: Sequence[Query], course: Course) -> Run:
    return run_evaluation(
        course.memory,
        gathered(queries),
        _folder(setting, number, course),
        k=setting.neighbors,
        stages=course.stages_of(setting),
        concurrency=course.concurrency,
        price=course.model.meter.price,
        paths=course.paths,
        progress=course.progress,
    )


def _vote(course: Course, neighbors: int) -> Run:
    datasets = gathered(course.queries)
    return run_evaluation(
        course.memory, datasets, course.out / VOTE, k=neighbors, paths=course.paths, progress=course.progress
    )


def _folder(setting: Setting, number: int, course: Course) -> Path:
    return course.out / setting.folder / f"rung-{number + 1}"
