"""vmem memory: build a memory, add to it, search it, look at it."""

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from retrieval.cli.curation_cli import duplicates, prune, why
from retrieval.cli.history_cli import check, checkout, compact, diff, history, relabel, tag, undo, untag
from retrieval.support.options import (
    AsJson,
    Backend,
    Cache,
    Device,
    EmbedderName,
    EmbedderOverride,
    FolderOrFile,
    MemoryPath,
    Precision,
    Ray,
    ShardOption,
)

if TYPE_CHECKING:
    from retrieval.cluster import Shard
    from retrieval.edits import AddReport
    from retrieval.embedders.base import MadeBy, Requested
    from retrieval.embedding import EmbeddedBatch
    from retrieval.images import ImageLike
    from retrieval.memory import VisualMemory
    from retrieval.sources import Item


app = typer.Typer(no_args_is_help=True, help="Build, edit, search and inspect a memory of labelled pictures.")


@app.command()
def build(
    memory: MemoryPath,
    folder: FolderOrFile,
    embedder: Annotated[
        str | None,
        typer.Option(
            help="A name that `vmem doctor` lists, or a folder with a model that transformers saved. Left out:"
            " dinov2-vits14; a file of features says its own."
        ),
    ] = None,
    index: Annotated[
        str | None,
        typer.Option(help="exact, scann (Linux; for large memories), or auto, the default, to choose by size."),
    ] = None,
    device: Device = "auto",
    backend: Backend = "auto",
    precision: Precision = "auto",
    cache: Cache = True,
    thumbnail_pixels: Annotated[
        int | None,
        typer.Option(min=16, help="Longest side of thumbnails, for reports and the second stage. Left out: 224."),
    ] = None,
    shard: ShardOption = None,
) -> None:
    """Build a memory from labelled pictures, or from features that `vmem embed` wrote.

    Pictures come from a folder, or from a manifest: CSV, TSV, JSONL or Parquet with the columns label and path (or
    bytes), and id and source where you have them. Files that are no usable pictures are passed over, counted, and
    listed in MEMORY/unreadable.tsv. Files beside the label folders have no label, and are left out.

    A build that was cut off goes on where it stopped when the same command is run again.

    Example: vmem memory build pets/ photos/ --embedder dinov2-vits14
    """
    from retrieval.building import build_from_features, build_memory
    from retrieval.cluster import parse_shard
    from retrieval.parquet import FeatureFile
    from retrieval.sources import is_manifest

    if folder.is_file() and not is_manifest(folder):
        FeatureFile.open(folder)  # first: a file of anything else is the greater mistake
        _expect_none(shard=shard, embedder=embedder)
        _print_report(*build_from_features(memory, folder, index=index))
        return
    built, report = build_memory(
        memory,
        folder,
        embedder=embedder or "dinov2-vits14",
        index=index,
        device=device,
        backend=backend,
        precision=precision,
        cache=cache,
        thumbnail_pixels=thumbnail_pixels,
        shard=parse_shard(shard) if shard else None,
    )
    _print_report(built, report)


@app.command()
def add(
    memory: MemoryPath,
    folder: FolderOrFile,
    on_duplicate: Annotated[
        str,
        typer.Option(help="For an id that is there already: skip it, replace the item, or stop with an error."),
    ] = "skip",
    id_prefix: Annotated[
        str,
        typer.Option(help="Put before each id, which is the file's path below FOLDER: keeps two folders apart."),
    ] = "",
    embedder: EmbedderOverride = None,
    device: Device = "auto",
    backend: Backend = "auto",
    precision: Precision = "auto",
    cache: Cache = True,
    shard: ShardOption = None,
    ray: Ray = None,
) -> None:
    """Add labelled pictures, of known or new classes, or features that `vmem embed` wrote, to a memory.

    Pictures come from a folder, or from a manifest: CSV, TSV, JSONL or Parquet with the columns label and path (or
    bytes), and id and source where you have them.

    An add that was cut off goes on where it stopped when the same command is run again.

    Example: vmem memory add pets/ more-photos/ --id-prefix march/
    """
    from retrieval.building import add_features, list_pictures
    from retrieval.cluster import parse_shard
    from retrieval.memory import VisualMemory
    from retrieval.parquet import FeatureFile
    from retrieval.sources import is_manifest

    opened = VisualMemory.open(
        memory, embedder=embedder, device=device, backend=backend, precision=precision, cache=cache
    )
    part = parse_shard(shard) if shard else None
    way: dict[str, Any] = {"on_duplicate": on_duplicate, "id_prefix": id_prefix, "shard": part}
    if ray:
        from retrieval.cluster import RayEmbedding

        known = opened.settings.embedder
        way["embedded_by"] = RayEmbedding(
            embedder or known.origin, address=ray, requested=opened.requested, cache=cache, expected=known
        )
    if not folder.is_file():
        list_pictures(folder)  # of which one must be usable
        report = opened.add_folder(folder, **way)
    elif is_manifest(folder):
        report = opened.add_manifest(folder, **way)
    else:
        features = FeatureFile.open(folder)
        _expect_none(shard=shard, ray=ray)
        report = add_features(opened, features, on_duplicate=on_duplicate, id_prefix=id_prefix)
    if not part:
        opened.build_index()
    _print_report(opened, report)


