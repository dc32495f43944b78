"""vmem eval analyse and vmem eval neighbors."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from eval.datasets.loading import load_dataset, named_folders
from eval.experiments import CATALOGUE, find_entry
from eval.experiments.base import Entry, write_analysis
from eval.experiments.embedded import embed
from eval.experiments.granularity import read_taxonomy
from eval.experiments.inputs import Inputs, from_file, from_memory, from_run
from eval.neighbors import Origin, read_neighbors, write_neighbors
from eval.report.plots import slugs
from eval.runs.log import ABOUT, LOG, read_header
from eval.types import Neighborhoods
from retrieval.errors import InvalidArgument
from retrieval.memory import VisualMemory
from retrieval.support.terminal import print_table, printable

_ALL = "all"


def analyse(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A name that --list prints, or all.", show_default=False)
    ] = None,
    run: Annotated[Path | None, typer.Option(metavar="RUN", help="Take the neighbours that a run found.")] = None,
    neighbors: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Take a file of neighbours: the reference release's JSON, or Parquet."),
    ] = None,
    memory: Annotated[
        list[Path] | None,
        typer.Option(help="Search a memory, once for all analyses. Others are further embedders', for memory_size."),
    ] = None,
    dataset: Annotated[
        list[str] | None, typer.Option(metavar="NAME=PATH", help="Its queries, as for `vmem eval run`. Repeatable.")
    ] = None,
    unknown: Annotated[
        str | None,
        typer.Option(
            help="Queries of classes that the memory lacks: NAME=PATH with --memory, FILE with --neighbors, a data"
            " set's name with --run."
        ),
    ] = None,
    taxonomy: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV", help="Levels of each label, for granularity; left out: those in iNaturalist's folder names."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Tables and plots, a folder a data set.")] = Path(
        "analyses"
    ),
    k: Annotated[int, typer.Option("--k", min=1, help="Neighbours at most.")] = 100,
    listed: Annotated[bool, typer.Option("--list", help="Print the analyses and what each needs.")] = False,
) -> None:
    """Reproduce an analysis of the paper: a table (Markdown, CSV), a plot (PNG, SVG) and what it shows.

    Examples, from a run, from a file, and from a memory:

    vmem eval analyse all --run runs/1 --out analyses/

    vmem eval analyse aggregation --neighbors imagenet_neighbor_info.json

    vmem eval analyse all --memory pets/ --dataset indoors=test/indoors --unknown sketches=test/sketches
    """
    if listed:
        _print_list()
        return
    if name is None:
        raise InvalidArgument("which analysis? Give a name that `vmem eval analyse --list` prints, or all")
    entries = _entries(name)
    given = _given(run, neighbors, memory or [], dataset or [], unknown, taxonomy, k=k)
    _write_all(entries, given, out, skip=name == _ALL)


def convert(
    source: Annotated[
        Path, typer.Argument(help="A run folder, or a file of neighbours: the reference release's JSON, or Parquet.")
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE|FOLDER", help="A file ending in .json or .parquet; any other is a folder for JSON files."
        ),
    ],
    dataset: Annotated[str | None, typer.Option(help="Which of a run's data sets; left out: each one.")] = None,
    memory_split: Annotated[str, typer.Option(help="For the file's name, as the reference release has it.")] = "train",
    query_split: Annotated[str, typer.Option(help="For the file's name.")] = "validation",
    memory_name: Annotated[
        str | None, typer.Option(help="For the file's name; left out: what the run's memory is called.")
    ] = None,
    query_name: Annotated[str | None, typer.Option(help="For the file's name; left out: the data set's name.")] = None,
    model_name: Annotated[
        str | None, typer.Option(help="For the file's name, and in the file: dinov2_vitl14; left out: the embedder's.")
    ] = None,
) -> None:
    """Convert neighbours: a run to the reference release's JSON or to Parquet, and either of these to the other.

    In JSON, classes are whole numbers: a label that is one stays, a wnid becomes ImageNet's index, and other labels are
    numbered from 1, as a file beside it tells. The release's notebook takes class 0 for none.

    Example: vmem eval neighbors runs/1 --out neighbours/ --memory-name imagenet --model-name dinov2_vitl14
    """
    memory, sources = _neighborhoods(source, dataset)
    single = out.suffix in (".json", ".parquet")
    if single and len(sources) > 1:
        raise InvalidArgument(
            f"{out} is one file, and the run has {len(sources)} data sets: give --dataset or a folder"
        )
    if query_name is not None and len(sources) > 1:
        raise InvalidArgument(f"--query-name is one name, and the run has {len(sources)} data sets: give --dataset")
    for given in sources:
        found = replace(given, name=query_name or given.name, embedder=model_name or given.embedder)
        origin = Origin(
            memory=memory_name or memory,
            memory_split=memory_split,
            queries=found.name,
            query_split=query_split,
            model=found.embedder or "unknown",
        )
        path = out if single else out / origin.file_name
        numbers = write_neighbors(found, path)
        typer.echo(f"{len(found.results):,} queries in {printable(path)}")
        if numbers:
            typer.echo(f"Labels are no numbers and no ImageNet classes: {printable(numbers)} tells which is which")
        elif path.suffix == ".json" and "0" in found.results.neighbor_labels.names:
            typer.echo("Class 0 stays what it is: the reference release's notebook takes it for none")


def _neighborhoods(source: Path, dataset: str | None) -> tuple[str, Sequence[Neighborhoods]]:
    """Return the name of the memory and what the source holds."""
    if not source.is_dir():
        if dataset is not None:
            raise InvalidArgument("--dataset chooses one of a run's data sets: a file of neighbours has one")
        return "memory", [read_neighbors(source, keep_excluded=True)]
    found = [given.found for given in from_run(source, k=None)]
    if dataset is not None and dataset not in [one.name for one in found]:
        raise InvalidArgument(f"--dataset {dataset!r}: the run has {', '.join(one.name for one in found)}")
    memory = Path(str(read_header(source / LOG)[ABOUT]["memory"])).name
    return memory or "memory", [one for one in found if dataset in (None, one.name)]


def _entries(name: str) -> list[Entry]:

    return list(CATALOGUE.values()) if name == _ALL else [find_entry(name)]


def _given(
    run: Path | None,
    neighbors: Path | None,
    memories: Sequence[Path],
    datasets: Sequence[str],
    unknown: str | None,
    taxonomy: Path | None,
    *,
    k: int,
) -> Iterator[Inputs]:

    if (run is not None) + (neighbors is not None) + bool(memories) != 1:
        raise InvalidArgument("give one of --run RUN, --neighbors FILE, and --memory M with --dataset NAME=PATH")
    if bool(memories) != bool(datasets):
        raise InvalidArgument("--memory and --dataset go together: what is searched, and for what")
    if run is not None:
        yield from from_run(run, k=k, unknown=unknown)
    elif neighbors is not None:
        yield from_file(neighbors, k=k, unknown=None if unknown is None else Path(unknown))
    else:
        yield from _search(memories, datasets, unknown, taxonomy, k=k)


def _search(
    memories: Sequence[Path], datasets: Sequence[str], unknown: str | None, taxonomy: Path | None, *, k: int
) -> Iterator[Inputs]:

    loaded = {name: load_dataset(name, folder) for name, folder in named_folders(datasets).items()}
    strange = {name: load_dataset(name, folder) for name, folder in named_folders([unknown] if unknown else []).items()}
    levels = read_taxonomy(taxonomy) if taxonomy else None
    first, *further = map(VisualMemory.open, memories)
    other = next((embed(first, name, queries) for name, queries in strange.items()), None)
    for name, queries in loaded.items():
        yield from_memory(first, name, queries, k=k, unknown=other, further=further, taxonomy=levels)


def _write_all(entries: Sequence[Entry], given: Iterator[Inputs], out: Path, *, skip: bool) -> None:
    """Run analyses on each data set; with ``skip`` what one needs and is not there is said, and the others go on."""
    names: list[str] = []
    said: set[str] = set()

    def leave_out(entry: Entry, why: object) -> None:
        sentence = f"{entry.name} is left out: {printable(why, longest=500)}"
        if sentence not in said:  # what one data set lacks the others mostly lack as well
            typer.echo(sentence, err=True)
        said.add(sentence)

    for one in given:
        names.append(one.found.name)
        folder = out / slugs(names)[-1]
        for entry in entries:
            if skip and (why := one.missing(entry)):
                leave_out(entry, why)
                continue
            try:
                analysis = one.analyse(entry)
            except InvalidArgument as error:
                if not skip:
                    raise
                leave_out(entry, error)
                continue
            write_analysis(analysis, folder)
            typer.echo(f"{entry.name}: {printable(analysis.finding, longest=2000)}")
        typer.echo(f"Look at {printable(folder)}")


def _print_list() -> None:

    needs = {
        "neighbors": "--run, --neighbors or --memory",
        "two": "the same, and --unknown",
        "memory": "--memory and --dataset",
    }
    rows = [(entry.name, entry.title, entry.source, needs[entry.needs]) for entry in CATALOGUE.values()]
    print_table(["analysis", "what it shows", "paper", "needs"], rows)
