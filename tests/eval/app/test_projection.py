"""The map of a memory, and work that pages wait for."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from eval.app.context import Job, Jobs
from eval.app.map_page import colour_classes, draw_sample, lay_out, nearest_classes, project
from retrieval import VisualMemory
from retrieval.curation.pruning import keep_ledger
from retrieval.embedders.base import foreign_vectors
from retrieval.errors import InvalidArgument


def clusters(classes: int, each: int, dimension: int = 16) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(classes, dimension))
    vectors = np.repeat(centres, each, axis=0) + 0.1 * draw.normal(size=(classes * each, dimension))
    labels = np.repeat(np.array([f"class {number}" for number in range(classes)], object), each)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), labels


def test_items_of_a_class_lie_beside_each_other_on_the_map() -> None:
    vectors, labels = clusters(4, 30)
    places = lay_out(vectors)
    assert places.shape == (120, 2) and places.min() == 0 and places.max() == 1
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert (labels[apart.argmin(axis=1)] == labels).all()


def test_the_map_of_the_same_vectors_is_the_same() -> None:
    vectors, _ = clusters(3, 10)
    assert np.array_equal(lay_out(vectors), lay_out(vectors))


@pytest.mark.parametrize(
    "vectors",
    [np.ones((5, 4), np.float32) / 2, np.eye(3, dtype=np.float32), np.eye(8, 1, dtype=np.float32)],
    ids=["all the same", "three items", "one dimension"],
)
def test_a_map_of_little_is_drawn_all_the_same(vectors: np.ndarray) -> None:
    assert np.isfinite(lay_out(vectors)).all()


def test_a_sample_is_drawn_once_and_for_all_and_is_everything_where_that_fits() -> None:
    sample = draw_sample(10_000, 50)
    assert len(set(sample.tolist())) == 50 and (np.diff(sample) > 0).all()
    assert np.array_equal(sample, draw_sample(10_000, 50))
    assert draw_sample(7, 50).tolist() == list(range(7))


def test_each_class_is_told_its_nearest_and_how_many_go_astray() -> None:
    vectors = np.array([[1, 0, 0], [1, 0, 0], [0.8, 0.6, 0], [0.8, 0.6, 0], [0, 0, 1], [1, 0, 0]], np.float32)
    labels = np.array(["a", "a", "b", "b", "c", "c"], object)
    near = {one.label: one for one in nearest_classes(vectors, labels)}
    assert (near["a"].other, near["b"].other) == ("b", "a")
    assert near["a"].distance == pytest.approx(0.2, abs=1e-6)
    assert {label: one.astray for label, one in near.items()} == {"a": 0, "b": 0, "c": 1}
    assert nearest_classes(vectors[:2], labels[:2]) == []


def test_the_largest_classes_have_a_colour_each_and_the_others_one_together() -> None:
    places = colour_classes(["a", "b", "c", "b", "c", "c", "d"], most=2)
    assert places == {"c": [2, 4, 5], "b": [1, 3], "": [0, 6]}


def test_a_memory_is_projected_and_says_what_it_left_out(tmp_path: Path) -> None:
    vectors, labels = clusters(3, 20)
    memory = VisualMemory.create(tmp_path / "memory", embedder=foreign_vectors("made", 16))
    memory.add_vectors([f"item {number}" for number in range(60)], labels.tolist(), vectors)
    shown = project(memory.snapshot(), most=30)
    assert len(shown.ids) == len(shown.labels) == len(shown.places) == 30 and shown.left_out == 30
    assert sum(one.items for one in shown.near) == 60


def test_a_map_of_two_items_is_refused(tmp_path: Path) -> None:
    memory = VisualMemory.create(tmp_path / "memory", embedder=foreign_vectors("made", 4))
    memory.add_vectors(["a", "b"], ["x", "y"], np.eye(2, 4, dtype=np.float32))
    with pytest.raises(InvalidArgument, match="a map of 2 items says nothing"):
        project(memory.snapshot())


def ended(job: Job) -> Job:
    end = time.monotonic() + 30
    while not job.ended:
        assert time.monotonic() < end
        time.sleep(0.01)
    return job


def test_work_is_done_once_for_a_version_whoever_asks() -> None:
    jobs, turns, gate = Jobs(), [], threading.Event()

    def work() -> int:
        gate.wait(30)
        turns.append(1)
        return len(turns)

    first = jobs.start("map", "v1", work)
    assert jobs.start("map", "v1", work) is first and not first.ended
    gate.set()
    assert ended(first).result == 1
    assert jobs.find("map", "v1") is first and jobs.find("map", "v2") is None
    assert ended(jobs.start("map", "v2", work)).result == 2


def test_work_that_fails_says_so_in_a_sentence_and_is_tried_again() -> None:
    jobs, outcomes = Jobs(), iter([InvalidArgument("too few items: add some"), None])

    def work() -> str:
        if error := next(outcomes):
            raise error
        return "done"

    assert ended(jobs.start("map", "v1", work)).error == "too few items: add some"
    assert ended(jobs.start("map", "v1", work)).result == "done"


def test_an_error_of_ours_does_not_show_its_inside() -> None:
    def work() -> None:
        raise ZeroDivisionError("secret")

    assert "secret" not in ended(Jobs().start("map", "v1", work)).error


def test_work_tells_how_far_it_is(tmp_path: Path, random_vectors: Callable[[int, int], np.ndarray]) -> None:
    memory = VisualMemory.create(tmp_path / "memory", embedder=foreign_vectors("made", 8))
    memory.add_vectors([f"{number}" for number in range(40)], ["a", "b"] * 20, random_vectors(40, 8))
    job = ended(Jobs().start("worst", "v1", lambda: keep_ledger(memory.snapshot(), neighbors=5, progress=False)))
    assert (job.what, job.part) == ("Asking about each item", 0.0)
