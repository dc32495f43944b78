"""vmem eval report, compare, power, table and fusion: what runs tell that were made."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from eval.comparing import Comparison, compare_runs, compare_with_vote
from eval.datasets.loading import named_folders
from eval.metrics.rerank import fit_fusion
from eval.report import PICTURED
from eval.report.comparison_page import write_comparison
from eval.report.printing import comparison_as_json, print_comparison, print_power, print_summary
from eval.report.tables import format_table, make_table
from eval.runs.finished import find_dataset, find_memory, open_dataset, open_memory
from eval.runs.log import read_run
from eval.runs.summary import REPORT, summarise, write_pages
from eval.types import Dataset, Run, RunInfo
from eval.wording import counted
from retrieval.errors import InvalidArgument
from retrieval.memory import VisualMemory
from retrieval.support.terminal import print_table, printable, write_text

ChooseKOn = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Also score at the number of neighbours that is best on this data set of the run, held out for that;"
        " 'test' takes each data set's own best, which is optimistic and marked so.",
    ),
]
Pictures = Annotated[int, typer.Option(min=0, help="How many queries appear with pictures in the report.")]
_Runs = Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders, as `vmem eval run` wrote them.")]


def report(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A folder that `vmem eval run` wrote.")],
    memory: Annotated[
        Path | None, typer.Option(help="Where the memory lies now. Left out: where it lay; without it, no pictures.")
    ] = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="Where a data set lies now, if it was moved. Repeatable."),
    ] = None,
    choose_k_on: ChooseKOn = None,
    pictures: Pictures = PICTURED,
) -> None:
    """Make a run's figures, plots and report again from its log, finished or not. Nothing is embedded or asked.

    Example: vmem eval report runs/1 --choose-k-on held-out
    """
    moved = named_folders(dataset or ())
    found = read_run(run_folder)
    finish_run(
        found,
        run_folder,
        memory=open_memory(found.info, memory) if memory else _find_memory(found.info),
        datasets=_find_datasets(found, moved),
        choose_k_on=choose_k_on,
        pictures=pictures,
    )


def _find_memory(info: RunInfo) -> VisualMemory | None:

    memory = find_memory(info)
    if memory is None:
        place = printable(info.about["memory"])
        typer.echo(f"Note: neighbours' pictures are missing: the memory is not in {place}; give --memory", err=True)
    return memory


def _find_datasets(run: Run, moved: Mapping[str, Path]) -> dict[str, Dataset]:
    """Return a run's data sets from where they lie, those that can be found."""
    places = run.info.about["datasets"]
    if strange := [name for name in moved if name not in places]:
        raise InvalidArgument(f"--dataset {strange[0]}: no data set of the run; it has {', '.join(places)}")
    found = {name: open_dataset(name, path, run.results.get(name)) for name, path in moved.items()}
    for name, place in places.items():
        if name in found:
            continue
        if dataset := find_dataset(name, [run.info]):
            found[name] = dataset
        else:
            why = f"{printable(place)} does not hold them" if place else "the run does not say where they lie"
            known = printable(name)
            typer.echo(f"Note: queries of {known} have no pictures: {why}; give --dataset {known}=PATH", err=True)
    return found


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


def finish_run(
    run: Run,
    folder: Path,
    *,
    memory: VisualMemory | None,
    datasets: Mapping[str, Dataset],
    choose_k_on: str | None,
    pictures: int,
) -> None:
    """Write a run's figures, plots and report, and print what matters."""
    summary = summarise(run, folder, choose_k_on=choose_k_on)
    print_summary(run, summary)
    write_pages(run, summary, folder, memory=memory, datasets=datasets, pictured=pictures)
    typer.echo(f"Look at {printable(folder / REPORT)}; figures in {printable(folder / 'metrics.json')}")
