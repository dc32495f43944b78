"""What a race tells: every setting beside the best one on the queries both answered, and which setting to take."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

import typer

from agent.classify import Stages
from agent.settings import Settings
from eval.comparing import Comparison, PairedFigures, RunComparison, compare_runs, conclude, format_difference, format_p
from eval.metrics.intervals import ALPHA, wilson_interval
from eval.metrics.rerank import NO_ERRORS
from eval.report.printing import CAPTION
from eval.tuning.race import (
    VOTE,
    Needed,
    Race,
    Rung,
    Setting,
    Tried,
    add_needed,
    at_fewer_neighbors,
    cost_per_query,
    outcomes_of,
    seconds_per_call,
    tie_break,
    tokens_per_query,
    top1,
)
from eval.types import Interval, Percent
from prompts.cost import Dollars
from retrieval.errors import InvalidArgument
from retrieval.support.terminal import counted, print_table, printable


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A setting's figures; the vote's for comparison."""

    prompt: str  # "vote" for the vote
    neighbors: int
    queries: int  # answered; for the vote those that the reference answered too
    top1: Percent
    interval: Interval  # Wilson, 95 %
    beside: PairedFigures | None  # the reference before, this one after; None for the reference itself
    dollars: Dollars | None  # a query, where no reply is kept; None where not known, 0 for the vote
    tokens: float | None  # a query, the reply's included
    seconds: float | None  # a call's, median
    rungs: int  # that it stood on; 0 for the vote
    in_race: bool  # whether it was among the best to the end


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a race tells."""

    rows: list[Row]  # the best first, then the votes
    reference: Setting  # which the others are compared with
    recommended: Setting | None  # None where settings are compared with a given one
    sentences: list[str]
    stopped: str  # as `Race.stopped`


def judge(race: Race, *, baseline: Setting | None = None) -> Verdict:
    """Return what a race tells.

    The recommended setting is the cheapest of those that were left at the end and that are not distinguishably worse
    than the best of them: exact McNemar, p adjusted by Holm's method over all rows, 0.05.

    Args:
        race: as it ended.
        baseline: the setting to compare with; None compares with the best one, and recommends one.

    Raises:
        RunError: no query was answered.
    """
    reference = next(tried for tried in race.tried if baseline in (None, tried.setting))
    others = [tried for tried in race.tried if tried is not reference]
    votes = {k: at_fewer_neighbors(race.vote, k) for k in sorted({tried.setting.neighbors for tried in race.tried})}
    sides = [
        *((tried.setting.name, tried.run) for tried in (reference, *others)),
        *((f"{VOTE} k={k}", run) for k, run in votes.items()),
    ]
    comparison = compare_runs(sides)
    found = {other.after.name: other for other in comparison.others}
    rows = [_row(tried, found.get(tried.setting.name)) for tried in race.tried]
    for k in votes:
        figures = found[f"{VOTE} k={k}"].overall
        rows.append(
            Row(
                prompt=VOTE,
                neighbors=k,
                queries=figures.count,
                top1=figures.after,
                interval=figures.after_interval,
                beside=figures,
                dollars=0.0,
                tokens=0.0,
                seconds=None,
                rungs=0,
                in_race=False,
            )
        )
    recommended = None if baseline else _cheapest(race.tried, found)
    told = [*_failures(race), *_sentences(comparison, found, race, recommended=recommended)]
    return Verdict(
        rows=rows,
        reference=reference.setting,
        recommended=recommended.setting if recommended else None,
        sentences=told,
        stopped=race.stopped,
    )


def expect_baseline(settings: Sequence[Setting], prompt: str) -> Setting:
    """Return the setting that a baseline means: the prompt at its largest number of neighbours.

    Raises:
        InvalidArgument: no setting has that prompt.
    """
    named = [setting for setting in settings if prompt in (setting.prompt, setting.template.name)]
    if not named:
        raise InvalidArgument(f"--baseline {prompt}: give it as --prompt too")
    return max(named, key=lambda setting: setting.neighbors)


def make_preset(name: str, verdict: Verdict, stages: Stages, *, model: str, source: str) -> Settings:
    """Return the recommended setting as a preset that says where it came from.

    Args:
        name: of the preset.
        verdict: one that recommends.
        stages: made of the recommended setting.
        model: that was asked; a note.
        source: folder and data sets, for people.
    """
    assert verdict.recommended is not None
    setting, settings = verdict.recommended, stages.settings
    row = next(r for r in verdict.rows if (r.prompt, r.neighbors) == (setting.template.name, setting.neighbors))
    cost = "" if row.dollars is None else f", about ${1000 * row.dollars:.2f} for 1,000 queries"
    low, high = row.interval
    return Settings(
        name=name,
        prompt=setting.prompt,
        k=setting.neighbors,
        voting=settings.voting,
        when=str(settings.gate),
        generation=settings.generation,
        model=model,
        about=(
            f"vmem prompt tune on {date.today().isoformat()}: top-1 {row.top1:.1f} % ({low:.1f} to {high:.1f}) on the"
            f" {counted(row.queries, 'query')} that chose it{cost}; {source}"
        ),
    )


def _cheapest(tried: Sequence[Tried], found: dict[str, RunComparison]) -> Tried:
    def is_worse(one: Tried) -> bool:
        other = found.get(one.setting.name)
        return other is not None and other.overall.difference < 0 and other.overall.adjusted < ALPHA

    return min((one for one in tried if one.in_race and not is_worse(one)), key=lambda one: tie_break(one.run))


def _sentences(
    comparison: Comparison, found: dict[str, RunComparison], race: Race, *, recommended: Tried | None
) -> list[str]:
    if recommended is None:
        return [conclude(comparison.before, other) for other in comparison.others]
    votes = [other for name, other in found.items() if name.startswith(f"{VOTE} k=")]
    best_vote = max(votes, key=lambda other: other.overall.after)
    told = [conclude(comparison.before, best_vote)]
    if recommended is not race.tried[0]:
        told.append(conclude(comparison.before, found[recommended.setting.name]))
    finalists = sum(tried.in_race for tried in race.tried)
    told.append(
        f"Recommended: {recommended.setting.name}, the cheapest of {counted(finalists, 'setting')} left that is"
        " not distinguishably worse than the best. It was chosen on these queries: measure it on others."
    )
    return told


def _failures(race: Race) -> list[str]:
    codes = [outcome.code for tried in race.tried for outcome in outcomes_of(tried.run)]
    failed = Counter(code for code in codes if code not in NO_ERRORS)
    if not failed:
        return []
    why = ", ".join(f"{code} {count:,}" for code, count in failed.most_common())
    return [
        f"{failed.total():,} of {counted(len(codes), 'answer')} failed, and the vote stood in ({why}): the same command"
        " asks again about those whose failure may have passed."
    ]


def _row(tried: Tried, other: RunComparison | None) -> Row:
    run = tried.run
    count = sum(len(found) for found in run.results.values())
    accuracy = top1(run)
    return Row(
        prompt=tried.setting.template.name,
        neighbors=tried.setting.neighbors,
        queries=count,
        top1=accuracy,
        interval=wilson_interval(round(accuracy * count / 100), count),
        beside=other.overall if other else None,
        dollars=cost_per_query(run),
        tokens=tokens_per_query(run),
        seconds=seconds_per_call(run),
        rungs=tried.rungs,
        in_race=tried.in_race,
    )


def print_plan(rungs: Sequence[Rung], each: Mapping[str, Needed], *, queries: int) -> None:
    """Print what a race would ask, and what that would take at most.

    Args:
        rungs: of the race.
        each: by setting's name, what one on all queries takes.
        queries: how many there are.
    """
    print_table(
        ["setting", "tokens a query", "dollars for 1,000 queries"],
        [
            (
                name,
                f"{(needed.prompt_tokens + needed.reply_tokens) / queries:,.0f}",
                _per_thousand(None if needed.cost is None else needed.cost / queries),
            )
            for name, needed in each.items()
        ],
        title="Settings",
    )
    dearest = sorted(each.values(), key=lambda needed: (needed.cost or 0.0, needed.prompt_tokens), reverse=True)
    taken = [add_needed(one.times(rung.fresh / queries) for one in dearest[: rung.settings]) for rung in rungs]
    steps = [(str(number), str(rung.settings), f"{rung.fresh:,}") for number, rung in enumerate(rungs, 1)]
    rows = [
        (
            *step,
            f"{needed.calls:,}",
            f"{needed.prompt_tokens:,}",
            "unknown" if needed.cost is None else f"${needed.cost:,.2f}",
        )
        for step, needed in zip([*steps, ("all", "", "")], [*taken, add_needed(taken)], strict=True)
    ]
    columns = ["rung", "settings", "new queries each", "calls", "tokens in", "cost"]
    print_table(columns, rows, title="Rungs, if the dearest settings stay in the race")
    typer.echo("Replies that are kept already cost nothing, and are not left out here. Nothing was asked.")


def _per_thousand(cost: Dollars | None) -> str:
    return "–" if cost is None else f"{1000 * cost:,.2f}"


def print_verdict(verdict: Verdict, *, rungs: int) -> None:
    """Print the table of all settings and what it tells."""
    columns = ["prompt", "k", "queries", "top-1", f"beside {verdict.reference.name}", "p (Holm)"]
    columns += ["$ / 1,000", "tokens", "s / call", "left at"]
    rows = [_cells(row, rungs) for row in verdict.rows]
    print_table(columns, rows, title=f"{CAPTION}, on the queries that both answered")
    if verdict.stopped:
        typer.echo(printable(verdict.stopped[0].upper() + verdict.stopped[1:], longest=1000))
    for sentence in verdict.sentences:
        typer.echo(printable(sentence, longest=1000))


def _cells(row: Row, rungs: int) -> list[str]:
    low, high = row.interval
    beside, p = "", ""
    if row.beside is not None:
        beside = "{} ({})".format(*format_difference(row.beside))
        p = format_p(row.beside.adjusted).removeprefix("p").removeprefix(" = ").strip()
    return [
        row.prompt,
        str(row.neighbors),
        f"{row.queries:,}",
        f"{row.top1:.1f} ({low:.1f} to {high:.1f})",
        beside,
        p,
        _per_thousand(row.dollars),
        "–" if row.tokens is None else f"{row.tokens:,.0f}",
        "–" if row.seconds is None else f"{row.seconds:.2f}",
        "" if not row.rungs else "the end" if row.in_race else f"rung {row.rungs} of {rungs}",
    ]


def verdict_as_json(verdict: Verdict, about: Mapping[str, Any]) -> str:
    """Return a verdict as JSON: the fields of `Row` by name, and what the race was run with."""

    def named(setting: Setting | None) -> dict[str, object] | None:
        return setting if setting is None else {"prompt": setting.prompt, "neighbors": setting.neighbors}

    told = {
        **about,
        "reference": named(verdict.reference),
        "recommended": named(verdict.recommended),
        "stopped": verdict.stopped,
        "sentences": verdict.sentences,
        "settings": [asdict(row) for row in verdict.rows],
    }
    return json.dumps(told, indent=1, ensure_ascii=False)
