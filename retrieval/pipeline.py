"""Pictures to vectors without waiting: decoded in threads ahead of the model, embedded in batches, order kept."""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, TypeVar

import numpy as np
from jaxtyping import Float, UInt8

from retrieval.embedders.base import Embedder
from retrieval.embedders.checked import Checked
from retrieval.errors import EmbedderError, ImageError, UnusableVectors
from retrieval.features import FeatureCache, content_digest
from retrieval.images import ImageLike, decode, thumbnail

Item = TypeVar("Item")
_DECODED_BATCHES = 3  # ahead of the model
_MODEL_THREADS = 2  # one stacks a batch, or feeds a GPU, while the other computes
_KNOWN_BATCHES = 2  # a group of pictures whose features are mostly known grows to no more batches than these


@dataclass(frozen=True, slots=True)
class Failure(Generic[Item]):
    """An item whose picture cannot be used, or has no finite vector, and why.

    Read like a prediction it has a reason and no label.
    """

    item: Item
    error: ImageError

    @property
    def label(self) -> None:
        """There is none: nothing was decided."""
        return

    @property
    def source(self) -> Literal["none"]:
        """Who decided: neither the model nor the vote."""
        return "none"

    @property
    def code(self) -> str:
        """The reason's code."""
        return "unreadable"

    @property
    def reason(self) -> str:
        """Why there is no label, as "code: sentence"."""
        return f"{self.code}: {self.error}"


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddedBatch(Generic[Item]):
    """A batch in the order it came: vectors and thumbnails of the good items, the bad ones apart."""

    items: list[Item]
    vectors: Float[np.ndarray, "items dimension"]
    thumbnails: list[bytes]  # empty when none were asked for
    digests: list[str | None]  # of the pictures (`content_digest`), in the same case
    failures: list[Failure[Item]]


@dataclass(frozen=True, slots=True, eq=False)
class _Prepared:
    """A picture on its way: its features where they are known, else what the model is to see."""

    name: str  # for people
    digest: str | None
    thumbnail: bytes
    pixels: UInt8[np.ndarray, "height width 3"] | None
    vector: Float[np.ndarray, " dimension"] | None


_Group = list[tuple[Item, _Prepared | ImageError]]


def embed_images(
    items: Iterable[Item],
    embedder: Embedder,
    *,
    image_of: Callable[[Item], ImageLike],
    thumbnail_pixels: int | None = None,
    features: FeatureCache | None = None,
    threads: int | None = None,
) -> Iterator[EmbeddedBatch[Item]]:
    """Yield the items in batches with their vectors; a bad picture becomes a `Failure`, never an end.

    Memory stays the same however many items come: three batches are decoded and two in the model's hands at most.

    Args:
        items: anything, in any number.
        embedder: makes the vectors.
        image_of: tells an item's picture.
        thumbnail_pixels: longest side of the thumbnails; None for none.
        features: where vectors are looked up before, and kept after, they are computed.
        threads: how many decode; None for one a core.
    """
    checked = embedder if isinstance(embedder, Checked) else Checked(embedder)

    def prepare(item: Item) -> _Prepared | ImageError:
        try:
            return _prepare(image_of(item), checked, thumbnail_pixels, features)
        except ImageError as error:
            return error

    decoders = ThreadPoolExecutor(threads or os.cpu_count(), thread_name_prefix="decode")
    model = ThreadPoolExecutor(_MODEL_THREADS, thread_name_prefix="embed")
    try:
        embedding: deque[Future[EmbeddedBatch[Item]]] = deque()
        for group in _groups(_ahead(decoders, prepare, items, _DECODED_BATCHES * embedder.batch_size), embedder):
            embedding.append(model.submit(_embed, checked, group, bool(thumbnail_pixels), features))
            if len(embedding) >= _MODEL_THREADS:
                yield embedding.popleft().result()
        while embedding:
            yield embedding.popleft().result()
    finally:
        decoders.shutdown(wait=False, cancel_futures=True)
        model.shutdown(wait=False, cancel_futures=True)


