"""A run as one self-contained page: figures, plots, classes, and every query with what decided it."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from markupsafe import Markup

from agent.card import Card, card_style, templates
from eval.report import PICTURED
from eval.report.cases import (
    BY_SECOND_LOOK,
    BY_VOTE,
    UNREADABLE,
    Outcomes,
    Pictures,
    Queries,
    Source,
    Words,
    choose_pictured,
    file_source,
    find_samples,
    make_views,
    queries_of_run,
    reading_order,
    share_out,
)
from eval.report.plots import as_svg, draw_plots, write_plots
from eval.runs.finished import find_unfinished, lacks_pictures, masked_notes, say_damage, say_unusable
from eval.types import Dataset, Metrics, QueryResults, Run, Summary
from retrieval.memory import VisualMemory
from retrieval.support.terminal import counted, printable, write_text
from retrieval.voting import DEFAULT_METHOD, METHODS

if TYPE_CHECKING:
    import jinja2

REPORT: Final = "report.html"  # of a run folder
_FOLDER: Final = Path(__file__).parent
_SCRIPTS: Final = ("gallery.js", "classes.js")  # one after the other
_MARKUP: Final = str.maketrans({"<": r"\u003c", ">": r"\u003e", "&": r"\u0026"})  # JSON reads them as they were
Gallery = list[tuple[Queries, dict[int, Card]]]  # data sets, each with the cards of its pictured queries by place


def palette() -> str:
    """Return the style that reports and the page of ``vmem serve`` have in common: colours and cards."""
    return (_FOLDER / "palette.css").read_text(encoding="utf-8") + card_style()


def write_page(
    path: Path,
    template: str,
    gallery: Gallery,
    pictures: Pictures,
    classes: Sequence[Mapping[str, Any]],
    words: Words,
    outcomes: Sequence[Outcomes],
    **values: object,
) -> None:
    """Write a page from a template of this folder.

    Its policy lets a browser run the one script that stands in the file, by its digest, and load nothing.

    Args:
        path: the file.
        template: its name.
        gallery: the queries.
        pictures: those that the cards name by number.
        classes: the table of classes of each data set.
        words: the texts that queries and classes name by number.
        outcomes: what the filter offers.
        values: whatever else the template asks for.

    Raises:
        StorageError: the file cannot be written.
    """
    script = "".join((_FOLDER / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    style = palette() + (_FOLDER / "page.css").read_text(encoding="utf-8")
    groups = [queries.columns(words) for queries, _ in gallery]
    values |= {
        "script": Markup(script),
        "style": Markup(style),
        "policy": f"default-src 'none'; img-src data:; script-src '{_digest(script)}'; style-src '{_digest(style)}';"
        " base-uri 'none'; form-action 'none'",
        "gallery": words.tables() | {"groups": groups, "outcomes": outcomes},
        "cards": [cards for _, cards in gallery],
        "pictures": pictures.addresses,
        "classes": classes,
    }
    write_text(path, _environment().get_template(template).render(values))


@lru_cache(maxsize=1)
def _environment() -> "jinja2.Environment":
    environment = templates(_FOLDER)
    environment.filters |= {
        "json": embedded_json,
        "percent": lambda value: "–" if value is None else f"{value:.1f}",
        "count": lambda value: f"{value:,}",
        "dollars": lambda value: "unknown" if value is None else f"${value:,.4f}",
        "seconds": lambda value: "–" if value is None else f"{value:.2f} s",
    }
    environment.globals["counted"] = counted
    return environment


def embedded_json(content: Any) -> Markup:  # noqa: ANN401
    """Return JSON that may stand inside a script element: it holds no character that HTML reads, and only ASCII."""
    return Markup(json.dumps(content, separators=(",", ":")).translate(_MARKUP))


def svg_address(svg: str) -> Markup:
    """Return a drawing as an address for an image: there it runs nothing, and its names meet no others."""
    return Markup("data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode())


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def choose_listed(queries: Queries, pictured: int, *, second_look: bool) -> tuple[Queries, list[int]]:
    """Return queries in the order in which a page lists them, and the places of those that carry pictures."""
    readable = int((queries.flags & UNREADABLE == 0).sum())  # the others come last
    rows = choose_pictured(queries.flags[:readable], pictured, second_look=second_look)
    order = reading_order(queries.flags, rows, second_look=second_look)
    return queries.in_order(order), np.flatnonzero(np.isin(order, rows)).tolist()


_FIRST: Final = "; figures are of those that came first, which may all be of a few classes"


def describe_run(run: Run, memory: VisualMemory | None) -> list[tuple[str, str]]:
    """Return the lines of a summary: term and description.

    Args:
        run: what to describe.
        memory: what its pictures are shown from, if it is there.
    """
    settings = run.info.settings
    rerank = settings.get("rerank") or {}
    centring = f"{run.info.centred}: transductive, queries help to decide each other" if run.info.centred else ""
    described = {
        "Memory": _memory(settings["memory"], run.info.about["classes"], memory),
        "Embedder": run.info.about.get("embedder") or str(settings.get("embedder", ""))[:16],
        "Precision": settings.get("precision"),
        "Search": settings.get("index"),
        "Neighbours": settings.get("k"),
        "Centring": centring,
        "Model": rerank.get("model"),
        "Prompt": rerank.get("prompt"),
        "Asked": rerank.get("when"),
        "Fusion weight": rerank.get("fusion weight"),
        "Queries": _queries(run),
        "Program": run.info.about.get("version"),
    }
    return [(term, printable(told)) for term, told in described.items() if told not in (None, "")]


def flatten(settings: Mapping[str, Any], *, under: str = "") -> list[tuple[str, str]]:
    """Return nested settings as lines of a table, in order."""
    lines: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            lines += flatten(value, under=f"{under}{name} · ")
        else:
            lines.append((printable(under + name), printable(value, longest=500)))
    return lines


def _memory(settings: Mapping[str, Any], classes: int, memory: VisualMemory | None) -> str:
    told = f"{counted(settings['items'], 'picture')} of {counted(classes, 'class')}, version {settings['version']}"
    if memory is None or memory.version == settings["version"]:
        return told
    return f"{told}; shown are the pictures of version {memory.version}, in which some may be others, or gone"


def _queries(run: Run) -> str:
    unreadable = sum(len(results.unreadable) for results in run.results.values())
    left_out = f", {unreadable:,} unreadable" if unreadable else ""
    return f"{sum(map(len, run.results.values())):,}{left_out}, in {counted(len(run.results), 'data set')}"


def say_gaps(run: Run, metrics: Mapping[str, Metrics]) -> list[str]:
    """Return sentences on what a run lacks: queries, usable pictures, parts of published data sets."""
    sentences = [
        *(f"{dataset}{_FIRST if dataset.name in metrics else ''}" for dataset in find_unfinished(run)),
        *say_unusable(run),
        *say_damage(run),
        *(
            f"{name}: {lacking}, so that figures do not compare with published ones"
            for name, figures in metrics.items()
            if (lacking := lacks_pictures(name, figures.queries))
        ),
    ]
    return [printable(sentence, longest=500) for sentence in sentences]


def write_pages(
    run: Run,
    summary: Summary,
    folder: str | Path,
    *,
    memory: VisualMemory | None,
    datasets: Mapping[str, Dataset],
    pictured: int = PICTURED,
) -> None:
    """Write the plots and the report of a run into its folder; see `write_report`.

    Raises:
        StorageError: the folder cannot be written.
    """
    write_plots(Path(folder) / "plots", summary.metrics, summary.spending)
    write_report(
        Path(folder) / REPORT, run, summary, memory=memory, datasets=datasets, folder=Path(folder), pictured=pictured
    )


def write_report(
    path: Path,
    run: Run,
    summary: Summary,
    *,
    memory: VisualMemory | None,
    datasets: Mapping[str, Dataset],
    folder: Path,
    pictured: int = PICTURED,
) -> None:
    """Write the page. It needs no network, and labels and names appear as text whatever they hold.

    Args:
        path: the file.
        run: what to show.
        summary: its figures by data set, and what its second look took.
        memory: where neighbours' pictures lie; None leaves gaps in their places.
        datasets: where the queries' pictures lie, of as many data sets as there still are.
        folder: the run's, for what the model was asked and replied.
        pictured: how many queries of all data sets together carry pictures; the others are listed as text.

    Raises:
        StorageError: the file cannot be written.
        RunError: the folder's log is not the run's.
        NotAMemory: the memory is damaged.
    """
    metrics, spending = summary.metrics, summary.spending
    words, pictures = Words(), Pictures()
    source = file_source(folder, memory, run.info.settings, pictures)
    second_look = any(figures.rerank for figures in metrics.values())
    write_page(
        path,
        "report.html.jinja",
        [
            _listed(source, pictures, name, run.results[name], datasets.get(name), count)
            for name, count in zip(metrics, share_out(pictured, len(metrics)), strict=True)
        ],
        pictures,
        [_classes(figures, words) for figures in metrics.values()],
        words,
        BY_SECOND_LOOK if second_look else BY_VOTE,
        metrics=metrics,
        spending=spending,
        methods=METHODS,
        deciding=DEFAULT_METHOD,
        centred=run.info.centred,
        ways=run.info.about["classes"],
        gaps=say_gaps(run, metrics),
        masked={name: masked_notes(figures) for name, figures in metrics.items() if figures.masked},
        codes=list(dict.fromkeys(code for m in metrics.values() if m.rerank for code in m.rerank.reasons)),
        summary=describe_run(run, memory),
        settings=flatten(run.info.settings) + flatten(run.info.about),
        plots=[(plot.title, svg_address(as_svg(plot.figure))) for plot in draw_plots(metrics, spending)],
    )


def _listed(
    source: Source, pictures: Pictures, name: str, results: QueryResults, dataset: Dataset | None, count: int
) -> tuple[Queries, dict[int, Card]]:
    """Return a data set's queries, and the cards of the pictured ones, flips and errors first."""
    asked = results.outcomes is not None
    listed, places = choose_listed(queries_of_run(name, results, asked=asked), count, second_look=asked)
    samples = find_samples(dataset, [listed.ids[place] for place in places])
    views = make_views(source, results, listed.rows[places, 0].tolist())
    return listed, {
        place: listed.card(place, [seen], pictures.query(sample, (name, listed.ids[place])))
        for place, sample, seen in zip(places, samples, views, strict=True)
    }


def _classes(metrics: Metrics, words: Words) -> dict[str, Any]:
    """Return a data set's classes as rows of a label's number and its figures, the worst first by the last column."""
    columns = list(next(iter(metrics.per_class.values()), {"count": 0}))
    rows = [
        [words.label(label), *(round(figures[column], 1) for column in columns)]
        for label, figures in metrics.per_class.items()
    ]
    decisive = columns.index("final" if "final" in columns else DEFAULT_METHOD) + 1 if rows else 0
    rows.sort(key=lambda row: (row[decisive], -row[1]))
    heads = ["with the model" if column == "final" else column for column in columns]
    return {"columns": ["queries", *heads[1:]], "rows": rows, "by": decisive, "whole": 1, "decimals": 1}
