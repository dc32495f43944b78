"""vmem embed: features for other tools."""

from pathlib import Path
from typing import Annotated

import typer

from retrieval.options import Backend, Cache, Device, EmbedderName, FolderPath, Precision

embed_app = typer.Typer()


@embed_app.command()
def embed(
    folder: FolderPath,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The Parquet file to write: id, label, vector.")],
    embedder: EmbedderName = "dinov2-vits14",
    device: Device = "auto",
    backend: Backend = "auto",
    precision: Precision = "auto",
    cache: Cache = True,
) -> None:
    """Write the features of a folder of labelled pictures to a Parquet file.

    The file is read by pandas, Polars and DuckDB, and by `vmem memory build`. Files that are no usable pictures are
    left out, counted, and listed beside it.

    A run that was cut off starts again, and takes what it had computed from the cache.

    Example: vmem embed photos/ --out features.parquet --embedder dinov2-vits14
    """
    from retrieval.adding import list_unreadable
    from retrieval.building import expect_a_picture
    from retrieval.embedders import load_embedder
    from retrieval.embedders.int8 import Calibration, pick
    from retrieval.feature_file import write_features
    from retrieval.features import FeatureCache
    from retrieval.folder import expect_outside, list_labelled_files
    from retrieval.pipeline import embed_images
    from retrieval.progress import track
    from retrieval.terminal import printable

    expect_outside(out, folder)
    files = list_labelled_files(folder)
    expect_a_picture(files, folder)
    calibration = Calibration([file.path for file in pick(files)])
    loaded = load_embedder(embedder, device=device, backend=backend, precision=precision, calibration=calibration)
    typer.echo(f"{printable(loaded.identity.name)}: {loaded.execution}", err=True)
    batches = embed_images(
        track(files, "Embedding", total=len(files)),
        loaded,
        image_of=lambda file: file.path,
        features=FeatureCache(loaded.identity, loaded.execution) if cache else None,
    )
    written, unreadable = write_features(out, batches, loaded)
    listing = out.with_name(out.name + ".unreadable.tsv")
    list_unreadable(listing, unreadable)
    typer.echo(f"{printable(out)}: {written:,} features of {loaded.identity.dimension} dimensions")
    if unreadable:
        typer.echo(f"{len(unreadable):,} files could not be used (listed in {printable(listing)})")