def _ahead(
    pool: ThreadPoolExecutor,
    prepare: Callable[[Item], _Prepared | ImageError],
    items: Iterable[Item],
    room: int,
) -> Iterator[tuple[Item, _Prepared | ImageError]]:
    """Yield items with what was prepared for them, in order, while the pool works on those that follow."""
    remaining = iter(items)
    pending = deque((item, pool.submit(prepare, item)) for item in itertools.islice(remaining, room))
    while pending:
        item, future = pending.popleft()
        result = future.result()
        pending.extend((further, pool.submit(prepare, further)) for further in itertools.islice(remaining, 1))
        yield item, result


def _groups(prepared: Iterable[tuple[Item, _Prepared | ImageError]], embedder: Embedder) -> Iterator[_Group[Item]]:
    """Gather items until the model has a full batch to do."""
    group: _Group[Item] = []
    unknown = 0
    for item, result in prepared:
        group.append((item, result))
        unknown += isinstance(result, _Prepared) and result.vector is None
        if unknown == embedder.batch_size or len(group) == _KNOWN_BATCHES * embedder.batch_size:
            yield group
            group, unknown = [], 0
    if group:
        yield group


def _prepare(
    image: ImageLike, embedder: Embedder, thumbnail_pixels: int | None, features: FeatureCache | None
) -> _Prepared:
    digest = content_digest(image) if features or thumbnail_pixels else None
    name = str(image) if isinstance(image, str | Path) else "the picture"
    vector = features.get(digest) if features and digest else None
    if vector is not None and not thumbnail_pixels:
        return _Prepared(name, digest, b"", None, vector)
    picture = decode(image)
    small = thumbnail(picture, longest_side=thumbnail_pixels) if thumbnail_pixels else b""
    return _Prepared(name, digest, small, embedder.prepare(picture) if vector is None else None, vector)


def _embed(
    embedder: Checked, group: _Group[Item], thumbnails: bool, features: FeatureCache | None
) -> EmbeddedBatch[Item]:
    prepared = [(item, result) for item, result in group if isinstance(result, _Prepared)]
    made = _vectors_of([result for _, result in prepared], embedder, features)
    good = [(item, result, vector) for (item, result), vector in zip(prepared, made, strict=True) if vector is not None]
    vectors = np.empty((len(good), embedder.identity.dimension), np.float32)
    for row, (_, _, vector) in enumerate(good):
        vectors[row] = vector
    failed = iter(made)
    return EmbeddedBatch(
        items=[item for item, _, _ in good],
        vectors=vectors,
        thumbnails=[result.thumbnail for _, result, _ in good] if thumbnails else [],
        digests=[result.digest for _, result, _ in good] if thumbnails else [],
        failures=[
            Failure(item, result if isinstance(result, ImageError) else _without_vector(result))
            for item, result in group
            if isinstance(result, ImageError) or next(failed) is None
        ],
    )


def _vectors_of(
    prepared: list[_Prepared], embedder: Checked, features: FeatureCache | None
) -> list[Float[np.ndarray, " dimension"] | None]:
    """Return the vectors of pictures, computing what is not known; None where there is none."""
    vectors = [result.vector for result in prepared]
    unknown = [row for row, result in enumerate(prepared) if result.pixels is not None]
    if unknown:
        pixels = _stacked([pixels for result in prepared if (pixels := result.pixels) is not None], embedder)
        try:
            made, unusable = embedder.embed(pixels), set[int]()
        except UnusableVectors as error:
            made, unusable = error.vectors, set(error.rows)
        for place, row in enumerate(unknown):
            vectors[row] = None if place in unusable else made[place]
        if features:
            computed = ((prepared[row].digest, vectors[row]) for row in unknown)
            features.put({digest: vector for digest, vector in computed if digest and vector is not None})
    return vectors


def _stacked(
    pictures: list[UInt8[np.ndarray, "height width 3"]], embedder: Checked
) -> UInt8[np.ndarray, "batch height width 3"]:
    shapes = {picture.shape for picture in pictures}
    if len(shapes) > 1:
        one, other, *_ = sorted(shapes)
        raise EmbedderError(
            f"{embedder.identity.name} prepares pictures of several shapes, such as {one} and {other}: one shape for"
            " all expected"
        )
    return np.stack(pictures)


def _without_vector(result: _Prepared) -> ImageError:
    return ImageError(
        f"what the model gives for {result.name} is zero or not finite, in float32 too, and no vector: leave it out"
    )
