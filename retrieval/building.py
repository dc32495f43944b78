"""A memory from a folder or a manifest, in one call that can be cut off and called again."""

import contextlib
import itertools
from collections.abc import Iterable
from pathlib import Path

from retrieval.cluster import Shard
from retrieval.edits import AddReport
from retrieval.embedders.base import CALIBRATION_PICTURES, check_embedder, pick
from retrieval.errors import FolderError, ImageError, MemoryExists
from retrieval.images import ImageLike, decode
from retrieval.labels import composed
from retrieval.memory import THUMBNAIL_PIXELS, VisualMemory
from retrieval.parquet import ROWS, FeatureFile
from retrieval.sources import Item, Manifest, as_text, expect_outside, list_labelled_files, read_manifest
from retrieval.storage.places import is_memory, local_folder
from retrieval.storage.table import command
from retrieval.support.terminal import track


def build_memory(
    path: str | Path,
    folder: str | Path,
    *,
    embedder: str,
    index: str | None = None,
    device: str = "auto",
    backend: str = "auto",
    precision: str = "auto",
    cache: bool = True,
    thumbnail_pixels: int | None = None,
    shard: Shard | None = None,
) -> tuple[VisualMemory, AddReport]:
    """Build a memory from ``folder/<label>/<image>`` or a manifest, or go on with one that was begun from the same.

    Args:
        path: where the memory lies or is to lie.
        folder: the pictures, or a CSV, TSV, JSONL or Parquet file that lists them (`retrieval.sources`).
        embedder: a name in the catalogue, or a folder with a saved model.
        index: ``exact``, ``scann``, or ``auto`` to choose by size, which is also what None does for a new memory.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        backend: ``auto``, ``torch`` or ``openvino``.
        precision: ``auto``, ``float32``, ``bfloat16``, ``float16``, or ``int8``, calibrated on the folder's pictures.
        cache: whether to look up and keep features by picture.
        thumbnail_pixels: longest side of the thumbnails that are kept; None for 224 in a new memory.
        shard: the part of the files that this process adds, beside others that build the same memory.

    Returns:
        The memory, its index built unless others are adding too, and what became of the files.

    Raises:
        FolderError: the folder or the manifest is missing, empty, laid out otherwise, or holds no usable picture;
            nothing was made.
        MemoryExists: the path holds something else, or a memory begun with other settings.
        EmbedderMismatch: the memory that was begun has another embedder.
        EmbedderError: the embedder cannot be loaded, or is another one than the memory's.
        InvalidArgument: an option has a value that it cannot have.
        StorageError: the memory cannot be read or written.
    """
    expect_outside(path, folder)
    found = list_pictures(folder)
    calibration = calibration_pictures(found)
    built_from = as_text(Path(folder).resolve())
    running = {"device": device, "backend": backend, "precision": precision}
    with command("build", folder=local_folder(path), what=built_from):
        memory = None
        if not is_memory(local_folder(path)):
            with contextlib.suppress(*([MemoryExists] if shard else [])):  # another shard was faster
                memory = VisualMemory.create(
                    path,
                    embedder=embedder,
                    index=index or "auto",
                    **running,
                    calibration=calibration,
                    cache=cache,
                    thumbnail_pixels=THUMBNAIL_PIXELS if thumbnail_pixels is None else thumbnail_pixels,
                    built_from=built_from,
                )
        if memory is None:
            memory = VisualMemory.open(path, embedder=embedder, **running, calibration=calibration, cache=cache)
            _expect_origin(memory, built_from, folder)
            _expect_settings(memory, index=index, thumbnail_pixels=thumbnail_pixels)
        add = memory.add_manifest if isinstance(found, Manifest) else memory.add_folder
        report = add(folder, shard=shard)
        if not shard:
            memory.build_index()
    return memory, report


