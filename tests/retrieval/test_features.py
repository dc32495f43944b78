"""No picture is embedded twice, and a cache that fails costs nothing but time."""

import hashlib
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import diskcache
import numpy as np
import pytest

from retrieval import VisualMemory
from retrieval.embedders import load_embedder
from retrieval.embedders.base import Embedder, EmbedderIdentity, Execution
from retrieval.embedding import FeatureCache, cached_features, content_digest, embed_images
from retrieval.erasing.secrets import Forgotten, Marks
from retrieval.erasing.traces import FeatureTraces
from retrieval.errors import VisualMemoryWarning
from retrieval.support.cachedir import cache_folder
from tests.conftest import draw, save_dinov2

UNIT = np.full(32, 32**-0.5, np.float32)


class Counting:
    """An embedder that counts the pictures its model has seen."""

    def __init__(self, embedder: Embedder, identity: EmbedderIdentity) -> None:
        self.identity = identity
        self.execution = embedder.execution
        self.batch_size = 4
        self.prepare = embedder.prepare
        self._embedder = embedder
        self.seen = 0

    def embed(self, pixels: np.ndarray) -> np.ndarray:
        self.seen += len(pixels)
        return self._embedder.embed(pixels)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    """Return a small model, loaded once for all tests."""
    return load_embedder(str(save_dinov2(tmp_path_factory.mktemp("model"), seed=1)), precision="float32")


@pytest.fixture
def embedder(model: Embedder, tmp_path: Path) -> Iterator[Counting]:
    """Return it with an identity of its own, whose cache is empty, and which leaves none: it may be damaged."""
    digest = hashlib.sha256(str(tmp_path).encode()).hexdigest()
    made = Counting(model, replace(model.identity, weights_digest=digest))
    folder = FeatureCache(made.identity, made.execution).folder
    yield made
    shutil.rmtree(folder)


def test_a_second_memory_of_the_same_pictures_embeds_nothing(
    embedder: Counting, pictures: Path, tmp_path: Path
) -> None:
    first = VisualMemory.create(tmp_path / "first", embedder=embedder)
    first.add_folder(pictures)
    assert embedder.seen == 18
    relabelled = tmp_path / "relabelled" / "all"
    relabelled.mkdir(parents=True)
    for number, file in enumerate(sorted(pictures.glob("*/*.png"))):
        shutil.copy(file, relabelled / f"{number}.png")
    second = VisualMemory.create(tmp_path / "second", embedder=embedder)
    assert second.add_folder(relabelled.parent).added == 18
    assert embedder.seen == 18
    query = pictures / "red" / "1.png"
    assert np.allclose(first.search(query, k=18).distances, second.search(query, k=18).distances, atol=1e-6)
    assert all(picture for picture in second.thumbnails(["all/3.png", "all/17.png"]))
    assert embedder.seen == 18