@app.command()
def search(
    memory: MemoryPath,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="The query picture.")],
    k: Annotated[int, typer.Option("--k", help="How many neighbours.")] = 10,
    embedder: EmbedderOverride = None,
    device: Device = "auto",
    backend: Backend = "auto",
    precision: Precision = "auto",
    cache: Cache = True,
    as_json: AsJson = False,
) -> None:
    """Show the remembered pictures nearest to one picture.

    Example: vmem memory search pets/ query.jpg --k 5
    """
    from retrieval.memory import VisualMemory
    from retrieval.support.terminal import print_table

    neighbors = VisualMemory.open(
        memory, embedder=embedder, device=device, backend=backend, precision=precision, cache=cache
    ).search(image, k=k)[0]
    if as_json:
        found = [{"id": n.id, "label": n.label, "distance": n.distance} for n in neighbors]
        typer.echo(json.dumps(found))
        return
    rows = [(rank, f"{n.distance:.4f}", n.label, n.id) for rank, n in enumerate(neighbors, start=1)]
    print_table(["rank", "distance", "label", "id"], rows)


@app.command()
def stats(memory: MemoryPath, as_json: AsJson = False) -> None:
    """Show a memory's size, classes, embedder, index and version.

    Example: vmem memory stats pets/
    """
    from retrieval.memory import VisualMemory
    from retrieval.support.terminal import print_table, printable

    numbers = VisualMemory.open(memory).stats()
    if as_json:
        typer.echo(json.dumps(asdict(numbers)))
        return
    typer.echo(f"{numbers.items:,} pictures of {len(numbers.labels):,} classes, version {numbers.version}")
    typer.echo(f"embedder {printable(numbers.embedder)}, index {numbers.index}")
    typer.echo(f"{numbers.bytes_on_disk / 1e6:,.1f} MB in {printable(memory)}")
    print_table(["class", "pictures"], list(numbers.labels.items())[:50])
    if len(numbers.labels) > 50:
        typer.echo(f"… and {len(numbers.labels) - 50:,} classes more (--json lists all)")


for _command in (why, relabel, prune, duplicates, history, diff, tag, untag, checkout, undo, compact, check):
    app.command()(_command)


def _expect_none(**options: str | None) -> None:
    """Raise InvalidArgument for options that say how pictures are embedded, where features are given."""
    from retrieval.errors import InvalidArgument

    for name, value in options.items():
        if value is not None:
            raise InvalidArgument(f"--{name} {value} is for pictures, and a file of features is given: leave it out")


def _print_report(memory: "VisualMemory", report: "AddReport") -> None:
    from retrieval.storage.places import PASSED_OVER
    from retrieval.support.terminal import printable

    parts = [f"added {report.added:,}"]
    if report.replaced:
        parts.append(f"replaced {report.replaced:,}")
    if report.skipped:
        parts.append(f"passed over {report.skipped:,} whose ids were there already")
    if report.unreadable:
        listing = printable(memory.path / PASSED_OVER)
        files = "file" if len(report.unreadable) == 1 else "files"
        parts.append(f"could not use {len(report.unreadable):,} {files} (listed in {listing})")
    typer.echo(f"{printable(memory.path)}: {', '.join(parts)}; {len(memory):,} pictures in all")


embed_app = typer.Typer()


