"""What a memory is compared with: pictures of a folder or a manifest, another memory, or a file of features."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from retrieval.curation.duplicates import QueryBatch
from retrieval.embedders.base import check_embedder
from retrieval.errors import ImageError
from retrieval.feature_file import ROWS, FeatureFile
from retrieval.features import content_digest
from retrieval.folder import Item, list_labelled_files
from retrieval.images import ImageLike, decode, thumbnail
from retrieval.manifests import is_manifest, read_manifest
from retrieval.progress import track
from retrieval.storage.layout import is_memory
from retrieval.vectors import to_unit_vectors

if TYPE_CHECKING:
    from retrieval.view import MemoryView

_LONGEST_SIDE = 224  # pixels of a query's picture for people


@dataclass(frozen=True, slots=True)
class Queries:
    """Pictures that are looked for in a memory."""

    total: int
    batches: Callable[[], Iterator[QueryBatch]]
    pictures: Callable[[Sequence[str]], list[bytes | None]]  # of some ids, encoded; None where there is none
    unreadable: list[tuple[str, str]] = field(default_factory=list)  # id and reason; filled while batches are read


def open_queries(memory: "MemoryView", path: str | Path, *, progress: bool = True) -> Queries:
    """Return what lies at a path as queries to a memory.

    Args:
        memory: whose embedder makes the vectors of pictures, and must have made ready ones.
        path: a folder laid out as <label>/<image>, a manifest, another memory, or a Parquet file of features.
        progress: whether to show a bar.

    Raises:
        FolderError: nothing is there, or nothing of these.
        EmbedderMismatch: vectors of another embedder.
    """
    place = Path(path)
    if is_memory(place):
        return _of_memory(memory, place, progress)
    if not place.is_file():
        files = list_labelled_files(place)
        return _of_items(memory, [Item(file.id, file.label, file.path) for file in files], len(files), progress)
    if is_manifest(place):
        listed = read_manifest(place, progress=progress)
        return _of_items(memory, listed, len(listed), progress)
    return _of_features(memory, place, progress)


def _of_memory(memory: "MemoryView", path: Path, progress: bool) -> Queries:
    from retrieval.memory import VisualMemory

    other = VisualMemory.open(path)
    check_embedder(other.settings.embedder, memory.settings.embedder, memory.path)
    snapshot = other.snapshot().unpruned()

    def batches() -> Iterator[QueryBatch]:
        vectors = snapshot.vectors()
        starts = range(0, len(vectors), ROWS)
        for start in track(starts, "Comparing", total=len(starts), unit=" blocks", shown=progress):
            some = slice(start, start + ROWS)
            ids, labels, digests = (each[some].tolist() for each in (snapshot.ids, snapshot.labels, snapshot.digests))
            yield QueryBatch(ids, labels, vectors[some], digests)

    return Queries(len(snapshot.ids), batches, other.thumbnails)


def _of_items(memory: "MemoryView", items: Iterable[Item], total: int, progress: bool) -> Queries:
    unreadable: list[tuple[str, str]] = []

    def batches() -> Iterator[QueryBatch]:
        queue = track(items, "Embedding", total=total, shown=progress)
        for batch in memory.embed_stream(queue, image_of=lambda item: item.image):
            unreadable.extend((failure.item.id, str(failure.error)) for failure in batch.failures)
            if batch.items:
                ids, labels = [item.id for item in batch.items], [item.label for item in batch.items]
                yield QueryBatch(ids, labels, batch.vectors, [content_digest(item.image) for item in batch.items])

    def pictures(ids: Sequence[str]) -> list[bytes | None]:
        wanted = set(ids)
        found = {item.id: _small(item.image) for item in items if item.id in wanted}
        return [found.get(id_) for id_ in ids]

    return Queries(total, batches, pictures, unreadable)


def _small(image: ImageLike) -> bytes | None:
    try:
        return thumbnail(decode(image), longest_side=_LONGEST_SIDE)
    except ImageError:  # gone since it was embedded
        return None


def _of_features(memory: "MemoryView", path: Path, progress: bool) -> Queries:
    features = FeatureFile.open(path)
    check_embedder(features.identity, memory.settings.embedder, memory.path)

    def batches() -> Iterator[QueryBatch]:
        blocks = -(-len(features) // ROWS)
        for ids, labels, vectors in track(
            features.batches(), "Comparing", total=blocks, unit=" blocks", shown=progress
        ):
            unit = to_unit_vectors(vectors, dimension=features.identity.dimension)
            yield QueryBatch(ids, labels, unit, [None] * len(ids))

    return Queries(len(features), batches, lambda ids: [None] * len(ids))
