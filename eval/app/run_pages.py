"""The page of runs: their figures, and their queries by data set, class, what became of them, and why."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from fastapi import Request, Response
from nicegui import app, ui

from eval.app.context import Jobs, ServeContext, item_page
from eval.app.frame import (
    Cell,
    Paging,
    Work,
    WorkPanel,
    add_style,
    address,
    facts,
    form,
    frame,
    link,
    named,
    one_of,
    pager,
    picture,
    picture_response,
    short,
    show_button,
    table,
    tag,
    text_field,
    tile,
    words,
)
from eval.app.query_page import draw_bars
from eval.app.query_table import NO_ROW, Filters, QueryTable, table_of_run, table_of_two
from eval.comparing import (
    Comparison,
    PairedFigures,
    compare_runs,
    compare_with_vote,
    conclude,
    format_difference,
    format_p,
)
from eval.report.cases import (
    SHOWN_NEIGHBORS,
    SHOWN_VOTES,
    UNREADABLE,
    Recomposer,
    named_votes,
    neighbors_of,
    records_of,
    reply_origin,
    scaled,
)
from eval.runs.finished import find_dataset
from eval.runs.log import LOG, read_run
from eval.types import QueryResults, Run, Sample
from eval.wording import counted, some_lines
from retrieval.errors import VisualMemoryError
from retrieval.types import Neighbor, Votes
from retrieval.voting import count_votes

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
        runs = tuple(self._run(place) for place in choice.places)
        folders = tuple(self.folders[place] for place in choice.places)
        names = [self.names[place] for place in choice.places]
        if len(runs) == 1:
            table = table_of_run(runs[0]).prepare()
            asked = len(table.heads) > 1
            return Looked(runs, folders, table, compare_with_vote(names[0], runs[0]) if asked else None)
        comparison = compare_runs(list(zip(names, runs, strict=True)))
        return Looked(runs, folders, table_of_two((names[0], names[1]), *runs).prepare(), comparison)

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


def register_query(context: ServeContext, shelf: Shelf, jobs: Jobs) -> None:
    """Register the page and the pictures of queries."""

    @app.get("/runs/picture")
    def _picture(run: int, dataset: str, query: str) -> Response:
        try:
            sample = shelf.sample(run, dataset, query) if 0 <= run < len(shelf.folders) else None
        except VisualMemoryError:  # the run is gone
            sample = None
        small = scaled(sample.picture, _PICTURE_PIXELS) if sample else None
        return picture_response(small, kept_seconds=_PICTURE_SECONDS)

    @ui.page("/runs/query")
    def _query(request: Request) -> None:
        asked = dict(request.query_params)
        with frame(context, "A query", here="/runs"):
            draw_runs(shelf, jobs, asked, partial(_draw_query, context))


def draw_runs(
    shelf: Shelf, jobs: Jobs, asked: dict[str, str], draw: Callable[[Choice, dict[str, str], Looked], None]
) -> None:
    """Draw something of the runs that an address asks for, once they are read."""
    add_style()
    if not shelf.folders:
        words("p", "No run was given: start the server with `vmem serve MEMORY --run RUN`.")
        return
    choice = Choice.of(asked, runs=len(shelf.folders))
    work = Work(jobs, f"runs {choice.places}", shelf.version(choice), lambda: shelf.look(choice), offer="Reading")
    WorkPanel(work, lambda looked: draw(choice, asked, looked), at_once=True)


def say(code: str) -> str:
    """Return a reason's code as words."""
    return code.replace("_", " ")


def draw_answer(queries: QueryTable, place: int, side: int) -> None:
    """Draw a side's answer, and whether it is right."""
    if queries.flags[place] & UNREADABLE:
        words("span", "none", "soft")
        return
    right = bool(queries.flags[place] & (1 << side))
    words(
        "span",
        "✓" if right else "✗",
        "right" if right else "wrong",
        role="img",
        aria_label="right" if right else "wrong",
    )
    words("span", named(queries.answers[side][place]))


def _draw_query(context: ServeContext, choice: Choice, asked: Mapping[str, str], looked: Looked) -> None:
    queries, filters = looked.table, Filters.of(asked)
    parameters = choice.parameters | filters.parameters
    place = queries.find(asked.get("in", ""), asked.get("id", ""))
    with tag("nav", "pager", aria_label="Queries"):
        link("all queries", address("/runs", parameters))
        if place is not None:
            _draw_beside(looked, place, filters, parameters)
    if place is None:
        words("p", "The run has no such query.", role="alert")
        return
    query, dataset = queries.ids[place], queries.names[queries.dataset[place]]
    with tag("div", "asked"):
        readable = (dataset, query) not in queries.unreadable
        url = address("/runs/picture", {"run": choice.run, "dataset": dataset, "query": query})
        picture(url if readable else None, "The query", "large")
        facts(dict(_facts(looked, place)))
    rows = queries.rows[place].tolist()
    if NO_ROW in rows:
        return
    sides = list(zip(looked.runs, looked.folders, rows, strict=False))
    with tag("div", "looks"):
        for (run, folder, row), name in zip(sides, _names(looked), strict=True):
            results = run.results[dataset]
            record = records_of(folder, results, [row])[0]
            _draw_side(context, _Seen.of(run, results, row, record), name)


def _names(looked: Looked) -> Sequence[str]:
    """Return the headings of what each run saw; one run's own two answers stand on the same neighbours."""
    return looked.table.heads if len(looked.runs) > 1 else ("What the run saw",)


