"""vmem memory: build a memory, add to it, search it, look at it; and vmem embed."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from retrieval.building import add_features, build_from_features, build_memory, calibration_pictures, list_pictures
from retrieval.cluster import RayEmbedding, parse_shard
from retrieval.edits import AddReport, list_unreadable
from retrieval.embedders import load_embedder
from retrieval.embedders.base import Calibration, MadeBy, Requested
from retrieval.embedding import EmbeddedBatch, FeatureCache, embed_images
from retrieval.errors import InvalidArgument
from retrieval.memory import VisualMemory
from retrieval.parquet import FeatureFile, write_features
from retrieval.sources import Item, expect_outside, is_manifest
from retrieval.storage.places import PASSED_OVER
from retrieval.support.options import (
    AsJson,
    Backend,
    Cache,
    Device,
    EmbedderName,
    EmbedderOptions,
    FolderOrFile,
    MemoryPath,
    Precision,
    Ray,
    ShardOption,
    flat,
)
from retrieval.support.terminal import counter, print_table, printable, track


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


@flat()
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
    *,
    embedding: EmbedderOptions,
    shard: ShardOption = None,
    ray: Ray = None,
) -> None:
    """Add labelled pictures, of known or new classes, or features that `vmem embed` wrote, to a memory.

    Pictures come from a folder, or from a manifest: CSV, TSV, JSONL or Parquet with the columns label and path (or
    bytes), and id and source where you have them.

    An add that was cut off goes on where it stopped when the same command is run again.

    Example: vmem memory add pets/ more-photos/ --id-prefix march/
    """
    opened = embedding.open(memory)
    part = parse_shard(shard) if shard else None
    way: dict[str, Any] = {"on_duplicate": on_duplicate, "id_prefix": id_prefix, "shard": part}
    if ray:
        known = opened.settings.embedder
        name = embedding.embedder or known.origin
        way["embedded_by"] = RayEmbedding(
            name, address=ray, requested=opened.requested, cache=embedding.cache, expected=known
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


@flat()
def search(
    memory: MemoryPath,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="The query picture.")],
    k: Annotated[int, typer.Option("--k", help="How many neighbours.")] = 10,
    *,
    embedding: EmbedderOptions,
    as_json: AsJson = False,
) -> None:
    """Show the remembered pictures nearest to one picture.

    Example: vmem memory search pets/ query.jpg --k 5
    """
    neighbors = embedding.open(memory).search(image, k=k)[0]
    if as_json:
        found = [{"id": n.id, "label": n.label, "distance": n.distance} for n in neighbors]
        typer.echo(json.dumps(found))
        return
    rows = [(rank, f"{n.distance:.4f}", n.label, n.id) for rank, n in enumerate(neighbors, start=1)]
    print_table(["rank", "distance", "label", "id"], rows)


def stats(memory: MemoryPath, as_json: AsJson = False) -> None:
    """Show a memory's size, classes, embedder, index and version.

    Example: vmem memory stats pets/
    """
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


def _expect_none(**options: str | None) -> None:
    """Raise InvalidArgument for options that say how pictures are embedded, where features are given."""
    for name, value in options.items():
        if value is not None:
            raise InvalidArgument(f"--{name} {value} is for pictures, and a file of features is given: leave it out")


def _print_report(memory: VisualMemory, report: AddReport) -> None:
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
    part = parse_shard(shard) if shard else None
    target = part.name(out) if part else out
    if not folder.is_file():
        expect_outside(out, folder)
    elif target.resolve() == folder.resolve():
        raise InvalidArgument(f"{out} is the manifest itself, and would be written over: choose another --out")
    found = list_pictures(folder)
    calibration = calibration_pictures(found)  # of all shards, so that int8 has the same ranges in each
    items, total = (part.stream(found), part.size(len(found))) if part else (found, len(found))
    if part and not total:
        raise InvalidArgument(f"shard {part.number}/{part.count} of {len(found)} pictures is empty: take fewer shards")
    requested = Requested(device, backend, precision)
    batches: Iterator[EmbeddedBatch[Item]]
    made_by: MadeBy
    if ray:
        cluster = RayEmbedding(embedder, address=ray, requested=requested, calibration=calibration, cache=cache)
        counted = _counted(cluster.stream(items, image_of=lambda item: item.image), total)
        first = next(counted)  # by then it is known what made it
        batches, made_by = itertools.chain([first], counted), cluster.embedder
    else:
        made_by = loaded = load_embedder(embedder, **requested.to_dict(), calibration=Calibration(calibration))
        batches = embed_images(
            track(items, "Embedding", total=total),
            loaded,
            image_of=lambda item: item.image,
            features=FeatureCache(loaded.identity, loaded.execution) if cache else None,
        )
    typer.echo(f"{printable(made_by.identity.name)}: {made_by.execution}", err=True)
    written, unreadable = write_features(target, batches, made_by)
    listing = target.with_name(target.name + ".unreadable.tsv")
    list_unreadable(listing, unreadable)
    typer.echo(f"{printable(target)}: {written:,} features of {made_by.identity.dimension} dimensions")
    if unreadable:
        typer.echo(f"{len(unreadable):,} files could not be used (listed in {printable(listing)})")


def _counted(batches: Iterator[EmbeddedBatch[Item]], total: int) -> Iterator[EmbeddedBatch[Item]]:
    with counter("Embedding on the cluster", total=total) as bar:
        for batch in batches:
            bar.update(len(batch.items) + len(batch.failures))
            yield batch
