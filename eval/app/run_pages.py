"""The page of runs: their figures, and their queries by data set, class, what became of them, and why."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from fastapi import Request, Response
from markupsafe import escape
from nicegui import app, ui

from agent.card import Address, View, label_text
from eval.app.context import Jobs, ServeContext, item_page
from eval.app.frame import Paging, WorkPanel, address, draw, frame, picture_response, words
from eval.app.query_table import Filters, QueryTable, table_of_run, table_of_two
from eval.comparing import Comparison, compare_runs, compare_with_vote, conclude
from eval.report.cases import UNREADABLE, Queries, Source, Stored, find_template, make_views, scaled
from eval.report.printing import figure_rows
from eval.runs.finished import find_dataset
from eval.runs.log import LOG, read_run
from eval.types import Run, Sample
from retrieval.errors import VisualMemoryError
from retrieval.types import Neighbor

NONE: Final = -1


@dataclass(frozen=True, slots=True)
class Choice:
    """Which runs are looked at."""

    run: int  # place among the server's
    against: int = NONE  # the run that is compared with it

    @classmethod
    def of(cls, asked: Mapping[str, str], *, runs: int) -> "Choice":
        """Return the choice that an address makes: the first run alone where it makes none that can be followed."""
        known = {str(place): place for place in range(runs)}
        first, second = (known.get(asked.get(name, ""), NONE) for name in ("run", "against"))
        first = max(first, 0)
        return cls(first, NONE if second == first else second)

    @property
    def places(self) -> tuple[int, ...]:
        """The runs, in the order in which they are compared."""
        return (self.run,) if self.against == NONE else (self.run, self.against)

    @property
    def parameters(self) -> dict[str, object]:
        """The choice as parameters of an address."""
        return {"run": self.run, "against": "" if self.against == NONE else self.against}


@dataclass(frozen=True, slots=True, eq=False)
class Looked:
    """What a choice of runs comes to."""

    runs: tuple[Run, ...]
    folders: tuple[Path, ...]
    table: QueryTable
    comparison: Comparison | None  # None: one run that asked no model


@dataclass(slots=True, eq=False)
class Shelf:
    """Runs by their place in the command line."""

    folders: Sequence[Path]
    _read: dict[int, tuple[str, Run]] = field(default_factory=dict)
    _samples: dict[tuple[int, str], dict[str, Sample]] = field(default_factory=dict)
    _turn: threading.Lock = field(default_factory=threading.Lock)

    @property
    def names(self) -> list[str]:
        """What the runs are called: their folders' names, the whole paths where two are the same."""
        names = [folder.resolve().name for folder in self.folders]
        return names if len(set(names)) == len(names) else [str(folder) for folder in self.folders]

    def version(self, choice: Choice) -> str:
        """Return what changes when a log has grown."""
        return " ".join(self._stamp(place) for place in choice.places)

    def look(self, choice: Choice) -> Looked:
        """Return the queries of one run, or of two side by side, with their figures.

        Raises:
            RunError: a folder holds no run, or the two share no query.
        """
        runs = tuple(map(self._run, choice.places))
        folders = tuple(self.folders[place] for place in choice.places)
        names = [self.names[place] for place in choice.places]
        if len(runs) == 1:
            table = table_of_run(runs[0])
            comparison = compare_with_vote(names[0], runs[0]) if len(table.heads) > 1 else None
        else:
            comparison = compare_runs(list(zip(names, runs, strict=True)))
            table = table_of_two((names[0], names[1]), *runs)
        return Looked(runs, folders, table.prepare(), comparison)

    def sample(self, place: int, dataset: str, query: str) -> Sample | None:
        """Return a query with its picture; None where its data set lies no longer where the run found it."""
        run = self._run(place)
        if dataset not in run.results:
            return None
        with self._turn:
            if (place, dataset) not in self._samples:
                found = find_dataset(dataset, [run.info])
                self._samples[place, dataset] = {one.id: one for one in found.samples} if found else {}
        return self._samples[place, dataset].get(query)

    def _run(self, place: int) -> Run:
        stamp = self._stamp(place)
        known = self._read.get(place)
        if known is None or known[0] != stamp:
            known = self._read[place] = (stamp, read_run(self.folders[place]))
        return known[1]

    def _stamp(self, place: int) -> str:
        try:
            told = (self.folders[place] / LOG).stat()
        except OSError:
            return "gone"
        return f"{place}:{told.st_size}:{told.st_mtime_ns}"


