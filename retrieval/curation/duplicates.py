"""Pictures that are in a memory twice or nearly so, and queries that have a twin in it: leakage from test to memory."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import Float, Int, Shaped

from retrieval.curation.pruning import nearest_others, search_rows
from retrieval.embedders.base import check_embedder
from retrieval.embedding import content_digest
from retrieval.errors import ImageError, InvalidArgument
from retrieval.images import decode, thumbnail
from retrieval.parquet import ROWS, FeatureFile
from retrieval.sources import Item, is_manifest, list_labelled_files, read_manifest
from retrieval.storage.places import is_memory
from retrieval.support.terminal import track
from retrieval.vectors import to_unit_vectors
from retrieval.voting import encode_labels

if TYPE_CHECKING:
    from retrieval.version import Snapshot
    from retrieval.view import MemoryView


DISTANCE: Final = 0.05
"""Cosine distance up to which two pictures are twins.

Measured with efficientnet-lite0 on 1,050 pictures of PACS, ImageNet and Tiny-ImageNet: of copies saved anew as JPEG of
quality 90 it finds 98 %, of quality 75 92 %, of mirrored ones 88 %, of those cut by 5 % 91 %, made 10 % brighter 96 %,
but of those scaled to half their size 15 %. Among all of PACS, per domain, it calls 1 pair of 1,034 photographs twins,
1 of 787 paintings, 1 of 877 cartoons, 1 of 1,489 sketches; at 0.06 these are 6, 1, 3 and 20, at 0.1 79, 1, 6 and 2,921.
"""
NEIGHBORS: Final = 10  # of each picture that are looked at; larger groups hang together by them


@dataclass(frozen=True, slots=True)
class Twin:
    """Two pictures that are the same or nearly so."""

    id: str
    label: str
    twin_id: str  # in the memory
    twin_label: str
    distance: float  # cosine distance
    exact: bool  # the same content, byte for byte of the files

    @property
    def same_label(self) -> bool:
        """Whether both carry the same label."""
        return self.label == self.twin_label


@dataclass(frozen=True, slots=True)
class Duplicates:
    """The twins within a memory."""

    items: int  # in the memory
    twins: list[Twin]  # each pair once, nearest first
    groups: list[list[str]]  # ids of pictures that hang together by twins, largest group first

    @property
    def surplus(self) -> int:
        """How many pictures could go with one of each group left."""
        return sum(len(group) - 1 for group in self.groups)


@dataclass(frozen=True, slots=True, eq=False)
class QueryBatch:
    """Some queries that are looked for in a memory."""

    ids: Sequence[str]
    labels: Sequence[str]
    vectors: Float[np.ndarray, "queries dimension"]  # of length 1
    digests: Sequence[str | None]  # as `retrieval.embedding.content_digest` gives them; None where not known


def find_duplicates(
    memory: "MemoryView", *, distance: float = DISTANCE, k: int = NEIGHBORS, progress: bool = True
) -> Duplicates:
    """Return the pairs of a memory's pictures that are no farther apart than a distance, and their groups.

    Pictures of the same content are found whatever ``k`` is; of others each one's ``k`` nearest are looked at.

    Raises:
        InvalidArgument: ``k`` below 1, a distance outside 0 to 2, or a view without some items.
    """
    snapshot = _whole(memory, distance, k)
    if len(snapshot.ids) < 2:
        return Duplicates(len(snapshot.ids), [], [])
    contents = _contents(snapshot.digests)
    pairs, distances = _near_pairs(snapshot, contents, distance, k, progress)
    ids, labels = snapshot.ids, snapshot.labels
    known = contents[pairs]
    exact = (known[:, 0] == known[:, 1]) & (known[:, 0] >= 0)
    twins = [
        Twin(ids[one], labels[one], ids[other], labels[other], far, same)
        for (one, other), far, same in zip(pairs.tolist(), distances.tolist(), exact.tolist(), strict=True)
    ]
    return Duplicates(len(ids), twins, [ids[rows].tolist() for rows in _groups(pairs)])


def find_leaks(
    memory: "MemoryView", queries: Iterable[QueryBatch], *, distance: float = DISTANCE, k: int = NEIGHBORS
) -> list[Twin]:
    """Return the queries that have twins in a memory, with up to ``k`` twins of each, nearest first.

    Raises:
        InvalidArgument: ``k`` below 1, a distance outside 0 to 2, an empty memory, or a view without some items.
    """
    snapshot = _whole(memory, distance, k)
    k, leaks = min(k, len(snapshot.ids)) or k, []
    for batch in queries:
        rows, distances = search_rows(snapshot)(batch.vectors, k)
        asked, rank = np.nonzero(distances <= distance)
        near = zip(asked.tolist(), rows[asked, rank].tolist(), distances[asked, rank].tolist(), strict=True)
        for query, row, far in near:
            exact = batch.digests[query] is not None and batch.digests[query] == snapshot.digests[row]
            item = snapshot.ids[row], snapshot.labels[row]
            leaks.append(Twin(batch.ids[query], batch.labels[query], *item, max(far, 0.0), exact))
    return sorted(leaks, key=lambda leak: (not leak.exact, leak.distance))


def _whole(memory: "MemoryView", distance: float, k: int) -> "Snapshot":
    """Return a version with all its items, those that were pruned away too."""
    if not 0 <= distance <= 2 or k < 1:
        raise InvalidArgument(
            f"distance {distance} and k={k}: a distance from 0 to 2 and 1 or more neighbours expected"
        )
    if len(memory) != len(memory.snapshot().rows):
        raise InvalidArgument("a view without some items cannot be compared: give the memory itself, or `at` a version")
    return memory.snapshot().unpruned()


def _near_pairs(
    snapshot: "Snapshot", contents: Int[np.ndarray, " items"], distance: float, k: int, progress: bool
) -> tuple[Int[np.ndarray, "pairs two"], Float[np.ndarray, " pairs"]]:
    """Return the rows of each pair of twins once, nearest first, and their distances."""
    vectors = snapshot.vectors()
    found = nearest_others(vectors, search_rows(snapshot), k=k, doing="Comparing each picture" if progress else "")
    same = _links(contents)
    pairs, distances = [same], [1.0 - np.einsum("pd,pd->p", vectors[same[:, 0]], vectors[same[:, 1]])]
    for own, rows, far in found:
        query, rank = np.nonzero(far <= distance)
        pairs.append(np.sort(np.stack([own[query], rows[query, rank]], axis=1), axis=1))
        distances.append(far[query, rank])
    every = np.concatenate(pairs)
    _, first = np.unique(every[:, 0] * len(vectors) + every[:, 1], return_index=True)
    apart = np.maximum(np.concatenate(distances)[first], 0.0)
    order = np.argsort(apart, kind="stable")
    return every[first][order], apart[order]


def _contents(digests: Shaped[np.ndarray, " items"]) -> Int[np.ndarray, " items"]:
    """Number the contents of pictures; -1 where the content is not known."""
    codes, names = encode_labels(digests[:, None])
    unknown = names.index(None) if None in names else -1
    return np.where(codes[:, 0] == unknown, -1, codes[:, 0])


def _links(contents: Int[np.ndarray, " items"]) -> Int[np.ndarray, "links two"]:
    """Return pairs of rows that hang all pictures of one content together, each with the next."""
    order = np.argsort(contents, kind="stable")
    alike = (contents[order[1:]] == contents[order[:-1]]) & (contents[order[1:]] >= 0)
    return np.stack([order[:-1][alike], order[1:][alike]], axis=1)


def _groups(pairs: Int[np.ndarray, "pairs two"]) -> list[Int[np.ndarray, " group"]]:
    """Return the rows that hang together by pairs, the largest group first."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    rows, ends = np.unique(pairs, return_inverse=True)
    one, other = ends.reshape(pairs.shape).T
    links = coo_matrix((np.ones(len(pairs), bool), (one, other)), shape=(len(rows), len(rows)))
    _, group = connected_components(links, directed=False)
    order = np.argsort(group, kind="stable")
    groups = np.split(rows[order], np.cumsum(np.bincount(group))[:-1]) if len(rows) else []
    return sorted(groups, key=len, reverse=True)


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
        wanted, found = set(ids), {}
        for item in items:
            if item.id in wanted:
                with suppress(ImageError):  # gone since it was embedded
                    found[item.id] = thumbnail(decode(item.image), longest_side=_LONGEST_SIDE)
        return [found.get(id_) for id_ in ids]

    return Queries(total, batches, pictures, unreadable)


def _of_features(memory: "MemoryView", path: Path, progress: bool) -> Queries:
    features = FeatureFile.open(path)
    check_embedder(features.identity, memory.settings.embedder, memory.path)

    def batches() -> Iterator[QueryBatch]:
        blocks = -(-len(features) // ROWS)
        batched = track(features.batches(), "Comparing", total=blocks, unit=" blocks", shown=progress)
        for ids, labels, vectors in batched:
            unit = to_unit_vectors(vectors, dimension=features.identity.dimension)
            yield QueryBatch(ids, labels, unit, [None] * len(ids))

    return Queries(len(features), batches, lambda ids: [None] * len(ids))
