"""What `vmem prompt tune` prints and writes."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import typer

from eval.comparison_printing import CAPTION
from eval.conclusion import format_difference, format_p
from eval.tuning.budget import Needed, add_needed
from eval.tuning.plan import Rung, Setting
from eval.tuning.verdict import Row, Verdict
from prompts.cost import Dollars
from retrieval.terminal import print_table, printable


def print_plan(rungs: Sequence[Rung], each: Mapping[str, Needed], *, queries: int) -> None:
    """Print what a race would ask, and what that would take at most.

    Args:
        rungs: of the race.
        each: by setting's name, what one on all queries takes.
        queries: how many there are.
    """
    print_table(
        ["setting", "tokens a query", "dollars for 1,000 queries"],
        [(name, _tokens(needed, queries), _per_thousand(_per_query(needed, queries))) for name, needed in each.items()],
        title="Settings",
    )
    dearest = sorted(each.values(), key=lambda needed: (needed.cost or 0.0, needed.prompt_tokens), reverse=True)
    taken = [add_needed(one.times(rung.fresh / queries) for one in dearest[: rung.settings]) for rung in rungs]
    rows: list[tuple[object, ...]] = [
        (
            number,
            rung.settings,
            f"{rung.fresh:,}",
            f"{needed.calls:,}",
            f"{needed.prompt_tokens:,}",
            _dollars(needed.cost),
        )
        for number, (rung, needed) in enumerate(zip(rungs, taken, strict=True), 1)
    ]
    whole = add_needed(taken)
    rows.append(("all", "", "", f"{whole.calls:,}", f"{whole.prompt_tokens:,}", _dollars(whole.cost)))
    columns = ["rung", "settings", "new queries each", "calls", "tokens in", "cost"]
    print_table(columns, rows, title="Rungs, if the dearest settings stay in the race")
    typer.echo("Replies that are kept already cost nothing, and are not left out here. Nothing was asked.")


def _tokens(needed: Needed, queries: int) -> str:
    return f"{(needed.prompt_tokens + needed.reply_tokens) / queries:,.0f}"


def _per_query(needed: Needed, queries: int) -> Dollars | None:
    return None if needed.cost is None else needed.cost / queries


def _dollars(cost: Dollars | None) -> str:
    return "unknown" if cost is None else f"${cost:,.2f}"


def _per_thousand(cost: Dollars | None) -> str:
    return "–" if cost is None else f"{1000 * cost:,.2f}"


def print_verdict(verdict: Verdict, *, rungs: int) -> None:
    """Print the table of all settings and what it tells."""
    columns = ["prompt", "k", "queries", "top-1", f"beside {verdict.reference.name}", "p (Holm)"]
    columns += ["$ / 1,000", "tokens", "s / call", "left at"]
    print_table(columns, [_cells(row, rungs) for row in verdict.rows], title=_TITLE)
    if verdict.stopped:
        typer.echo(printable(verdict.stopped[0].upper() + verdict.stopped[1:], longest=1000))
    for sentence in verdict.sentences:
        typer.echo(printable(sentence, longest=1000))


_TITLE: Final = f"{CAPTION}, on the queries that both answered"


def _cells(row: Row, rungs: int) -> list[str]:
    low, high = row.interval
    left = "" if not row.rungs else "the end" if row.in_race else f"rung {row.rungs} of {rungs}"
    return [
        row.prompt,
        str(row.neighbors),
        f"{row.queries:,}",
        f"{row.top1:.1f} ({low:.1f} to {high:.1f})",
        *_beside(row),
        _per_thousand(row.dollars),
        "–" if row.tokens is None else f"{row.tokens:,.0f}",
        "–" if row.seconds is None else f"{row.seconds:.2f}",
        left,
    ]


def _beside(row: Row) -> list[str]:
    if row.beside is None:
        return ["", ""]
    p = format_p(row.beside.adjusted).removeprefix("p").removeprefix(" = ").strip()
    return ["{} ({})".format(*format_difference(row.beside)), p]


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