def build_from_features(
    path: str | Path, file: str | Path, *, index: str | None = None, progress: bool = True
) -> tuple[VisualMemory, AddReport]:
    """Build a memory from a Parquet file of id, label and vector, or go on with one that was begun from it.

    A file of `vmem embed` says which embedder made it, and the memory is asked with pictures like any other; a file
    of another tool makes a memory that is asked with vectors. There are no thumbnails.

    Raises:
        FolderError: no such file, or another form.
        MemoryExists: the path holds something else.
        InvalidArgument: an option has a value that it cannot have.
        StorageError: the memory cannot be read or written.
    """
    features = FeatureFile.open(file)
    built_from = as_text(Path(file).resolve())
    with command("build", folder=local_folder(path), what=built_from):
        if is_memory(local_folder(path)):
            memory = VisualMemory.open(path)
            _expect_origin(memory, built_from, file)
            _expect_settings(memory, index=index)
        else:
            memory = VisualMemory.create(path, embedder=features.identity, index=index or "auto", built_from=built_from)
        report = add_features(memory, features, progress=progress)
        memory.build_index()
    return memory, report


def add_features(
    memory: VisualMemory,
    features: FeatureFile,
    *,
    on_duplicate: str = "skip",
    id_prefix: str = "",
    progress: bool = True,
) -> AddReport:
    """Add a file's features to a memory, some thousands as one version.

    Raises:
        EmbedderMismatch: the file's vectors are of another embedder.
        FolderError: the pictures' folder or manifest cannot be used.
        DuplicateId: an id comes twice.
        StorageError: the memory cannot be read or written.
    """
    check_embedder(features.identity, memory.settings.embedder, memory.path)
    total, prefix = AddReport(), as_text(id_prefix)
    blocks = -(-len(features) // ROWS)
    with command("add", folder=memory.path, what=f"{features.path} {prefix}"):
        for ids, labels, vectors in track(
            features.batches(), "Reading features", total=blocks, unit=" blocks", shown=progress
        ):
            prefixed = [prefix + id_ for id_ in ids]
            total.count(
                memory.add_vectors(prefixed, labels, vectors, on_duplicate=on_duplicate, made_by=features.execution)
            )
    return total


def _expect_origin(memory: VisualMemory, built_from: str, offered: str | Path) -> None:
    if composed(memory.settings.built_from) != built_from:
        raise MemoryExists(
            f"{memory.path} holds a memory built from {memory.settings.built_from or 'elsewhere'}:"
            f" use `vmem memory add {memory.path} {offered}` to add to it, or choose another path"
        )


def _expect_settings(memory: VisualMemory, **wanted: str | int | None) -> None:
    for name, value in wanted.items():
        begun_with = getattr(memory.settings, name)
        if value not in (None, begun_with):
            raise MemoryExists(
                f"{memory.path} was begun with {name} {begun_with}, not {value}: leave that out, or choose another path"
            )


def calibration_pictures(items: list[Item] | Manifest) -> list[ImageLike]:
    """Return pictures from all over a folder, or those that stand first in a manifest, for int8's ranges."""
    some = pick(items) if isinstance(items, list) else itertools.islice(items, CALIBRATION_PICTURES)
    return [item.image for item in some]


def list_pictures(source: str | Path) -> list[Item] | Manifest:
    """Return the pictures of a folder or a manifest, at least one of which is usable: a model would load for nothing.

    Raises:
        FolderError: the folder or the manifest is missing or laid out otherwise, or none of its pictures is usable.
    """
    found: list[Item] | Manifest
    if Path(source).is_file():
        found = read_manifest(source)
    else:
        found = [Item(file.id, file.label, file.path, file.source) for file in list_labelled_files(source)]
    expect_a_picture((item.image for item in found), source)
    return found


def expect_a_picture(pictures: Iterable[ImageLike], source: str | Path) -> None:
    """Raise FolderError unless at least one picture is usable."""
    first_error: ImageError | None = None
    count = 0
    for picture in pictures:
        try:
            decode(picture)
            return
        except ImageError as error:
            first_error = first_error or error
            count += 1
    raise FolderError(f"{source} holds no usable picture among {count} files; the first: {first_error}")
