"""vmem eval and vmem demo."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import eval.datasets_cli
import eval.reading_cli
from agent import options
from retrieval.options import Backend, Cache, Device, EmbedderOverride, Precision

if TYPE_CHECKING:
    from eval.types import Dataset, Run
    from retrieval.memory import VisualMemory

app = typer.Typer(no_args_is_help=True, help="Measure how well a memory classifies data sets, and compare runs.")
app.add_typer(eval.datasets_cli.app)
app.add_typer(eval.reading_cli.app)
demo_app = typer.Typer()

ChooseKOn = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Also score at the number of neighbours that is best on this data set of the run, held out for that;"
        " 'test' takes each data set's own best, which is optimistic and marked so.",
    ),
]
Pictures = Annotated[int, typer.Option(min=0, help="How many queries appear with pictures in the report.")]


@app.command()
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
    k: Annotated[int, typer.Option("--k", help="How many neighbours vote; smaller numbers are scored too.")] = 50,
    model: options.Model = None,
    prompt: options.PromptName = "rerank_v1",
    when: options.When = "always",
    fusion: options.Fusion = None,
    shuffles: options.Shuffles = 0,
    seed: options.Seed = 0,
    temperature: options.Temperature = 0.0,
    thinking: options.Thinking = None,
    resolution: options.Resolution = None,
    max_reply_tokens: options.MaxReplyTokens = 1024,
    concurrency: options.Concurrency = 16,
    rpm: options.Rpm = None,
    tpm: options.Tpm = None,
    timeout: options.Timeout = 60.0,
    max_cost: options.MaxCost = None,
    prices: options.Prices = None,
    key_file: options.KeyFile = None,
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
            help="Take the mean of each data set's queries off them, and the memory's off the memory: transductive,"
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
    pictures: Pictures = 200,
    embedder: EmbedderOverride = None,
    device: Device = "auto",
    backend: Backend = "auto",
    precision: Precision = "auto",
    cache: Cache = True,
) -> None:
    """Classify labelled pictures and score every voting method, and a model's second look.

    Files that are no usable pictures are left out and counted apart.

    A run that was cut off goes on where it stopped when the same command is run again, and pays for no reply twice.

    Example: vmem eval run --memory pets/ --dataset indoors=test/indoors --dataset outdoors=test/outdoors --out runs/1
    """
    from agent.batches import BatchJobs
    from eval.datasets.loading import load_dataset
    from eval.estimate import estimate_run
    from eval.printing import print_estimate
    from eval.runner import run_evaluation
    from retrieval.errors import InvalidArgument
    from retrieval.folder import expect_outside
    from retrieval.memory import VisualMemory

    second = options.SecondStage(
        model=model,
        prompt=prompt,
        when=when,
        fusion=fusion,
        shuffles=shuffles,
        seed=seed,
        temperature=temperature,
        thinking=thinking,
        resolution=resolution,
        max_reply_tokens=max_reply_tokens,
        concurrency=concurrency,
        rpm=rpm,
        tpm=tpm,
        timeout=timeout,
        max_cost=max_cost,
        prices=prices,
        key_file=key_file,
        cache=cache,
    )
    folders = _named_folders(dataset)
    for folder in folders.values():
        expect_outside(out, folder)
    loaded = second.load(expect_key=not dry_run)
    if loaded is None and (batch or dry_run):
        raise InvalidArgument("--batch and --dry-run are about a model: add --model NAME")
    datasets = {name: load_dataset(name, folder) for name, folder in folders.items()}
    opened = VisualMemory.open(
        memory, embedder=embedder, device=device, backend=backend, precision=precision, cache=cache
    )
    stages = second.stages(opened, loaded, k=k, voting="rank")
    if dry_run and loaded:
        print_estimate(estimate_run(stages, datasets, loaded, batch=batch))
        return
    try:
        done = run_evaluation(
            opened,
            datasets,
            out,
            k=k,
            stages=stages if loaded else None,
            concurrency=concurrency,
            price=loaded.meter.price if loaded else None,
            batch=BatchJobs(out, loaded) if batch and loaded else None,
            centre=centre or "",
            retry_errors=retry_errors,
            paths={name: str(folder.resolve()) for name, folder in folders.items()},
        )
    finally:
        if loaded and loaded.meter.prompt_tokens:
            typer.echo(str(loaded.meter), err=True)
    _finish(done, out, memory=opened, datasets=datasets, choose_k_on=choose_k_on, pictures=pictures)


@app.command()
def report(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A folder that `vmem eval run` wrote.")],
    memory: Annotated[
        Path | None, typer.Option(help="Where the memory lies now. Left out: where it lay; without it, no pictures.")
    ] = None,
    choose_k_on: ChooseKOn = None,
    pictures: Pictures = 200,
) -> None:
    """Make a run's figures, plots and report again from its log, finished or not. Nothing is embedded or asked.

    Example: vmem eval report runs/1 --choose-k-on held-out
    """
    from eval.datasets.loading import load_dataset
    from eval.runlog import read_run
    from retrieval.errors import VisualMemoryError
    from retrieval.memory import VisualMemory
    from retrieval.terminal import printable

    found = read_run(run_folder)
    opened = None
    datasets: dict[str, Dataset] = {}
    try:
        opened = VisualMemory.open(memory or Path(found.info.about["memory"]))
        datasets = {name: load_dataset(name, path) for name, path in found.info.about["datasets"].items() if path}
    except VisualMemoryError as error:
        if memory:
            raise
        typer.echo(f"Note: pictures are missing in the report: {printable(error)}", err=True)
    _finish(found, run_folder, memory=opened, datasets=datasets, choose_k_on=choose_k_on, pictures=pictures)


@app.command()
def fusion(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run that asked a model, without --fusion.")],
) -> None:
    """Fit the weight by which vote and model are best combined, for --fusion. Fit it on queries that you do not score.

    Example: vmem eval fusion runs/held-out
    """
    from eval.fusion import fit_fusion
    from eval.runlog import read_run
    from retrieval.terminal import print_table

    fitted = fit_fusion(read_run(run_folder).results)
    rows = [
        ("vote", f"{fitted.vote_top1:.1f}"),
        ("model", f"{fitted.model_top1:.1f}"),
        ("combined, cross-fitted", f"{fitted.fused_top1:.1f}"),
    ]
    print_table([f"{fitted.queries:,} queries that the model answered", "top-1"], rows)
    typer.echo(f"--fusion {fitted.weight:.2f}")


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
    from eval.printing import print_metrics
    from retrieval.terminal import printable

    made = run_demo(out, images=images, embedder=embedder, queries=queries, limit=limit, say=typer.echo)
    print_metrics(made.metrics)
    if made.left_out:
        typer.echo(f"{made.left_out:,} pictures were left out (--limit {limit})")
    typer.echo(f"Look at {printable(made.report)} in a browser. Then try:")
    typer.echo(f"  vmem classify --memory {printable(made.memory)} PICTURE")


def _finish(
    run: "Run",
    folder: Path,
    *,
    memory: "VisualMemory | None",
    datasets: "Mapping[str, Dataset]",
    choose_k_on: str | None,
    pictures: int,
) -> None:
    from eval.printing import print_summary
    from eval.summary import REPORT, summarise, write_pages
    from retrieval.terminal import printable

    summary = summarise(run, folder, choose_k_on=choose_k_on)
    print_summary(run, summary)
    write_pages(run, summary, folder, memory=memory, datasets=datasets, pictured=pictures)
    typer.echo(f"Look at {printable(folder / REPORT)}; figures in {printable(folder / 'metrics.json')}")


def _named_folders(arguments: list[str]) -> Mapping[str, Path]:
    from retrieval.errors import InvalidArgument

    folders: dict[str, Path] = {}
    for argument in arguments:
        parts = re.fullmatch(r"([\w.-]+)=(.+)", argument, re.DOTALL)
        if parts is None:
            raise InvalidArgument(f"--dataset {argument!r}: NAME=PATH expected, such as sketch=data/sketch")
        if parts[1] in folders:
            raise InvalidArgument(f"--dataset {parts[1]} is given twice: choose two names")
        folders[parts[1]] = Path(parts[2])
    return folders
