"""vmem demo, and vmem eval datasets and check: the published data sets, and pictures at hand."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from eval.datasets.catalogue import Official, official_datasets
from eval.datasets.checking import Check, check_dataset
from eval.demo import run_demo
from eval.report.printing import print_metrics
from retrieval.support.terminal import print_table, printable


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
    made = run_demo(out, images=images, embedder=embedder, queries=queries, limit=limit, say=typer.echo)
    print_metrics(made.metrics)
    if made.left_out:
        typer.echo(f"{made.left_out:,} pictures were left out (--limit {limit})")
    typer.echo(f"Look at {printable(made.report)} in a browser. Then try:")
    typer.echo(f"  vmem classify --memory {printable(made.memory)} PICTURE")


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def datasets(as_json: AsJson = False) -> None:
    """List the published data sets that are read by name: what they hold, and where to get them.

    Any other name stands for your own pictures: a folder or an archive (tar, tar.gz, zip) laid out as <label>/<image>,
    or a table: Parquet, a folder that Hugging Face's save_to_disk wrote, CSV, TSV or JSONL.

    Columns of a table: path (of the picture, from the table's own folder on), or image (the picture itself, in Parquet
    and Arrow); label, or labels where any of several is right (in CSV and TSV a JSON list); id, if the rows have names.
    """
    known = official_datasets().values()
    if as_json:
        typer.echo(json.dumps([_as_json(official) for official in known], indent=2))
        return
    rows = [
        [one.name, f"{one.images:,}", f"{one.classes:,}", "200 classes" if one.masked else "", one.source]
        for one in known
    ]
    print_table(["name", "images", "classes", "also scored over", "where from"], rows)


def _as_json(official: Official) -> dict[str, Any]:

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
    found = check_dataset(name, path, sample=sample)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(found), indent=2))
    else:
        _print_check(found)
    if found.problems:
        raise typer.Exit(1)


def _print_check(found: Check) -> None:

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
