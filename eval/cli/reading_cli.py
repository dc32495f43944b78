"""vmem eval compare, power, table and fusion: what runs tell that were made."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from eval.comparing import Comparison, compare_runs, compare_with_vote
from eval.metrics.rerank import fit_fusion
from eval.report.comparison_page import write_comparison
from eval.report.printing import comparison_as_json, print_comparison, print_power
from eval.report.tables import format_table, make_table
from eval.runs.log import read_run
from eval.types import Run
from retrieval.errors import InvalidArgument
from retrieval.support.terminal import counted, print_table, printable, write_text

_Runs = Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders, as `vmem eval run` wrote them.")]


def fusion(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run that asked a model, without --fusion.")],
) -> None:
    """Fit the weight by which vote and model are best combined, for --fusion. Fit it on queries that you do not score.

    Example: vmem eval fusion runs/held-out
    """
    fitted = fit_fusion(read_run(run_folder).results)
    rows = [
        ("vote", f"{fitted.vote_top1:.1f}"),
        ("model", f"{fitted.model_top1:.1f}"),
        ("combined, cross-fitted", f"{fitted.fused_top1:.1f}"),
    ]
    print_table([f"{counted(fitted.queries, 'query')} that the model answered", "top-1"], rows)
    typer.echo(f"--fusion {fitted.weight:.2f}")


def compare(
    runs: _Runs,
    out: Annotated[
        Path | None, typer.Option(metavar="PAGE.html", help="Write a page with the pictures that got another answer.")
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write every figure, class and changed answer as JSON."),
    ] = None,
) -> None:
    """Compare runs with the first one on the queries that both answered; one run alone with its own vote.

    Differences come with a paired bootstrap interval and the exact McNemar test.

    Example: vmem eval compare runs/vote runs/gemini --out comparison.html
    """
    read = _read_runs(runs)
    comparison = _compare(read)
    print_comparison(comparison)
    if json_file:
        write_text(json_file, comparison_as_json(comparison))
    if out:
        write_comparison(out, comparison, read)
        typer.echo(f"Look at {printable(out)}")


def power(
    difference: Annotated[float, typer.Option(help="The difference, in points of accuracy: 0.01 to 100.")] = 1.0,
    discordant: Annotated[
        float | None,
        typer.Option(help="Queries that one of the two gets right and the other wrong, in percent. Left out: 10."),
    ] = None,
    runs: Annotated[
        tuple[Path, Path] | None, typer.Option(metavar="RUN RUN", help="Take --discordant from two runs instead.")
    ] = None,
    power: Annotated[
        float, typer.Option("--power", help="How often a test is to tell it, in percent: 50 to 99.9.")
    ] = 80.0,
    alpha: Annotated[float, typer.Option(help="The largest p at which a difference counts: 1e-6 to 0.5.")] = 0.05,
) -> None:
    """Say how many queries it takes to tell a difference between two runs, by the exact McNemar test.

    Example: vmem eval power --difference 0.5 --runs runs/vote runs/gemini
    """
    if runs and discordant is not None:
        raise InvalidArgument("--discordant and --runs both say how often answers differ: give one of them")
    if runs:
        figures = _compare(_read_runs(runs)).others[0].overall
        discordant = figures.discordant
        if not discordant:
            raise InvalidArgument("the runs are right on the same queries, which tells no share: give --discordant")
        typer.echo(f"The runs differ in being right on {discordant:.2f} % of {counted(figures.count, 'query')}")
    print_power(difference, discordant=10.0 if discordant is None else discordant, power=power, alpha=alpha)


def table(
    runs: _Runs,
    number: Annotated[int, typer.Option("--table", help="1: adding classes; 2: shifted data sets; 3: pruning.")] = 2,
    form: Annotated[str, typer.Option("--format", help="md, csv or latex.")] = "md",
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it there instead of printing it.")] = None,
) -> None:
    """Make a table of the paper with the published numbers beside those of runs.

    Table 1 takes two runs, before and after classes were added to the memory. Table 2 takes any number. Table 3 takes
    up to three: without pruning, with hard and with soft pruning.

    Example: vmem eval table runs/sketch runs/imagenet-a --table 2 --format latex --out table2.tex
    """
    text = format_table(make_table(number, runs), form)
    if out is None:
        typer.echo(text, nl=False)
        return
    write_text(out, text)
    typer.echo(f"Look at {printable(out)}")


def _read_runs(folders: Sequence[Path]) -> list[tuple[Path, Run]]:

    if len({folder.resolve() for folder in folders}) < len(folders):
        raise InvalidArgument("a run is given twice: give different ones, or one alone to compare it with its vote")
    return [(folder, read_run(folder)) for folder in folders]


def _compare(runs: list[tuple[Path, Run]]) -> Comparison:

    names = [folder.resolve().name for folder, _ in runs]
    if len(set(names)) < len(names):
        names = [str(folder) for folder, _ in runs]
    named = [(name, run) for name, (_, run) in zip(names, runs, strict=True)]
    return compare_runs(named) if len(named) > 1 else compare_with_vote(*named[0])
