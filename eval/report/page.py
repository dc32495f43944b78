"""A run as one self-contained page: figures, plots, classes, and every query with what decided it."""

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from eval.report import PICTURED
from eval.report.cases import (
    BY_SECOND_LOOK,
    BY_VOTE,
    Pictures,
    Recomposer,
    Source,
    Words,
    answered_columns,
    choices,
    choose_pictured,
    find_samples,
    in_order,
    make_views,
    reading_order,
    share_out,
)
from eval.report.plots import as_svg, draw_plots
from eval.runs.runner import find_unfinished, lacks_pictures, masked_notes, say_damage, say_unusable
from eval.types import Dataset, Metrics, QueryResults, Run, Spending
from eval.wording import counted, one_line
from retrieval.memory import VisualMemory
from retrieval.support.terminal import write_text
from retrieval.voting import DEFAULT_METHOD, METHODS

if TYPE_CHECKING:
    from markupsafe import Markup


_FOLDER: Final = Path(__file__).parent
_SCRIPTS: Final = ("gallery.js", "classes.js")  # one after the other
_MARKUP: Final = {ord(c): f"\\u{ord(c):04x}" for c in "<>&"}  # JSON reads them back as they were


def write_page(path: Path, template: str, **values: object) -> None:
    """Write a page from a template of this folder.

    Its policy lets a browser run the one script that stands in the file, by its digest, and load nothing.

    Raises:
        StorageError: the file cannot be written.
    """
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "json": embedded_json,
        "line": partial(one_line, longest=80),
        "text": partial(one_line, longest=500),
        "percent": lambda value: "–" if value is None else f"{value:.1f}",
        "count": lambda value: f"{value:,}",
        "dollars": lambda value: "unknown" if value is None else f"${value:,.4f}",
        "seconds": lambda value: "–" if value is None else f"{value:.2f} s",
    }
    script = "".join((_FOLDER / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    style = (_FOLDER / "page.css").read_text(encoding="utf-8")
    environment.globals["counted"] = counted
    page = environment.get_template(template).render(
        script=Markup(script),
        style=Markup(style),
        policy=f"default-src 'none'; img-src data:; script-src '{_digest(script)}'; style-src '{_digest(style)}';"
        " base-uri 'none'; form-action 'none'",
        **values,
    )
    write_text(path, page)


def embedded_json(content: Any) -> "Markup":  # noqa: ANN401
    """Return JSON that may stand inside a script element: it holds no character that HTML reads, and only ASCII."""
    from markupsafe import Markup

    return Markup(json.dumps(content, separators=(",", ":")).translate(_MARKUP))


def svg_address(svg: str) -> str:
    """Return a drawing as an address for an image: there it runs nothing, and its names meet no others."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


_FIRST: Final = "; figures are of those that came first, which may all be of a few classes"


def describe_run(run: Run, memory: VisualMemory | None) -> list[tuple[str, str]]:
    """Return the lines of a summary: term and description.

    Args:
        run: what to describe.
        memory: what its pictures are shown from, if it is there.
    """
    settings = run.info.settings
    rerank = settings.get("rerank") or {}
    described = [
        ("Memory", _memory(settings["memory"], run.info.about["classes"], memory)),
        ("Embedder", run.info.about.get("embedder") or str(settings.get("embedder", ""))[:16]),
        ("Precision", settings.get("precision")),
        ("Search", settings.get("index")),
        ("Neighbours", settings.get("k")),
        (
            "Centring",
            f"{run.info.centred}: transductive, queries help to decide each other" if run.info.centred else "",
        ),
        ("Model", rerank.get("model")),
        ("Prompt", rerank.get("prompt")),
        ("Asked", rerank.get("when")),
        ("Fusion weight", rerank.get("fusion weight")),
        ("Queries", _queries(run)),
        ("Program", run.info.about.get("version")),
    ]
    return [(term, one_line(told)) for term, told in described if told not in (None, "")]


def flatten(settings: Mapping[str, Any], *, under: str = "") -> list[tuple[str, str]]:
    """Return nested settings as lines of a table, in order."""
    lines: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            lines += flatten(value, under=f"{under}{name} · ")
        else:
            lines.append((one_line(under + name), one_line(value, longest=500)))
    return lines


def _memory(settings: Mapping[str, Any], classes: int, memory: VisualMemory | None) -> str:
    told = f"{counted(settings['items'], 'picture')} of {counted(classes, 'class')}, version {settings['version']}"
    if memory is None or memory.version == settings["version"]:
        return told
    return f"{told}; shown are the pictures of version {memory.version}, in which some may be others, or gone"


def _queries(run: Run) -> str:
    answered = sum(map(len, run.results.values()))
    unreadable = sum(len(results.unreadable) for results in run.results.values())
    left_out = f", {unreadable:,} unreadable" if unreadable else ""
    return f"{answered:,}{left_out}, in {counted(len(run.results), 'data set')}"


def say_gaps(run: Run, metrics: Mapping[str, Metrics]) -> list[str]:
    """Return sentences on what a run lacks: queries, usable pictures, parts of published data sets."""
    partial = [(name, lacks_pictures(name, figures.queries)) for name, figures in metrics.items()]
    sentences = [
        *(f"{dataset}{_FIRST if dataset.name in metrics else ''}" for dataset in find_unfinished(run)),
        *say_unusable(run),
        *say_damage(run),
        *(
            f"{name}: {lacking}, so that figures do not compare with published ones"
            for name, lacking in partial
            if lacking
        ),
    ]
    return [one_line(sentence, longest=500) for sentence in sentences]


_TEMPLATE: Final = "report.html.jinja"


def write_report(
    path: Path,
    run: Run,
    metrics: Mapping[str, Metrics],
    *,
    spending: Mapping[str, Spending],
    memory: VisualMemory | None,
    datasets: Mapping[str, Dataset],
    folder: Path,
    pictured: int = PICTURED,
) -> None:
    """Write the page. It needs no network, and labels and names appear as text whatever they hold.

    Args:
        path: the file.
        run: what to show.
        metrics: its figures by data set.
        spending: what its second look took by data set; empty where no model was asked.
        memory: where neighbours' pictures lie; None leaves gaps in their places.
        datasets: where the queries' pictures lie, of as many data sets as there still are.
        folder: the run's, for what the model was asked and replied.
        pictured: how many queries of all data sets together carry pictures; the others are listed as text.

    Raises:
        StorageError: the file cannot be written.
        RunError: the folder's log is not the run's.
        NotAMemory: the memory is damaged.
    """
    words = Words()
    source = Source(folder, memory, Recomposer.of(run.info.settings), words, Pictures())
    listed = [
        _listed(source, name, run.results[name], datasets.get(name), count)
        for name, count in zip(metrics, share_out(pictured, len(metrics)), strict=True)
    ]
    groups, cases = [columns for columns, _ in listed], [found for _, found in listed]
    classes = [_classes(figures, words) for figures in metrics.values()]
    second_look = any(figures.rerank for figures in metrics.values())
    outcomes = choices(BY_SECOND_LOOK if second_look else BY_VOTE)
    write_page(
        path,
        _TEMPLATE,
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
        classes=classes,
        gallery=words.tables() | {"groups": groups, "outcomes": outcomes},
        cases={"pictures": source.pictures.encoded, "groups": cases},
    )


def _listed(
    source: Source, name: str, results: QueryResults, dataset: Dataset | None, count: int
) -> tuple[dict[str, Any], dict[int, dict[str, Any]]]:
    """Return the columns of a data set's queries, and what is shown of the pictured ones, flips and errors first."""
    second_look = results.outcomes is not None
    columns = answered_columns(name, results, source.words)
    flags = np.array(columns["flags"], np.int64)
    rows = choose_pictured(flags[: len(results)], count, second_look=second_look)
    samples = find_samples(dataset, [results.ids[row] for row in rows])
    cases = {
        row: {"picture": source.pictures.query(sample, (name, results.ids[row])), "views": [seen]}
        for row, sample, seen in zip(rows, samples, make_views(source, results, rows), strict=True)
    }
    return in_order(columns, cases, reading_order(flags, rows, second_look=second_look))


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
