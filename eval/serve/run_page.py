"""The page of runs: their figures, and their queries by data set, class, what became of them, and why."""

from collections.abc import Iterator
from functools import partial

from fastapi import Request
from nicegui import ui

from eval.compare import Comparison, PairedFigures
from eval.conclusion import conclude, format_difference, format_p
from eval.serve import run_query_page
from eval.serve.browsing import (
    Cell,
    form,
    link,
    named,
    one_of,
    pager,
    short,
    show_button,
    table,
    text_field,
)
from eval.serve.context import ServeContext
from eval.serve.jobs import Jobs
from eval.serve.layout import frame, tag, words
from eval.serve.paging import Paging, address
from eval.serve.query_table import Filters, QueryTable
from eval.serve.run_query_page import draw_answer, draw_runs, say
from eval.serve.run_shelf import Choice, Looked, Shelf
from eval.wording import counted

_ROWS = 50  # queries on a page


def register(context: ServeContext) -> None:
    """Register the page."""
    shelf, jobs = Shelf(context.runs), Jobs()
    run_query_page.register(context, shelf, jobs)

    @ui.page("/runs")
    def _runs(request: Request) -> None:
        with frame(context, "Runs", here="/runs"):
            draw_runs(shelf, jobs, dict(request.query_params), partial(_draw, shelf))


def _draw(shelf: Shelf, choice: Choice, asked: dict[str, str], looked: Looked) -> None:
    filters = Filters.of(asked)
    _draw_form(shelf, choice, filters, looked.table)
    if looked.comparison:
        draw_figures(looked.comparison)
    found = looked.table.select(filters)
    words("h2", "Queries")
    queries = counted(len(looked.table), "query")
    words("p", f"{len(found):,} of {queries}", role="status")
    paging = Paging.of(asked, size=_ROWS, total=len(found))
    parameters = choice.parameters | filters.parameters
    shown = found[paging.shown].tolist()
    if not shown:
        return
    several = len(looked.table.names) > 1
    table(
        "Queries",
        ["query", *["data set"] * several, "right", *looked.table.heads, *["reason"] * bool(looked.table.reason_codes)],
        [list(_row(looked.table, place, parameters)) for place in shown],
    )
    pager(paging, "/runs", parameters, "queries")


def _draw_form(shelf: Shelf, choice: Choice, filters: Filters, queries: QueryTable) -> None:
    runs = {str(place): name for place, name in enumerate(shelf.names)}
    with form("/runs"):
        one_of("run", "run", runs, str(choice.run))
        if len(runs) > 1:
            one_of("against", "compared with", {"": "no other run", **runs}, str(choice.parameters["against"]))
        if len(queries.names) > 1:
            one_of("dataset", "data set", {"": "all", **{name: name for name in queries.names}}, filters.dataset)
        one_of("outcome", "outcome", {"": "all", **{name: name for name in queries.outcome_names}}, filters.outcome)
        if queries.reason_codes:
            one_of(
                "reason", "reason", {"": "all", **{code: say(code) for code in queries.reason_codes}}, filters.reason
            )
        text_field("label", "class", filters.label, offered=queries.labels)
        text_field("text", "text in id or labels", filters.text)
        show_button()
        link("clear", address("/runs", choice.parameters))


def draw_figures(comparison: Comparison) -> None:
    """Draw how the second side does against the first."""
    other = comparison.others[0]
    words("p", conclude(comparison.before, other), "conclusion")
    for gap in (*comparison.before.unfinished, *other.after.unfinished):
        words("p", gap, "soft")
    rows = [(dataset.name, dataset.figures) for dataset in other.datasets]
    rows += [("all", other.overall)] if len(rows) > 1 else []
    heads = ["data set", "queries", comparison.before.name, other.after.name, "difference", "fixed", "broken", "p"]
    table("Figures by data set", heads, [list(_figures(*row)) for row in rows], wide=range(1, len(heads)))


def _figures(name: str, figures: PairedFigures) -> Iterator[str]:
    yield name
    yield f"{figures.count:,}"
    yield f"{figures.before:.1f} %"
    yield f"{figures.after:.1f} %"
    yield "{} ({})".format(*format_difference(figures))
    yield f"{figures.fixed:,}"
    yield f"{figures.broken:,}"
    yield format_p(figures.adjusted).removeprefix("p = ").removeprefix("p ")


def _row(queries: QueryTable, place: int, parameters: dict[str, object]) -> Iterator[Cell]:
    dataset = queries.names[queries.dataset[place]]
    query = queries.ids[place]
    yield partial(_query_link, dataset, query, parameters)
    if len(queries.names) > 1:
        yield dataset
    yield ", ".join(map(named, sorted(queries.truths[place])))
    for side in range(len(queries.heads)):
        yield partial(draw_answer, queries, place, side)
    if queries.reason_codes:
        yield say(queries.reasons[place])


def _query_link(dataset: str, query: str, parameters: dict[str, object]) -> None:
    with tag("a") as anchor:
        short(query)
    # Not by one of the drawing functions, which cut what is long.
    anchor.props["href"] = address("/runs/query", {**parameters, "in": dataset, "id": query})
