"""Evaluation: data sets in, runs, figures, tables, comparisons and reports out.

    from eval import load_dataset, run_evaluation, summarise, write_pages

    datasets = {"indoors": load_dataset("indoors", "test/indoors")}
    run = run_evaluation(memory, datasets, "runs/1", k=50)
    print(summarise(run, "runs/1").metrics["indoors"].top1)

Every public name of this room can be imported from here; it is loaded when it is first used.
"""

from typing import TYPE_CHECKING

from retrieval.support.lazy import lazy_names

if TYPE_CHECKING:
    from eval.comparing import Comparison as Comparison
    from eval.comparing import compare_runs as compare_runs
    from eval.comparing import compare_with_vote as compare_with_vote
    from eval.datasets.loading import load_dataset as load_dataset
    from eval.demo import run_demo as run_demo
    from eval.metrics.intervals import mcnemar_power as mcnemar_power
    from eval.metrics.intervals import needed_queries as needed_queries
    from eval.metrics.rerank import fit_fusion as fit_fusion
    from eval.metrics.votes import measure as measure
    from eval.neighbors import read_neighbors as read_neighbors
    from eval.neighbors import write_neighbors as write_neighbors
    from eval.report.comparison_page import write_comparison as write_comparison
    from eval.report.page import write_pages as write_pages
    from eval.report.tables import make_table as make_table
    from eval.runs.finished import summarise as summarise
    from eval.runs.log import predictions_with as predictions_with
    from eval.runs.log import read_run as read_run
    from eval.runs.runner import estimate_run as estimate_run
    from eval.runs.runner import run_evaluation as run_evaluation
    from eval.trial import Trial as Trial
    from eval.trial import hard_queries as hard_queries
    from eval.trial import show_flips as show_flips
    from eval.trial import show_prompts as show_prompts
    from eval.trial import try_prompts as try_prompts
    from eval.tuning.race import run_race as run_race
    from eval.tuning.verdict import judge as judge
    from eval.types import Dataset as Dataset
    from eval.types import Metrics as Metrics
    from eval.types import NeighborFileError as NeighborFileError
    from eval.types import Neighborhoods as Neighborhoods
    from eval.types import OtherSettings as OtherSettings
    from eval.types import QueryResults as QueryResults
    from eval.types import Run as Run
    from eval.types import RunError as RunError
    from eval.types import Sample as Sample
    from eval.types import ServeError as ServeError
    from eval.types import Summary as Summary
    from eval.workbench import Workbench as Workbench
    from eval.workbench import model_or_stand_in as model_or_stand_in
    from eval.workbench import open_workbench as open_workbench

    __version__: str
else:
    _HOMES = {
        "eval.comparing": "Comparison compare_runs compare_with_vote",
        "eval.datasets.loading": "load_dataset",
        "eval.demo": "run_demo",
        "eval.metrics.intervals": "mcnemar_power needed_queries",
        "eval.metrics.rerank": "fit_fusion",
        "eval.metrics.votes": "measure",
        "eval.neighbors": "read_neighbors write_neighbors",
        "eval.runs.log": "predictions_with read_run",
        "eval.report.page": "write_pages",
        "eval.runs.finished": "summarise",
        "eval.runs.runner": "estimate_run run_evaluation",
        "eval.report.comparison_page": "write_comparison",
        "eval.report.tables": "make_table",
        "eval.trial": "Trial hard_queries show_flips show_prompts try_prompts",
        "eval.tuning.race": "run_race",
        "eval.tuning.verdict": "judge",
        "eval.types": "Dataset Metrics Neighborhoods NeighborFileError OtherSettings QueryResults Run RunError Sample"
        " ServeError Summary",
        "eval.workbench": "Workbench model_or_stand_in open_workbench",
    }
    __getattr__, __dir__, __all__ = lazy_names(
        __name__, {name: module for module, names in _HOMES.items() for name in names.split()}
    )
