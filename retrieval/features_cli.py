"""vmem embed: features for other tools."""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from retrieval.options import Backend, Cache, Device, EmbedderName, Precision, Ray, ShardOption

if TYPE_CHECKING:
    from retrieval.cluster.sharding import Shard
    from retrieval.embedders.base import MadeBy
    from retrieval.embedders.execution import Requested
    from retrieval.folder import Item
    from retrieval.images import ImageLike
    from retrieval.pipeline import EmbeddedBatch

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
    from retrieval.adding import list_unreadable
    from retrieval.cluster.sharding import parse_shard
    from retrieval.embedders.execution import Requested
    from retrieval.feature_file import write_features
    from retrieval.terminal import printable

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
    from retrieval.folder import expect_outside

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
    from retrieval.embedders.int8 import Calibration
    from retrieval.features import FeatureCache
    from retrieval.pipeline import embed_images
    from retrieval.progress import track

    loaded = load_embedder(name, **requested.to_dict(), calibration=Calibration(pictures.calibration))
    batches = embed_images(
        track(pictures.items, "Embedding", total=pictures.total),
        loaded,
        image_of=lambda item: item.image,
        features=FeatureCache(loaded.identity, loaded.execution) if cache else None,
    )
    return batches, loaded


def _embed_on_ray(pictures: _Pictures, name: str, requested: "Requested", *, cache: bool, address: str) -> _Embedded:
    from retrieval.cluster.ray_embedding import RayEmbedding

    cluster = RayEmbedding(name, address=address, requested=requested, calibration=pictures.calibration, cache=cache)
    batches = _counted(cluster.stream(pictures.items, image_of=lambda item: item.image), pictures.total)
    first = next(batches)  # by then it is known what made it
    return itertools.chain([first], batches), cluster.embedder


def _counted(batches: Iterator["EmbeddedBatch[Item]"], total: int) -> Iterator["EmbeddedBatch[Item]"]:
    from retrieval.progress import counter

    with counter("Embedding on the cluster", total=total) as bar:
        for batch in batches:
            bar.advance(len(batch.items) + len(batch.failures), "")
            yield batch
