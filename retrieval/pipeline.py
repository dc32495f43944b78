"""Pictures to vectors without waiting: decoded in threads ahead of the model, embedded in batches, order kept."""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from jaxtyping import Float

from retrieval.embedders.base import Embedder
from retrieval.errors import ImageError
from retrieval.images import ImageLike, decode, thumbnail

Item = TypeVar("Item")
_BATCHES_AHEAD = 3


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
    failures: list[Failure[Item]]


def embed_images(
    items: Iterable[Item],
    embedder: Embedder,
    *,
    image_of: Callable[[Item], ImageLike],
    thumbnail_pixels: int | None = None,
    threads: int | None = None,
) -> Iterator[EmbeddedBatch[Item]]:
    """Yield the items in batches with their vectors; a bad picture becomes a `Failure`, never an end.

    Memory stays the same however many items come: at most three batches are decoded ahead of the model.
    """

    def prepare(item: Item) -> tuple[np.ndarray, bytes] | ImageError:
        try:
            picture = decode(image_of(item))
        except ImageError as error:
            return error
        small = thumbnail(picture, longest_side=thumbnail_pixels) if thumbnail_pixels else b""
        return embedder.prepare(picture), small

    remaining = iter(items)
    pending: deque[tuple[Item, Future[tuple[np.ndarray, bytes] | ImageError]]] = deque()
    pool = ThreadPoolExecutor(threads or os.cpu_count(), thread_name_prefix="decode")
    try:
        while True:
            room = _BATCHES_AHEAD * embedder.batch_size - len(pending)
            pending.extend((item, pool.submit(prepare, item)) for item in itertools.islice(remaining, room))
            if not pending:
                return
            taken = [pending.popleft() for _ in range(min(embedder.batch_size, len(pending)))]
            yield _embed(embedder, [(item, future.result()) for item, future in taken], bool(thumbnail_pixels))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _embed(
    embedder: Embedder, prepared: list[tuple[Item, tuple[np.ndarray, bytes] | ImageError]], thumbnails: bool
) -> EmbeddedBatch[Item]:
    good = [(item, result) for item, result in prepared if not isinstance(result, ImageError)]
    if good:
        vectors = embedder.embed(np.stack([pixels for _, (pixels, _) in good]))
    else:
        vectors = np.empty((0, embedder.identity.dimension), np.float32)
    return EmbeddedBatch(
        items=[item for item, _ in good],
        vectors=vectors,
        thumbnails=[small for _, (_, small) in good] if thumbnails else [],
        failures=[Failure(item, result) for item, result in prepared if isinstance(result, ImageError)],
    )