@embed_app.command()
def embed(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="Pictures laid out as FOLDER/<label>/<image>, or a manifest that lists them (CSV, TSV, JSONL or"
            " Parquet with label and path or bytes).",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The Parquet file to write: id, label, vector.")],
    embedder: EmbedderName = "dinov2-vits14",
    device: Device = "auto",
    backend: Backend = "auto",
    precision: Precision = "auto",
    cache: Cache = True,
    shard: ShardOption = None,
    ray: Ray = None,
) -> None:
    """Write the features of labelled pictures to a Parquet file.

    The file is read by pandas, Polars and DuckDB, and by `vmem memory build`. Files that are no usable pictures are
    left out, counted, and listed beside it. With --shard 2/8 it is named FILE-2-of-8, and the others' beside it.

    A run that was cut off starts again, and takes what it had computed from the cache.

    Example: vmem embed photos/ --out features.parquet --embedder dinov2-vits14
    """
    from retrieval.cluster import parse_shard
    from retrieval.edits import list_unreadable
    from retrieval.embedders.base import Requested
    from retrieval.parquet import write_features
    from retrieval.support.terminal import printable

    part = parse_shard(shard) if shard else None
    pictures = _listed(folder, out, part)
    out = part.name(out) if part else out
    requested = Requested(device, backend, precision)
    if ray:
        batches, made_by = _embed_on_ray(pictures, embedder, requested, cache=cache, address=ray)
    else:
        batches, made_by = _embed_here(pictures, embedder, requested, cache=cache)
    typer.echo(f"{printable(made_by.identity.name)}: {made_by.execution}", err=True)
    written, unreadable = write_features(out, batches, made_by)
    listing = out.with_name(out.name + ".unreadable.tsv")
    list_unreadable(listing, unreadable)
    typer.echo(f"{printable(out)}: {written:,} features of {made_by.identity.dimension} dimensions")
    if unreadable:
        typer.echo(f"{len(unreadable):,} files could not be used (listed in {printable(listing)})")


class _Pictures(NamedTuple):
    items: Iterable["Item"]
    total: int
    calibration: list["ImageLike"]  # of all shards, so that int8 has the same ranges in each


_Embedded = tuple[Iterator["EmbeddedBatch[Item]"], "MadeBy"]


def _listed(folder: Path, out: Path, part: "Shard | None") -> _Pictures:
    """Return the pictures, or this worker's part of them."""
    from retrieval.building import list_pictures
    from retrieval.errors import InvalidArgument
    from retrieval.sources import expect_outside

    if not folder.is_file():
        expect_outside(out, folder)
    elif (part.name(out) if part else out).resolve() == folder.resolve():
        raise InvalidArgument(f"{out} is the manifest itself, and would be written over: choose another --out")
    found = list_pictures(folder)
    items, calibration = found.items, list(found.for_calibration())
    if not part:
        return _Pictures(items, len(items), calibration)
    total = part.size(len(items))
    if not total:
        raise InvalidArgument(f"shard {part.number}/{part.count} of {len(items)} pictures is empty: take fewer shards")
    return _Pictures(part.stream(items), total, calibration)


def _embed_here(pictures: _Pictures, name: str, requested: "Requested", *, cache: bool) -> _Embedded:
    from retrieval.embedders import load_embedder
    from retrieval.embedders.base import Calibration
    from retrieval.embedding import FeatureCache, embed_images
    from retrieval.support.terminal import track

    loaded = load_embedder(name, **requested.to_dict(), calibration=Calibration(pictures.calibration))
    batches = embed_images(
        track(pictures.items, "Embedding", total=pictures.total),
        loaded,
        image_of=lambda item: item.image,
        features=FeatureCache(loaded.identity, loaded.execution) if cache else None,
    )
    return batches, loaded


def _embed_on_ray(pictures: _Pictures, name: str, requested: "Requested", *, cache: bool, address: str) -> _Embedded:
    from retrieval.cluster import RayEmbedding

    cluster = RayEmbedding(name, address=address, requested=requested, calibration=pictures.calibration, cache=cache)
    batches = _counted(cluster.stream(pictures.items, image_of=lambda item: item.image), pictures.total)
    first = next(batches)  # by then it is known what made it
    return itertools.chain([first], batches), cluster.embedder


def _counted(batches: Iterator["EmbeddedBatch[Item]"], total: int) -> Iterator["EmbeddedBatch[Item]"]:
    from retrieval.support.terminal import counter

    with counter("Embedding on the cluster", total=total) as bar:
        for batch in batches:
            bar.advance(len(batch.items) + len(batch.failures), "")
            yield batch
