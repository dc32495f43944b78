"""Time and space: by a clock that ticks as told, and by sizes that are known."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.experiments.embedded import Embedded
from eval.experiments.latency_storage import OnDisk, feature_bytes, latency_storage, median_seconds, recall
from eval.report.plots import as_png
from retrieval.embedders.base import foreign_vectors
from retrieval.errors import InvalidArgument
from retrieval.memory import VisualMemory


def ticking(*seconds: float) -> Callable[[], float]:
    """Return a clock by which one piece of work after the other takes so many seconds; the last for ever."""
    now, left = [0.0], list(seconds)
    started = [False]

    def clock() -> float:
        if started[0]:
            now[0] += left.pop(0) if len(left) > 1 else left[0]
        started[0] = not started[0]
        return now[0]

    return clock


@pytest.fixture
def embedded(random_vectors: Callable[..., np.ndarray]) -> Embedded:
    return Embedded(
        name="val",
        embedder="made",
        item_ids=[f"item {row}" for row in range(64)],
        vectors=random_vectors(64, 8),
        labels=np.arange(64) % 3,
        label_names=["a", "b", "c"],
        query_ids=["one", "two", "three", "four", "five"],
        queries=random_vectors(5, 8, seed=1),
        truths=[frozenset("a")] * 5,
    )


def test_the_median_counts_and_the_warm_up_does_not() -> None:
    calls: list[int] = []
    assert median_seconds(lambda: calls.append(1), runs=3, clock=ticking(9.0, 1.0, 2.0)) == 2.0
    assert len(calls) == 4


def test_times_are_those_of_the_clock_a_query(embedded: Embedded) -> None:
    row = latency_storage(embedded, sizes=[64], kinds=["exact"], runs=1, clock=ticking(0.5)).rows[0]
    # Half a second each: for one query, for a batch of five, for the votes of five, and for the index.
    assert row[:9] == ("made", "exact", 64, 500.0, 100.0, 10, 100.0, 100.0, 0.5)


def test_every_size_has_a_row_for_every_index_and_sizes_grow_by_four(embedded: Embedded) -> None:
    analysis = latency_storage(embedded, kinds=["exact"], runs=1)
    assert [row[2] for row in analysis.rows[:4]] == [1, 4, 16, 64]
    assert all(len(row) == len(analysis.columns) for row in analysis.rows)
    assert as_png(analysis.draw())[:4] == b"\x89PNG"


def test_features_take_four_or_two_bytes_a_number_and_a_share_of_the_pictures(embedded: Embedded) -> None:
    row = latency_storage(embedded, sizes=[16], kinds=["exact"], runs=1, on_disk=OnDisk(pictures=64 * 1000)).rows[0]
    assert row[9:] == (round(16 * 8 * 4 / 1e6, 2), round(16 * 8 * 2 / 1e6, 2), round(16_000 / 1e6, 2), 3.2)


@pytest.mark.parametrize(
    ("dimension", "gigabytes", "megabytes"), [(1024, 4.9, 197), (768, 3.7, 148), (384, 1.9, 75), (512, 2.5, 100)]
)
def test_the_papers_sizes_are_float32_in_binary_units_with_some_bytes_an_item(
    dimension: int, gigabytes: float, megabytes: float
) -> None:
    train, val = (feature_bytes(items, dimension, bytes_a_number=4) + 40 * items for items in (1_281_167, 50_000))
    assert round(train / 2**30, 1) == gigabytes
    assert val / 2**20 == pytest.approx(megabytes, abs=1)


def test_the_papers_rows_are_one_to_three_percent_of_the_pictures(embedded: Embedded) -> None:
    rows = [row for row in latency_storage(embedded, sizes=[4], runs=1).rows if "(paper)" in str(row[0])]
    shares = [row[12] for row in rows]
    assert len(shares) == 5 and all(isinstance(share, float) and 1 <= share <= 3.2 for share in shares)


def test_recall_counts_the_true_neighbours_in_any_order() -> None:
    assert recall(np.array([[3, 1, 2], [4, 9, 8]]), np.array([[1, 2, 3], [4, 5, 6]])) == pytest.approx(400 / 6)


@pytest.mark.parametrize("options", [{"runs": 0}, {"sizes": [0]}, {"sizes": [65]}, {"sizes": []}])
def test_impossible_runs_and_sizes_are_refused(embedded: Embedded, options: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument, match="sizes from 1 to 64 expected"):
        latency_storage(embedded, **options)  # type: ignore[arg-type]


def test_the_sizes_on_disk_are_those_of_the_files(built: Path, pictures: Path) -> None:
    sizes = OnDisk.of(VisualMemory.open(built))
    assert sizes.pictures == sum(path.stat().st_size for path in pictures.rglob("*.png"))
    assert sizes.table and sizes.table >= sum(path.stat().st_size for path in (built / "items.lance").rglob("*.lance"))


def test_pictures_that_are_gone_have_no_size(tmp_path: Path) -> None:
    memory = VisualMemory.create(tmp_path / "m", embedder=foreign_vectors("made", 4), built_from=str(tmp_path))
    memory.add_vectors(["gone.png"], ["a"], np.eye(1, 4))
    assert OnDisk.of(memory).pictures is None
    Image.new("RGB", (4, 4)).save(tmp_path / "gone.png")
    assert OnDisk.of(memory).pictures == (tmp_path / "gone.png").stat().st_size
