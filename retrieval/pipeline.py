"""Pictures to vectors without waiting: decoded in threads ahead of the model, embedded in batches, order kept."""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from jaxtyping import Float, UInt8

from retrieval.embedders.base import Embedder
from retrieval.errors import ImageError
from retrieval.features import FeatureCache, content_digest
from retrieval.images import ImageLike, decode, thumbnail

Item = TypeVar("Item")
_DECODED_BATCHES = 3  # ahead of the model
_MODEL_THREADS = 2  # one stacks a batch, or feeds a GPU, while the other computes
_KNOWN_BATCHES = 2  # a group of pictures whose features are mostly known grows to no more batches than these


@dataclass(frozen=True, slots=True)
class Failure(Generic[Item]):
    """An item whose picture cannot be used, and why."""

    item: Item
    error: ImageError


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

    def prepare(item: Item) -> _Prepared | ImageError:
        try:
            return _prepare(image_of(item), embedder, thumbnail_pixels, features)
        except ImageError as error:
            return error

    decoders = ThreadPoolExecutor(threads or os.cpu_count(), thread_name_prefix="decode")
    model = ThreadPoolExecutor(_MODEL_THREADS, thread_name_prefix="embed")
    try:
        embedding: deque[Future[EmbeddedBatch[Item]]] = deque()
        for group in _groups(_ahead(decoders, prepare, items, _DECODED_BATCHES * embedder.batch_size), embedder):
            embedding.append(model.submit(_embed, embedder, group, bool(thumbnail_pixels), features))
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
    vector = features.get(digest) if features and digest else None
    if vector is not None and not thumbnail_pixels:
        return _Prepared(digest, b"", None, vector)
    picture = decode(image)
    small = thumbnail(picture, longest_side=thumbnail_pixels) if thumbnail_pixels else b""
    return _Prepared(digest, small, embedder.prepare(picture) if vector is None else None, vector)


def _embed(
    embedder: Embedder, group: _Group[Item], thumbnails: bool, features: FeatureCache | None
) -> EmbeddedBatch[Item]:
    good = [(item, result) for item, result in group if isinstance(result, _Prepared)]
    vectors = np.empty((len(good), embedder.identity.dimension), np.float32)
    unknown = [row for row, (_, result) in enumerate(good) if result.vector is None]
    if unknown:
        pixels = [good[row][1].pixels for row in unknown]
        vectors[unknown] = embedder.embed(np.stack([some for some in pixels if some is not None]))
        if features:
            digests = ((row, good[row][1].digest) for row in unknown)
            features.put({digest: vectors[row] for row, digest in digests if digest})
    for row, (_, result) in enumerate(good):
        if result.vector is not None:
            vectors[row] = result.vector
    return EmbeddedBatch(
        items=[item for item, _ in good],
        vectors=vectors,
        thumbnails=[result.thumbnail for _, result in good] if thumbnails else [],
        digests=[result.digest for _, result in good] if thumbnails else [],
        failures=[Failure(item, result) for item, result in group if isinstance(result, ImageError)],
    )
