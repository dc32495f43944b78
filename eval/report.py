"""A run as one self-contained page: figures, plots, classes, and every query with what decided it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from eval.drawing import as_svg
from eval.gaps import masked_notes
from eval.page import PICTURED
from eval.page.assembly import svg_address, write_page
from eval.page.cases import Source, choose_pictured, make_views, share_out
from eval.page.listing import BY_SECOND_LOOK, BY_VOTE, Words, answered_columns, choices, in_order, reading_order
from eval.page.pictures import Pictures, find_samples
from eval.page.prompting import Recomposer
from eval.page.summary import describe_run, flatten, say_gaps
from eval.plots import draw_plots
from eval.types import Dataset, Metrics, QueryResults, Run, Spending
from retrieval.memory import VisualMemory
from retrieval.voting import DEFAULT_METHOD, METHODS

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
