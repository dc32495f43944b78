"""A memory from a folder, in one call that can be cut off and called again."""

from pathlib import Path

from retrieval.adding import AddReport
from retrieval.embedders.int8 import CALIBRATION_PICTURES
from retrieval.errors import FolderError, ImageError, MemoryExists
from retrieval.folder import LabelledFile, as_text, expect_outside, list_labelled_files
from retrieval.images import decode
from retrieval.memory import THUMBNAIL_PIXELS, VisualMemory
from retrieval.table import is_memory


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
) -> tuple[VisualMemory, AddReport]:
    """Build a memory from ``folder/<label>/<image>``, or go on with one that was begun from the same folder.

    Args:
        path: where the memory lies or is to lie.
        folder: the pictures.
        embedder: a name in the catalogue, or a folder with a saved model.
        index: ``exact``, ``scann``, or ``auto`` to choose by size, which is also what None does for a new memory.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        backend: ``auto``, ``torch`` or ``openvino``.
        precision: ``auto``, ``float32``, ``bfloat16``, ``float16``, or ``int8``, calibrated on the folder's pictures.
        cache: whether to look up and keep features by picture.
        thumbnail_pixels: longest side of the thumbnails that are kept; None for 224 in a new memory.

    Returns:
        The memory, its index built, and what became of the files.

    Raises:
        FolderError: the folder is missing, empty, laid out otherwise, or holds no usable picture; nothing was made.
        MemoryExists: the path holds something else, or a memory begun with other settings.
        EmbedderMismatch: the memory that was begun has another embedder.
        EmbedderError, InvalidArgument, StorageError: as their names say.
    """
    expect_outside(path, folder)
    files = list_labelled_files(folder)
    expect_a_picture(files, folder)
    some = min(len(files), CALIBRATION_PICTURES)
    calibration = [files[len(files) * number // some].path for number in range(some)]  # from all over; for int8 alone
    built_from = as_text(Path(folder).resolve())
    if is_memory(path):
        memory = VisualMemory.open(
            path,
            embedder=embedder,
            device=device,
            backend=backend,
            precision=precision,
            calibration=calibration,
            cache=cache,
        )
        if memory.settings.built_from != built_from:
            raise MemoryExists(
                f"{path} holds a memory built from {memory.settings.built_from or 'elsewhere'}:"
                f" use `vmem memory add {path} {folder}` to add to it, or choose another path"
            )
        _expect_settings(memory, index=index, thumbnail_pixels=thumbnail_pixels)
    else:
        memory = VisualMemory.create(
            path,
            embedder=embedder,
            index=index or "auto",
            device=device,
            backend=backend,
            precision=precision,
            calibration=calibration,
            cache=cache,
            thumbnail_pixels=THUMBNAIL_PIXELS if thumbnail_pixels is None else thumbnail_pixels,
            built_from=built_from,
        )
    report = memory.add_folder(folder)
    memory.build_index()
    return memory, report


def _expect_settings(memory: VisualMemory, **wanted: str | int | None) -> None:
    for name, value in wanted.items():
        begun_with = getattr(memory.settings, name)
        if value not in (None, begun_with):
            raise MemoryExists(
                f"{memory.path} was begun with {name} {begun_with}, not {value}: leave that out, or choose another path"
            )


def expect_a_picture(files: list[LabelledFile], folder: str | Path) -> None:
    """Raise FolderError unless at least one file is a usable picture: before a model is loaded for nothing."""
    first_error: ImageError | None = None
    for file in files:
        try:
            decode(file.path)
        except ImageError as error:
            first_error = first_error or error
        else:
            return
    raise FolderError(f"{folder} holds no usable picture among {len(files)} files; the first: {first_error}")
