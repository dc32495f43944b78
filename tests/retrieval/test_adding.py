"""Adding: what goes in takes part at once, once, whole, whatever comes with it."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval import VisualMemory
from retrieval.edits import AddReport
from retrieval.embedders.base import foreign_vectors
from retrieval.errors import (
    DuplicateId,
    InvalidArgument,
)
from retrieval.images import decode
from retrieval.sources import Item
from tests.conftest import COLOURS, draw


@pytest.fixture
def memory(tmp_path: Path, checkpoint: Path) -> VisualMemory:
    return VisualMemory.create(tmp_path / "memory", embedder=str(checkpoint))


@pytest.fixture
def vectors_only(tmp_path: Path) -> VisualMemory:
    return VisualMemory.create(tmp_path / "vectors", embedder=foreign_vectors("mine", 3))


def test_new_items_and_classes_take_part_in_the_next_search(memory: VisualMemory) -> None:
    assert memory.add([("a", "red", draw((200, 0, 0), 1))]) == AddReport(added=1)
    memory.search(draw((0, 0, 200), 2), k=1)
    memory.add([("b", "blue", draw((0, 0, 200), 2))])
    assert memory.search(draw((0, 0, 200), 2), k=1)[0][0].label == "blue"
    assert {n.id for n in VisualMemory.open(memory.path).search(draw((0, 0, 0), 1), k=2)[0]} == {"a", "b"}


def test_an_id_that_is_there_is_skipped_unless_said_otherwise(memory: VisualMemory) -> None:
    red, blue = draw((200, 0, 0), 1), draw((0, 0, 200), 1)
    memory.add([("a", "red", red)])
    assert memory.add([("a", "blue", blue), ("b", "blue", blue), ("b", "red", red)]) == AddReport(added=1, skipped=2)
    assert memory.stats().labels == {"blue": 1, "red": 1}


def test_an_id_that_is_there_can_be_replaced(memory: VisualMemory) -> None:
    memory.add([("a", "red", draw((200, 0, 0), 1)), ("b", "red", draw((200, 0, 0), 2))])
    changed = [("a", "blue", draw((0, 0, 200), 1)), ("a", "green", draw((0, 200, 0), 1))]
    report = memory.add(changed, on_duplicate="replace")
    assert (report.added, report.replaced, len(memory)) == (0, 1, 2)
    assert memory.search(draw((0, 200, 0), 1), k=1)[0][0].label == "green"


def test_an_id_that_is_there_can_be_an_error(memory: VisualMemory) -> None:
    memory.add([("a", "red", draw((200, 0, 0), 1))])
    with pytest.raises(DuplicateId, match="there already or come twice: a;") as caught:
        memory.add([("a", "red", draw((200, 0, 0), 1))], on_duplicate="error")
    assert caught.value.ids == ("a",)


def test_an_unknown_choice_for_duplicates_is_refused(memory: VisualMemory) -> None:
    with pytest.raises(InvalidArgument, match="on_duplicate='keep': choose one of skip, replace, error"):
        memory.add([], on_duplicate="keep")


def test_items_of_an_endless_source_are_committed_while_it_runs(memory: VisualMemory) -> None:
    drawn = 0

    def endless() -> Iterator[Item]:
        nonlocal drawn
        while True:
            if drawn == 1200:
                raise KeyboardInterrupt
            drawn += 1
            yield Item(str(drawn), "red", draw((200, 0, 0), drawn % 6))

    with pytest.raises(KeyboardInterrupt):
        memory.add(endless())
    assert len(VisualMemory.open(memory.path)) > 0


def test_threads_read_one_whole_version_while_items_are_replaced(vectors_only: VisualMemory) -> None:
    vectors = np.random.default_rng(0).normal(size=(200, 3))
    names = [str(number) for number in range(200)]
    vectors_only.add_vectors(names, names, vectors)
    finished = threading.Event()

    def count_wrong() -> int:
        wrong = 0
        while not finished.is_set():
            found = vectors_only.search_vectors(vectors[:20], k=1)
            wrong += int((found.ids[:, 0] != names[:20]).sum() + (found.labels[:, 0] != names[:20]).sum())
        return wrong

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(count_wrong) for _ in range(2)]
        try:
            for name in names[:15]:  # by the same vector and label: no answer may change
                vectors_only.add_vectors([name], [name], vectors[int(name)][None], on_duplicate="replace")
        finally:
            finished.set()
        assert [reader.result() for reader in readers] == [0, 0]


@pytest.mark.parametrize("item", [("id", "label"), {"id": "a"}, "abc", None])
def test_what_is_no_item_is_refused(memory: VisualMemory, item: object) -> None:
    with pytest.raises(InvalidArgument, match=r"as an item: Item or \(id, label, picture\) expected"):
        memory.add([item])  # type: ignore[list-item]


def test_a_bad_picture_costs_one_line_and_not_its_batch(memory: VisualMemory) -> None:
    report = memory.add([("good", "red", draw((200, 0, 0), 1)), ("bad", "red", b"no picture"), ("empty", "red", b"")])
    assert report.added == 1
    assert [id_ for id_, _ in report.unreadable] == ["bad", "empty"]


def test_thumbnails_are_small_pictures_without_metadata(tmp_path: Path, checkpoint: Path) -> None:
    memory = VisualMemory.create(tmp_path / "m", embedder=str(checkpoint), thumbnail_pixels=40)
    memory.add([("a", "red", draw((200, 0, 0), 1, (300, 150)))])
    (small,) = memory.thumbnails(["a"])
    assert small is not None and decode(small).size == (40, 20)


def test_ready_features_are_scaled_and_found(vectors_only: VisualMemory) -> None:
    vectors = np.array([[2, 0, 0], [0, 3, 0], [0, 0, 0.5]])
    assert vectors_only.add_vectors(["x", "y", "z"], ["a", "b", "c"], vectors).added == 3
    found = vectors_only.search_vectors(np.array([[0, 9.0, 1]]), k=2)
    assert found.ids.tolist() == [["y", "z"]]
    assert found.distances[0, 0] == pytest.approx(1 - 9 / np.hypot(9, 1), abs=1e-6)
    assert vectors_only.thumbnails(["y", "absent"]) == [None, None]


def test_ready_features_keep_the_rules_for_duplicates(vectors_only: VisualMemory) -> None:
    def one(x: float) -> np.ndarray:
        return np.array([[x, 1.0, 0]])

    vectors_only.add_vectors(["x"], ["a"], one(0))
    assert vectors_only.add_vectors(["x", "y", "y"], ["b", "b", "c"], np.eye(3)) == AddReport(added=1, skipped=2)
    assert vectors_only.stats().labels == {"a": 1, "b": 1}
    replaced = vectors_only.add_vectors(["x"], ["z"], one(1), on_duplicate="replace")
    assert replaced == AddReport(replaced=1) and vectors_only.stats().labels == {"b": 1, "z": 1}
    with pytest.raises(DuplicateId, match="come twice: y;"):
        vectors_only.add_vectors(["new", "y"], ["a", "a"], np.eye(3)[:2], on_duplicate="error")
    assert len(vectors_only) == 2


@pytest.mark.parametrize(
    ("ids", "labels", "vectors", "message"),
    [
        (["a"], ["x"], np.ones((1, 4)), "got vectors of 4 dimensions: the memory holds 3"),
        (["a"], ["x"], np.zeros((1, 3)), "vector 0 is zero or not finite"),
        (["a"], ["x"], np.full((1, 3), np.nan), "vector 0 is zero or not finite"),
        (["a", "b"], ["x"], np.ones((2, 3)), "got 2 ids, 1 labels and 2 vectors"),
    ],
)
def test_features_that_do_not_fit_are_refused(
    vectors_only: VisualMemory, ids: list[Any], labels: list[Any], vectors: np.ndarray, message: str
) -> None:
    with pytest.raises(InvalidArgument, match=message):
        vectors_only.add_vectors(ids, labels, vectors)
    assert len(vectors_only) == 0


def test_a_memory_of_ready_features_asks_to_be_searched_by_vectors(vectors_only: VisualMemory) -> None:
    vectors_only.add_vectors(["x"], ["a"], np.ones((1, 3)))
    with pytest.raises(InvalidArgument, match=r"vectors made elsewhere \(mine\): search it by vectors"):
        vectors_only.search(draw((0, 0, 0), 1), k=1)


def test_an_empty_memory_says_how_to_fill_it(memory: VisualMemory) -> None:
    with pytest.raises(InvalidArgument, match="the memory is empty: add pictures"):
        memory.search(draw((0, 0, 0), 1), k=1)


def test_a_memory_opened_before_another_wrote_to_it_adds_nothing_twice(vectors_only: VisualMemory) -> None:
    earlier = VisualMemory.open(vectors_only.path)
    vectors_only.add_vectors(["x", "y"], ["a", "a"], np.eye(3)[:2])
    assert earlier.add_vectors(["x", "z"], ["b", "b"], np.eye(3)[:2]) == AddReport(added=1, skipped=1)
    assert earlier.stats().labels == {"a": 2, "b": 1}


def test_thumbnails_go_by_id_when_rows_have_moved(memory: VisualMemory) -> None:
    memory.add([(label, label, draw(colour, 1)) for label, colour in COLOURS.items()])
    (before,) = memory.search(draw(COLOURS["red"], 1), k=3)
    memory.add([("red", "red", draw((0, 0, 0), 1))], on_duplicate="replace")
    rows = [neighbor.row for neighbor in before]
    ids = [neighbor.id for neighbor in before]
    pictures = [decode(small).getpixel((2, 40)) for small in memory.thumbnails(ids, rows=rows) if small]
    wanted = [(0, 0, 0) if id_ == "red" else COLOURS[id_] for id_ in ids]
    assert np.abs(np.array(pictures) - wanted).max() < 12