def test_a_memory_can_be_kept_out_of_the_cache(embedder: Counting, pictures: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        VisualMemory.create(tmp_path / name, embedder=embedder, cache=False).add_folder(pictures)
    assert embedder.seen == 36


def test_known_and_new_pictures_come_in_their_order(embedder: Counting) -> None:
    numbers = list(range(40))
    features = FeatureCache(embedder.identity, embedder.execution)
    picture = [draw((6 * number, 200, 90), number % 6) for number in numbers]
    known = [number for number in numbers if number % 3]

    def embed(some: list[int]) -> np.ndarray:
        batches = list(embed_images(some, embedder, image_of=lambda number: picture[number], features=features))
        assert [item for batch in batches for item in batch.items] == some
        return np.concatenate([batch.vectors for batch in batches])

    before = embed(known)
    together = embed(numbers)
    assert embedder.seen == 40
    assert np.array_equal(together[known], before)


def test_features_are_shared_only_by_what_computes_alike(embedder: Counting) -> None:
    made = Execution("openvino", "bfloat16", "cpu", engine="openvino 1 on a processor")
    FeatureCache(embedder.identity, made).put({"a": UNIT})
    assert FeatureCache(embedder.identity, replace(made, reason="as asked for", agreement=0.99995)).get("a") is not None
    others = [
        replace(made, precision="float32"),
        replace(made, backend="torch"),
        replace(made, calibration="b"),
        replace(made, engine="openvino 2 on it"),
    ]
    for other in others:
        assert FeatureCache(embedder.identity, other).get("a") is None


def test_a_picture_is_known_by_its_bytes_or_its_pixels(tmp_path: Path) -> None:
    picture = draw((1, 2, 3), 4)
    picture.save(tmp_path / "one.png")
    shutil.copy(tmp_path / "one.png", tmp_path / "two.png")
    by_bytes = {content_digest(tmp_path / "one.png"), content_digest(str(tmp_path / "two.png"))}
    assert by_bytes == {content_digest((tmp_path / "one.png").read_bytes())}
    assert content_digest(picture) == content_digest(np.asarray(picture)) not in by_bytes
    assert content_digest(draw((1, 2, 4), 4)) != content_digest(picture)
    assert content_digest(tmp_path / "absent.png") is None and content_digest(tmp_path) is None


def test_a_damaged_cache_is_said_once_and_done_without(embedder: Counting, pictures: Path, tmp_path: Path) -> None:
    folder = FeatureCache(embedder.identity, embedder.execution).folder
    for file in folder.glob("cache.db*"):
        file.write_bytes(b"not a database at all" * 500)
    memory = VisualMemory.create(tmp_path / "memory", embedder=embedder)
    with pytest.warns(
        VisualMemoryWarning, match="features are not kept: .* `vmem cache clear` makes a new one"
    ) as said:
        assert memory.add_folder(pictures).added == 18
    assert len(said) == 1


def test_a_pickle_that_somebody_left_in_the_cache_is_not_loaded(embedder: Counting) -> None:
    folder = FeatureCache(embedder.identity, embedder.execution).folder
    with diskcache.Cache(str(folder), disk=diskcache.Disk) as ordinary:
        ordinary.set("a", {"a": "pickle"})
    with pytest.warns(VisualMemoryWarning, match="a value that this program did not write"):
        assert FeatureCache(embedder.identity, embedder.execution).get("a") is None


FORGOTTEN = Forgotten(frozenset({"one"}), frozenset({"one's file", "one, decoded"}), frozenset())


def test_values_that_are_damaged_or_anothers_stop_no_erasing_and_go_with_it(embedder: Counting) -> None:
    features = FeatureCache(embedder.identity, embedder.execution)
    features.put({"one's file": UNIT, "another": UNIT[::-1] * np.arange(1, 33)})
    with diskcache.Cache(str(features.folder), disk=diskcache.Disk) as ordinary:
        ordinary.set("one, decoded", {"a": "another program"})  # where the vector of a forgotten picture should be
        ordinary.set(("no", "text"), b"1")
        ordinary.set("large", "in a file of its own" * 10_000)
    with sqlite3.connect(features.folder / "cache.db") as database:
        database.execute("INSERT INTO Cache (key, raw, store_time, mode, value) VALUES ('third', 1, 0, 1, 'no bytes')")
    (file,) = features.folder.glob("*/*/*.val")
    traces, marks = FeatureTraces(), Marks.of(FORGOTTEN, b"salt")
    assert UNIT.tobytes() in traces.secrets(FORGOTTEN) and len(traces.remains(marks)) == 1
    assert traces.drop(FORGOTTEN) == 5
    assert traces.remains(marks) == [] and not file.exists()
    with FeatureCache(embedder.identity, embedder.execution)._store as left:
        assert list(left.iterkeys()) == ["another"]
    assert not any(b"another program" in kept.read_bytes() for kept in features.folder.glob("*.*"))


def test_a_vector_of_another_length_is_no_feature(embedder: Counting) -> None:
    features = FeatureCache(embedder.identity, embedder.execution)
    with sqlite3.connect(features.folder / "cache.db") as database:
        database.execute(
            "INSERT INTO Cache (key, raw, store_time, mode, value) VALUES ('a', 1, 0, 1, ?)", (b"\0" * 12,)
        )
    assert features.get("a") is None


@pytest.mark.parametrize("kept", [np.full(32, np.nan), np.full(32, np.inf), np.zeros(32), np.ones(32)])
def test_what_is_kept_and_has_not_length_1_is_no_feature(embedder: Counting, kept: np.ndarray) -> None:
    features = FeatureCache(embedder.identity, embedder.execution)
    features.put({"a": kept})
    assert features.get("a") is None


def test_what_is_kept_can_be_counted(embedder: Counting) -> None:
    FeatureCache(embedder.identity, embedder.execution).put({"a": UNIT})
    about = f"{embedder.identity.fingerprint}, float32 by {embedder.execution.engine}"
    assert [(count, size > 0) for what, count, size in cached_features() if what == about] == [(1, True)]
    assert cache_folder("features").is_dir()
