"""vmem eval compare, power and table: what finished runs tell."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from eval.compare import Comparison
    from eval.types import Run

app = typer.Typer(no_args_is_help=True)

_Runs = Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders, as `vmem eval run` wrote them.")]


@app.command()
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
    from eval.comparison_printing import comparison_as_json, print_comparison
    from retrieval.terminal import printable, write_text

    read = _read_runs(runs)
    comparison = _compare(read)
    print_comparison(comparison)
    if json_file:
        write_text(json_file, comparison_as_json(comparison))
    if out:
        from eval.comparison_page import write_comparison

        write_comparison(out, comparison, read)
        typer.echo(f"Look at {printable(out)}")


@app.command()
def power(
    difference: Annotated[float, typer.Option(help="To be told, in points of accuracy.")] = 1.0,
    discordant: Annotated[
        float | None,
        typer.Option(help="Queries that one of the two gets right and the other wrong, in percent. Left out: 10."),
    ] = None,
    runs: Annotated[
        tuple[Path, Path] | None, typer.Option(metavar="RUN RUN", help="Take --discordant from two runs instead.")
    ] = None,
    power: Annotated[float, typer.Option("--power", help="How often a test is to tell it, in percent.")] = 80.0,
    alpha: Annotated[float, typer.Option(help="The p below which a difference counts as told.")] = 0.05,
) -> None:
    """Say how many queries it takes to tell a difference between two runs, by the exact McNemar test.

    Example: vmem eval power --difference 0.5 --runs runs/vote runs/gemini
    """
    from eval.comparison_printing import print_power
    from retrieval.errors import InvalidArgument

    if runs and discordant is not None:
        raise InvalidArgument("--discordant and --runs both say how often answers differ: give one of them")
    if runs:
        figures = _compare(_read_runs(runs)).others[0].overall
        discordant = figures.discordant
        typer.echo(f"The runs differ in being right on {discordant:.2f} % of {figures.count:,} queries")
    print_power(difference, discordant=10.0 if discordant is None else discordant, power=power, alpha=alpha)


@app.command()
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
    from eval.tables import make_table
    from eval.tables_text import format_table
    from retrieval.terminal import printable, write_text

    text = format_table(make_table(number, runs), form)
    if out is None:
        typer.echo(text, nl=False)
        return
    write_text(out, text)
    typer.echo(f"Look at {printable(out)}")


def _read_runs(folders: Sequence[Path]) -> "list[tuple[Path, Run]]":
    from eval.runlog import read_run
    from retrieval.errors import InvalidArgument

    if len({folder.resolve() for folder in folders}) < len(folders):
        raise InvalidArgument("a run is given twice: give different ones, or one alone to compare it with its vote")
    return [(folder, read_run(folder)) for folder in folders]


def _compare(runs: "list[tuple[Path, Run]]") -> "Comparison":
    from eval.compare import compare_runs, compare_with_vote

    names = [folder.resolve().name for folder, _ in runs]
    if len(set(names)) < len(names):
        names = [str(folder) for folder, _ in runs]
    named = [(name, run) for name, (_, run) in zip(names, runs, strict=True)]
    return compare_runs(named) if len(named) > 1 else compare_with_vote(*named[0])