def _draw_beside(looked: Looked, place: int, filters: Filters, parameters: Mapping[str, object]) -> None:
    """Draw links to the queries before and after, among those that the filters let through."""
    queries, found = looked.table, looked.table.select(filters)
    after = int(found.searchsorted(place))
    here = after < len(found) and found[after] == place
    for text, beside in (("← previous query", after - 1), ("next query →", after + here)):
        if 0 <= beside < len(found):
            other = found[beside]
            target = {"in": queries.names[queries.dataset[other]], "id": queries.ids[other]}
            link(text, address("/runs/query", {**parameters, **target}))


def _facts(looked: Looked, place: int) -> Iterator[tuple[str, Cell]]:
    queries, dataset = looked.table, looked.table.names[looked.table.dataset[place]]
    yield "query", lambda: short(queries.ids[place])
    yield "data set", dataset
    if why := queries.unreadable.get((dataset, queries.ids[place])):
        yield "unreadable", why
        return
    yield "right", ", ".join(map(named, sorted(queries.truths[place])))
    for side, head in enumerate(queries.heads):
        yield head, partial(draw_answer, queries, place, side)
    for run, name, row in zip(looked.runs, _names(looked), queries.rows[place].tolist(), strict=False):
        if outcomes := run.results[dataset].outcomes:
            told = f": {name}" if len(looked.runs) > 1 else ""
            yield f"reason{told}", say(outcomes[row].reason)
            if outcomes[row].confidence is not None:
                yield f"confidence{told}", f"{outcomes[row].confidence:.2f}"


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a run saw of a query, and said."""

    memory_id: str  # of the memory that it searched
    truth: frozenset[str]
    neighbors: tuple[Neighbor, ...]
    votes: Votes
    record: Mapping[str, Any]  # of the second look in the log; empty where there was none
    recomposer: Recomposer | None

    @classmethod
    def of(cls, run: Run, results: QueryResults, row: int, record: Mapping[str, Any]) -> "_Seen":
        """Return what a run's log and columns tell of one query."""
        codes, distances = results.neighbor_labels.codes[[row]], results.neighbor_distances[[row]]
        votes = count_votes(codes, distances, factors=results.factors([row]))[0]
        settings = run.info.settings
        return cls(
            str(settings.get("memory", {}).get("id")),
            results.truths[row],
            neighbors_of(results, row),
            named_votes(votes, results),
            record,
            Recomposer.of(settings),
        )

    @property
    def shown(self) -> list[tuple[int, Neighbor]]:
        """The nearest neighbours by rank, and those farther away that the model named as its evidence."""
        shown = set(self.record.get("evidence", ()))
        return [
            (rank, one)
            for rank, one in enumerate(self.neighbors, start=1)
            if rank <= SHOWN_NEIGHBORS or one.id in shown
        ]


def _draw_side(context: ServeContext, seen: _Seen, name: str) -> None:
    with tag("section", "panel", aria_label=name):
        words("h2", name)
        _draw_votes(seen.votes)
        same = seen.memory_id == context.memory.settings.memory_id
        words("h3", f"Nearest of {len(seen.neighbors)} neighbours")
        if not same:
            words("p", "The run searched another memory than this one: no pictures.", "soft")
        urls = context.thumbnails.urls([one.id for _, one in seen.shown]) if same else [None] * len(seen.shown)
        evidence = set(seen.record.get("evidence", ()))
        with tag("ol", "tiles"):
            for (rank, one), url in zip(seen.shown, urls, strict=True):
                _draw_neighbor(rank, one, url, right=one.label in seen.truth, evidence=one.id in evidence)
        _draw_replies(seen, with_pictures=same, context=context)


def _draw_votes(votes: Votes) -> None:
    words("h3", "Votes")
    with tag("div", "votes"):
        draw_bars(votes, most=SHOWN_VOTES)


def _draw_neighbor(rank: int, one: Neighbor, url: str | None, *, right: bool, evidence: bool) -> None:
    def draw_label() -> None:
        words("span", "✓ " if right else "✗ ", "right" if right else "wrong", aria_hidden="true")
        words("span", named(one.label))

    told = f"Neighbour {rank}, {named(one.label)}, distance {one.distance:.3f}"
    lines: list[Cell] = [draw_label, f"{rank} · {one.distance:.3f}" + (" · evidence" if evidence else "")]
    if url is not None:
        lines.append(lambda: link("look at", item_page(one.id), aria_label=f"Look at neighbour {rank} as a query"))
    tile(url, told, lines, "evidence" if evidence else "")


def _draw_replies(seen: _Seen, *, context: ServeContext, with_pictures: bool) -> None:
    replies = seen.record.get("replies") or ()
    if not replies:
        return
    words("h3", "The model's reply" if len(replies) == 1 else "The model's replies")
    for reply in replies:
        _draw_lines(reply["text"])
        words("p", reply_origin(reply), "soft")
    if seen.recomposer is None or not with_pictures:  # the memory tells which neighbours had a picture
        return
    ids = [one.id for one in seen.neighbors]
    stored = dict(zip(ids, context.memory.thumbnails(ids), strict=True))
    with tag("details"):
        words("summary", "The prompt, without its pictures")
        _draw_lines(seen.recomposer.prompt(seen.neighbors, seen.votes, stored))


def _draw_lines(text: str) -> None:
    with tag("pre"):
        for line in some_lines(text).split("\n"):
            words("div", line or " ")


_ROWS = 50  # queries on a page


def register(context: ServeContext) -> None:
    """Register the page."""
    shelf, jobs = Shelf(context.runs), Jobs()
    register_query(context, shelf, jobs)

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
