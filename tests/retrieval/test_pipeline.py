"""The pipeline keeps order and sets bad pictures apart, without running ahead of the model."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from retrieval.embedders import load_embedder
from retrieval.embedding import embed_images
from retrieval.errors import NotAnImage
from retrieval.images import decode
from tests.conftest import draw


def test_order_is_kept_and_bad_pictures_are_set_apart(checkpoint: Path) -> None:
    embedder = load_embedder(str(checkpoint))
    items = [(number, b"bad" if number % 7 == 3 else draw((9 * number, 0, 0), number % 6)) for number in range(25)]
    batches = list(embed_images(items, embedder, image_of=lambda item: item[1], thumbnail_pixels=16))
    good = [item for batch in batches for item in batch.items]
    assert [number for number, _ in good] == [number for number in range(25) if number % 7 != 3]
    assert [f.item[0] for batch in batches for f in batch.failures] == [3, 10, 17, 24]
    assert all(isinstance(f.error, NotAnImage) for batch in batches for f in batch.failures)
    vectors = np.concatenate([batch.vectors for batch in batches])
    alone = np.concatenate([embedder.embed(embedder.prepare(decode(picture))[None]) for _, picture in good])
    assert np.allclose(vectors, alone, atol=1e-5)
    assert sum(len(batch.thumbnails) for batch in batches) == len(good)


def test_an_endless_source_is_read_only_a_few_batches_ahead(checkpoint: Path) -> None:
    embedder = load_embedder(str(checkpoint))
    taken = 0

    def endless() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken

    batches = embed_images(endless(), embedder, image_of=lambda number: draw((0, 0, 0), number % 6))
    next(batches)
    batches.close()  # type: ignore[attr-defined]  # of a generator
    assert taken <= 5 * embedder.batch_size  # three decoded, two in the model's hands


def test_a_batch_of_bad_pictures_alone_has_no_vectors(checkpoint: Path) -> None:
    (batch,) = embed_images([b"", b"x"], load_embedder(str(checkpoint)), image_of=lambda item: item)
    assert batch.vectors.shape == (0, 32) and len(batch.failures) == 2
