"""The page of one query of a run: its picture, neighbours and votes, and what the model made of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from fastapi import Request, Response
from nicegui import app, ui

from eval.page.cases import SHOWN_NEIGHBORS, SHOWN_VOTES, named_votes, neighbors_of, records_of, reply_origin
from eval.page.listing import UNREADABLE
from eval.page.pictures import scaled
from eval.page.prompting import Recomposer
from eval.page.text import some_lines
from eval.serve.browsing import Cell, Work, WorkPanel, add_style, facts, link, named, short, tile
from eval.serve.context import ServeContext, item_page
from eval.serve.decision import draw_bars
from eval.serve.jobs import Jobs
from eval.serve.layout import frame, picture, picture_response, tag, words
from eval.serve.paging import address
from eval.serve.query_table import NO_ROW, Filters, QueryTable
from eval.serve.run_shelf import Choice, Looked, Shelf
from eval.types import QueryResults, Run
from retrieval.errors import VisualMemoryError
from retrieval.types import Neighbor, Votes
from retrieval.voting import count_votes

_PICTURE_PIXELS: Final = 480
_PICTURE_SECONDS: Final = 600  # how long browsers keep one: its file may change


def register(context: ServeContext, shelf: Shelf, jobs: Jobs) -> None:
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
            draw_runs(shelf, jobs, asked, partial(_draw, context))


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


def _draw(context: ServeContext, choice: Choice, asked: Mapping[str, str], looked: Looked) -> None:
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
