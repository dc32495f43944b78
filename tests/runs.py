"""A run and its figures in one call, as `vmem eval run` makes them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.report.page import REPORT, write_pages
from eval.runs.finished import summarise
from eval.runs.runner import run_evaluation
from eval.types import Dataset, Run, Sample, Summary
from retrieval import VisualMemory


def evaluate(
    memory: VisualMemory, queries: Mapping[str, Sequence[Sample]], out: Path, **options: Any
) -> tuple[Summary, Run]:
    """Return the figures of a run, and the run."""
    datasets = {name: Dataset(samples) for name, samples in queries.items()}
    run = run_evaluation(memory, datasets, out, **options, progress=False)
    return summarise(run, out), run


def page_of(
    summary: Summary, run: Run, memory: VisualMemory, queries: Mapping[str, Sequence[Sample]], out: Path
) -> str:
    """Write a run's pages into its folder, and return its report."""
    write_pages(
        run, summary, out, memory=memory, datasets={name: Dataset(samples) for name, samples in queries.items()}
    )
    return (out / REPORT).read_text()
