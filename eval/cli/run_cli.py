"""vmem eval and vmem demo."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent.cli import options
from eval.cli.reading_cli import ChooseKOn, Pictures, finish_run
from eval.datasets.loading import named_folders
from eval.report import PICTURED
from retrieval.support.options import EmbedderOptions, flat

if TYPE_CHECKING:
    from eval.datasets.catalogue import Official
    from eval.datasets.checking import Check


app = typer.Typer(no_args_is_help=True, help="Measure how well a memory classifies data sets, and compare runs.")
datasets_app = typer.Typer()
app.add_typer(datasets_app)
demo_app = typer.Typer()


@app.command()
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
    from agent.batch import BatchJobs
    from eval.datasets.loading import load_dataset
    from eval.metrics.votes import check_choice
    from eval.report.printing import print_estimate
    from eval.runs.runner import check_run, estimate_run, run_evaluation
    from retrieval.errors import InvalidArgument
    from retrieval.sources import expect_outside
    from retrieval.voting import DEFAULT_METHOD

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


@demo_app.command()
def demo(
    images: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Your own pictures, laid out as FOLDER/<label>/<image>. Left out: digits."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The demo's own folder; everything it makes lies there.")] = Path("demo"),
    embedder: Annotated[
        str, typer.Option(help="A name that `vmem doctor` lists; this one needs no download.")
    ] = "efficientnet-lite0",
    queries: Annotated[int, typer.Option(min=1, help="How many pictures to hold out as queries.")] = 240,
    limit: Annotated[int, typer.Option(min=2, help="How many of your pictures to use at most.")] = 3000,
) -> None:
    """Run the main job on real pictures, offline: remember most, classify the rest and five shifted variants of them.

    Without --images it takes scikit-learn's 1,797 scanned digits.

    Prints a table of top-1 accuracy by voting method, and writes a page with the pictures that decided.

    Example: vmem demo --images photos/ --out my-demo
    """
    from eval.demo import run_demo
    from eval.report.printing import print_metrics
    from retrieval.support.terminal import printable

    made = run_demo(out, images=images, embedder=embedder, queries=queries, limit=limit, say=typer.echo)
    print_metrics(made.metrics)
    if made.left_out:
        typer.echo(f"{made.left_out:,} pictures were left out (--limit {limit})")
    typer.echo(f"Look at {printable(made.report)} in a browser. Then try:")
    typer.echo(f"  vmem classify --memory {printable(made.memory)} PICTURE")


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@datasets_app.command()
def datasets(as_json: AsJson = False) -> None:
    """List the published data sets that are read by name: what they hold, and where to get them.

    Any other name stands for your own pictures: a folder or an archive (tar, tar.gz, zip) laid out as <label>/<image>,
    or a table: Parquet, a folder that Hugging Face's save_to_disk wrote, CSV, TSV or JSONL.

    Columns of a table: path (of the picture, from the table's own folder on), or image (the picture itself, in Parquet
    and Arrow); label, or labels where any of several is right (in CSV and TSV a JSON list); id, if the rows have names.
    """
    import json

    from eval.datasets.catalogue import official_datasets
    from retrieval.support.terminal import print_table

    known = official_datasets().values()
    if as_json:
        typer.echo(json.dumps([_as_json(official) for official in known], indent=2))
        return
    rows = [
        [one.name, f"{one.images:,}", f"{one.classes:,}", "200 classes" if one.masked else "", one.source]
        for one in known
    ]
    print_table(["name", "images", "classes", "also scored over", "where from"], rows)


def _as_json(official: "Official") -> dict[str, Any]:
    import dataclasses

    return {
        "name": official.name,
        "title": official.title,
        "images": official.images,
        "classes": official.classes,
        "per_class": official.per_class,
        "also_scored_over": len(official.subset) if official.subset else None,
        "source": official.source,
        "archives": [dataclasses.asdict(archive) for archive in official.archives],
        "mistakes": [mistake.says for mistake in official.mistakes],
    }


@datasets_app.command()
def check(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A name that `vmem eval datasets` lists, or any other for your own.")
    ],
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The folder, archive or table.")],
    sample: Annotated[
        int, typer.Option(min=0, help="How many pictures to open, spread over the set; 0 opens all.")
    ] = 200,
    as_json: AsJson = False,
) -> None:
    """Compare a copy of a data set with the published one: counts, classes, names, archive, pictures that open.

    Exits with 1 where something is wrong.

    Examples, of a folder, of an archive as it was downloaded, and of pictures of your own:

    vmem eval check imagenet-v2-matched-frequency imagenetv2-matched-frequency-format-val/

    vmem eval check imagenet-a imagenet-a.tar

    vmem eval check mine pictures.zip --sample 0
    """
    import dataclasses
    import json

    from eval.datasets.checking import check_dataset

    found = check_dataset(name, path, sample=sample)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(found), indent=2))
    else:
        _print_check(found)
    if found.problems:
        raise typer.Exit(1)


def _print_check(found: "Check") -> None:
    from retrieval.support.terminal import print_table, printable

    def expected(number: int | None) -> str:
        return "" if number is None else f"{number:,}"

    rows = [
        ["images", f"{found.images:,}", expected(found.expected_images)],
        ["classes", f"{found.classes:,}", expected(found.expected_classes)],
        ["images opened", f"{found.opened.count:,}", ""],
    ]
    if found.excluded:
        rows.append(["images left out, with no right label", f"{found.excluded:,}", ""])
    print_table([found.name, "found", "expected"], rows)
    typer.echo(f"digest of ids and labels: {found.digest}")
    for problem in found.problems:
        typer.echo(f"PROBLEM  {printable(problem, longest=1000)}")
    for note in found.notes:
        typer.echo(f"note     {printable(note, longest=1000)}")
    if not found.problems:
        typer.echo("OK" if found.expected_images is not None else "Readable; there is nothing to compare it with")
