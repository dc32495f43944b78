"""vmem eval datasets and vmem eval check."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from eval.datasets.catalogue import Official
    from eval.datasets.checking import Check

app = typer.Typer()

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def datasets(as_json: AsJson = False) -> None:
    """List the published data sets that are read by name: what they hold, and where to get them.

    Any other name stands for your own pictures: a folder or an archive (tar, tar.gz, zip) laid out as <label>/<image>,
    or a table: Parquet, a folder that Hugging Face's save_to_disk wrote, CSV, TSV or JSONL.

    Columns of a table: path (of the picture, from the table's own folder on), or image (the picture itself, in Parquet
    and Arrow); label, or labels where any of several is right (in CSV and TSV a JSON list); id, if the rows have names.
    """
    import json

    from eval.datasets.catalogue import official_datasets
    from retrieval.terminal import print_table

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


@app.command()
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
    from retrieval.terminal import print_table, printable

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