_PICTURE_PIXELS: Final = 480
_PICTURE_SECONDS: Final = 600  # how long browsers keep one: its file may change
_ROWS: Final = 50  # queries on a page


def register(context: ServeContext) -> None:
    """Register the pages and the pictures of queries."""
    shelf, jobs = Shelf(context.runs), Jobs()

    @app.get("/runs/picture")
    def _picture(run: int, dataset: str, query: str) -> Response:
        try:
            sample = shelf.sample(run, dataset, query) if 0 <= run < len(shelf.folders) else None
        except VisualMemoryError:  # the run is gone
            sample = None
        small = scaled(sample.picture, _PICTURE_PIXELS) if sample else None
        return picture_response(small, kept_seconds=_PICTURE_SECONDS)

    @ui.page("/runs")
    def _runs(request: Request) -> None:
        with frame(context, "Runs", here="/runs"):
            _read(shelf, jobs, dict(request.query_params), partial(_draw_runs, shelf))

    @ui.page("/runs/query")
    def _query(request: Request) -> None:
        with frame(context, "A query", here="/runs"):
            _read(shelf, jobs, dict(request.query_params), partial(_draw_query, context))


def _read(
    shelf: Shelf, jobs: Jobs, asked: dict[str, str], show: Callable[[Choice, dict[str, str], Looked], None]
) -> None:
    """Draw something of the runs that an address asks for, once they are read."""
    if not shelf.folders:
        words("p", "No run was given: start the server with `vmem serve MEMORY --run RUN`.")
        return
    choice = Choice.of(asked, runs=len(shelf.folders))
    show_it = partial(show, choice, asked)
    read = partial(shelf.look, choice)
    WorkPanel(jobs, f"runs {choice.places}", shelf.version(choice), read, show_it, offer="Reading", at_once=True)


def _draw_runs(shelf: Shelf, choice: Choice, asked: dict[str, str], looked: Looked) -> None:
    queries, filters = looked.table, Filters.of(asked)
    fields, clear = _fields(shelf, choice, filters, queries), address("/runs", choice.parameters)
    draw("runs", "filters", fields=fields, queries=queries, chosen=filters, clear=clear)
    if looked.comparison:
        before, other = looked.comparison.before, looked.comparison.others[0]
        columns, rows = figure_rows(before, other)
        gaps = [*before.unfinished, *other.after.unfinished]
        draw("runs", "figures", conclusion=conclude(before, other), gaps=gaps, heads=columns, rows=rows)
    found = queries.select(filters)
    paging = Paging.of(asked, size=_ROWS, total=len(found))
    parameters = choice.parameters | filters.parameters
    several = len(queries.names) > 1
    draw(
        "runs",
        "listing",
        found=len(found),
        total=len(queries),
        heads=["query", *["data set"] * several, "right", *queries.heads, *["reason"] * bool(queries.reason_codes)],
        shown=[_row(queries, place, parameters) for place in found[paging.shown].tolist()],
        paging=paging,
        parameters=parameters,
    )


def _fields(
    shelf: Shelf, choice: Choice, filters: Filters, queries: QueryTable
) -> Iterator[tuple[str, str, dict[str, str], str]]:
    """Yield the lists to choose from: name, title, options and the one that is chosen."""
    runs = {str(place): name for place, name in enumerate(shelf.names)}
    yield "run", "run", runs, str(choice.run)
    if len(runs) > 1:
        yield "against", "compared with", {"": "no other run", **runs}, str(choice.parameters["against"])
    if len(queries.names) > 1:
        yield "dataset", "data set", {"": "all", **{name: name for name in queries.names}}, filters.dataset
    yield "outcome", "outcome", {"": "all", **{name: name for name in queries.outcome_names}}, filters.outcome
    if queries.reason_codes:
        codes = {code: code.replace("_", " ") for code in queries.reason_codes}
        yield "reason", "reason", {"": "all", **codes}, filters.reason


