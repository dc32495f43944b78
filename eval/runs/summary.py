"""From a run to what people read: metrics.json, usage.json, plots and a report, all made from the log alone."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from eval.metrics.rerank import sum_spending
from eval.metrics.votes import measure
from eval.report import PICTURED
from eval.report.page import write_report
from eval.report.plots import write_plots
from eval.runs.finished import METRICS, find_unfinished
from eval.types import Dataset, Run, Summary
from retrieval.memory import VisualMemory
from retrieval.storage.places import writing

USAGE: Final = "usage.json"
PLOTS: Final = "plots"
REPORT: Final = "report.html"


def summarise(run: Run, folder: str | Path, *, choose_k_on: str | None = None) -> Summary:
    """Compute a run's figures and write them into its folder.

    ``metrics.json`` is the same whenever the same replies were given; what they took, which is less when they come from
    the cache, stands apart in ``usage.json``.

    Args:
        run: as its log holds it.
        folder: the run folder.
        choose_k_on: see `eval.metrics.votes.measure`.

    Raises:
        RunError: no query was answered, or there is no such data set to choose k on; nothing is written then.
        StorageError: the folder cannot be written.
    """
    metrics = measure(run, choose_k_on=choose_k_on)
    spending = {name: sum_spending(found.outcomes) for name, found in run.results.items() if found.outcomes}
    about = {
        "embedder": run.info.about["embedder"],
        "classes": run.info.about["classes"],
        "unfinished": [asdict(dataset) for dataset in find_unfinished(run)],
        "damaged_lines": list(run.damaged_lines),
        "settings": run.info.settings,
    }
    _write(Path(folder) / METRICS, about | {"datasets": _records(metrics)})
    if spending:
        _write(Path(folder) / USAGE, about | {"datasets": _records(spending)})
    return Summary(metrics, spending)


def write_pages(
    run: Run,
    summary: Summary,
    folder: str | Path,
    *,
    memory: VisualMemory | None,
    datasets: Mapping[str, Dataset],
    pictured: int = PICTURED,
) -> None:
    """Write the plots and the report of a run into its folder; see `eval.report.page.write_report`.

    Raises:
        StorageError: the folder cannot be written.
    """
    write_plots(Path(folder) / PLOTS, summary.metrics, summary.spending)
    write_report(
        Path(folder) / REPORT,
        run,
        summary.metrics,
        spending=summary.spending,
        memory=memory,
        datasets=datasets,
        folder=Path(folder),
        pictured=pictured,
    )


def _records(by_dataset: Mapping[str, Any]) -> dict[str, Any]:
    return {name: asdict(figures) for name, figures in by_dataset.items()}


def _write(path: Path, content: Mapping[str, Any]) -> None:
    fresh = path.with_suffix(".new")
    with writing(path):
        fresh.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
        fresh.replace(path)
