"""vmem eval run, and vmem eval report, which makes the same figures and pages of a log."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from agent.batch import BatchJobs
from agent.cli import options
from eval.datasets.loading import load_dataset, named_folders
from eval.metrics.votes import check_choice
from eval.report import PICTURED
from eval.report.page import REPORT, write_pages
from eval.report.printing import print_estimate, print_summary
from eval.runs.finished import find_dataset, find_memory, open_dataset, open_memory, summarise
from eval.runs.log import read_run
from eval.runs.runner import check_run, estimate_run, run_evaluation
from eval.types import Dataset, Run, RunInfo
from retrieval.errors import InvalidArgument
from retrieval.memory import VisualMemory
from retrieval.sources import expect_outside
from retrieval.support.options import EmbedderOptions, flat
from retrieval.support.terminal import printable
from retrieval.voting import DEFAULT_METHOD

ChooseKOn = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Also score at the number of neighbours that is best on this data set of the run, held out for that;"
        " 'test' takes each data set's own best, which is optimistic and marked so.",
    ),
]
Pictures = Annotated[int, typer.Option(min=0, help="How many queries appear with pictures in the report.")]


@flat()
def run(
    memory: Annotated[Path, typer.Option(help="The memory to measure.")],
    dataset: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=PATH",
            help="Queries under a name. A name that `vmem eval datasets` lists is read in that set's layout, from a"
            " folder or its archive; any other from <label>/<image>, a manifest, Parquet or an archive. Repeatable.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="RUN", help="The run folder: log, metrics, plots, report.")],
    second: options.SecondStage,
    embedder: EmbedderOptions,
    k: Annotated[
        int | None, options.neighbors_option("How many neighbours vote; smaller numbers are scored too.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Say how many calls, tokens and dollars the run would take, and ask nothing.",
            rich_help_panel="Second stage",
        ),
    ] = False,
    batch: Annotated[
        bool,
        typer.Option(
            "--batch",
            help="Ask by Gemini's batch jobs: half the price, answers within a day. The same command goes on.",
            rich_help_panel="Second stage",
        ),
    ] = False,
    centre: Annotated[
        str | None,
        typer.Option(
            metavar="queries|running",
            help="Subtract from queries the mean of their data set, and from the memory its own: transductive,"
            " for queries of another domain. 'running' takes the mean of those that came before.",
        ),
    ] = None,
    choose_k_on: ChooseKOn = None,
    retry_errors: Annotated[
        bool,
        typer.Option(
            "--retry-errors", help="Try failures again that are in the log for good: refusals, unusable pictures."
        ),
    ] = False,
    pictures: Pictures = PICTURED,
) -> None:
    """Classify labelled pictures and score every voting method, and a model's second look.

    Files that are no usable pictures are left out and counted apart.

    A run that was cut off goes on where it stopped when the same command is run again, and pays for no reply twice.

    Example: vmem eval run --memory pets/ --dataset indoors=test/indoors --dataset outdoors=test/outdoors --out runs/1
    """
    folders = named_folders(dataset)
    for folder in folders.values():
        expect_outside(out, folder)
    loaded = second.load(cache=embedder.cache, expect_key=not dry_run)
    if loaded is None and (batch or dry_run):
        raise InvalidArgument("--batch and --dry-run are about a model: add --model NAME")
    datasets = {name: load_dataset(name, folder) for name, folder in folders.items()}
    opened = embedder.open(memory)
    stages = second.stages(opened, loaded, k=k)
    settings = stages.settings
    if settings.voting != DEFAULT_METHOD:
        preset = second.said["preset"]
        raise InvalidArgument(
            f"--preset {preset} votes by {settings.voting}: a run measures the second look after rank"
        )
    check_run(datasets, k=settings.k, centre=centre)
    check_choice(choose_k_on, datasets)
    if dry_run and loaded:
        print_estimate(estimate_run(stages, datasets, loaded, batch=batch, centre=centre))
        return
    try:
        done = run_evaluation(
            opened,
            datasets,
            out,
            k=settings.k,
            stages=stages if loaded else None,
            concurrency=second.said["concurrency"],
            price=loaded.meter.price if loaded else None,
            batch=BatchJobs(out, loaded) if batch and loaded else None,
            centre=centre,
            retry_errors=retry_errors,
            paths={name: str(folder.resolve()) for name, folder in folders.items()},
        )
    finally:
        if loaded and loaded.meter.prompt_tokens:
            typer.echo(str(loaded.meter), err=True)
    finish_run(done, out, memory=opened, datasets=datasets, choose_k_on=choose_k_on, pictures=pictures)


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