def _row(queries: QueryTable, place: int, parameters: Mapping[str, object]) -> dict[str, Any]:
    """Return a query as the list draws it: its cells, with a mark before each answer that says whether it is right."""
    dataset, flags = queries.names[queries.dataset[place]], int(queries.flags[place])
    marks = ["" if flags & UNREADABLE else "✓" if flags >> side & 1 else "✗" for side in range(len(queries.heads))]
    return {
        "id": queries.ids[place],
        "address": _query_address(queries, place, parameters),
        "before": [*[dataset] * (len(queries.names) > 1), ", ".join(map(label_text, sorted(queries.truths[place])))],
        "answers": list(zip(marks, (answer[place] for answer in queries.answers), strict=True)),
        "after": [str(queries.reasons[place]).replace("_", " ")] if queries.reason_codes else [],
    }


def _query_address(queries: QueryTable, place: int, parameters: Mapping[str, object]) -> str:
    named = {"in": queries.names[queries.dataset[place]], "id": queries.ids[place]}
    return address("/runs/query", {**parameters, **named})


def _draw_query(context: ServeContext, choice: Choice, asked: Mapping[str, str], looked: Looked) -> None:
    queries, filters = looked.table, Filters.of(asked)
    parameters = choice.parameters | filters.parameters
    place = queries.find(asked.get("in", ""), asked.get("id", ""))
    links = [("all queries", address("/runs", parameters))]
    if place is None:
        draw("runs", "query", links=links, id="", notes=[], shown=None)
        return
    part, at = queries.part_of(place)
    readable = not queries.flags[place] & UNREADABLE
    views, notes = _views(context, looked, part, at) if readable else ([], [])
    url = address("/runs/picture", {"run": choice.run, "dataset": part.name, "query": part.ids[at]})
    draw(
        "runs",
        "query",
        links=[*links, *_links_beside(queries, place, filters, parameters)],
        id=part.ids[at],
        notes=notes,
        shown=part.card(at, views, escape(url) if readable else None),
    )


def _links_beside(
    queries: QueryTable, place: int, filters: Filters, parameters: Mapping[str, object]
) -> Iterator[tuple[str, str]]:
    """Yield links to the queries before and after, among those that the filters let through."""
    found = queries.select(filters)
    after = int(found.searchsorted(place))
    here = after < len(found) and found[after] == place
    for text, beside in (("← previous query", after - 1), ("next query →", after + here)):
        if 0 <= beside < len(found):
            yield text, _query_address(queries, int(found[beside]), parameters)


def _views(context: ServeContext, looked: Looked, part: Queries, at: int) -> tuple[list[View], list[str]]:
    """Return what each run saw of a query, and remarks on it; one run's two answers stand on the same neighbours."""
    views, notes = [], []

    def urls(near: list[Neighbor], stored: Stored) -> Sequence[Address]:
        return context.thumbnails.urls([one.id for one in near])

    names = looked.table.heads if len(looked.runs) > 1 else ("What the run saw",)
    for run, folder, name, row in zip(looked.runs, looked.folders, names, part.rows[at].tolist(), strict=False):
        same = run.info.settings.get("memory", {}).get("id") == context.memory.settings.memory_id
        if not same:
            notes.append(f"{name}: another memory than this one was searched, so there are no pictures.")
        memory, template = context.memory if same else None, find_template(run.info.settings)
        source = Source(folder, memory, template, urls if same else lambda near, stored: [None] * len(near))
        (seen,) = make_views(source, run.results[part.name], [row], title=name)
        linked = tuple(
            replace(near, link=item_page(near.id)) if near.picture is not None else near for near in seen.neighbors
        )
        views.append(replace(seen, neighbors=linked, unfolded=True))
        if len(looked.runs) > 1 and (outcomes := run.results[part.name].outcomes):
            notes.append(f"{name}: {outcomes[row].reason}")
    return views, notes
