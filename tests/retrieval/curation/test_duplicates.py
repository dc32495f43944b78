"""Twins within a memory, and between queries and a memory."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retrieval import VisualMemory
from retrieval.curation.duplicates import QueryBatch, find_duplicates, find_leaks, open_queries
from retrieval.embedders.base import foreign_vectors
from retrieval.errors import EmbedderMismatch, FolderError, InvalidArgument


def turned(degrees: float) -> np.ndarray:
    """Return a unit vector in a plane; two that are x degrees apart have the distance 1 - cos(x)."""
    radians = np.radians(degrees)
    return np.array([np.cos(radians), np.sin(radians), 0.0], np.float32)


@pytest.fixture
def memory(tmp_path: Path) -> VisualMemory:
    """Return a memory with a chain of three (0°, 5°, 10°), a pair (90°, 92°) and one alone (180°)."""
    made = VisualMemory.create(tmp_path / "m", embedder=foreign_vectors("test", 3))
    angles = {"a0": 0, "a5": 5, "b10": 10, "a90": 90, "a92": 92, "c180": 180}
    made.add_vectors(list(angles), [name[0] for name in angles], np.stack([turned(a) for a in angles.values()]))
    return made


def test_each_pair_comes_once_nearest_first(memory: VisualMemory) -> None:
    found = find_duplicates(memory, distance=0.005)  # 5.7 degrees
    pairs = [tuple(sorted((twin.id, twin.twin_id))) for twin in found.twins]
    assert pairs[0] == ("a90", "a92")
    assert sorted(pairs[1:]) == [("a0", "a5"), ("a5", "b10")]
    assert found.twins[0].distance == pytest.approx(1 - np.cos(np.radians(2)), abs=2e-4)
    assert [twin.same_label for twin in found.twins if "b10" in (twin.id, twin.twin_id)] == [False]


def test_groups_hang_together_by_twins(memory: VisualMemory) -> None:
    found = find_duplicates(memory, distance=0.005)
    assert [sorted(group) for group in found.groups] == [["a0", "a5", "b10"], ["a90", "a92"]]
    assert found.surplus == 3


def test_a_memory_without_twins_has_no_groups(memory: VisualMemory) -> None:
    assert find_duplicates(memory, distance=0.0).groups == []


def test_a_memory_of_one_picture_has_no_twins(tmp_path: Path) -> None:
    made = VisualMemory.create(tmp_path / "one", embedder=foreign_vectors("test", 3))
    made.add_vectors(["a"], ["x"], np.ones((1, 3)))
    assert find_duplicates(made).twins == []


def test_more_copies_than_neighbours_are_one_group(tmp_path: Path) -> None:
    made = VisualMemory.create(tmp_path / "many", embedder=foreign_vectors("test", 3))
    made.add_vectors([str(row) for row in range(50)], ["x"] * 50, np.tile(turned(3), (50, 1)))
    assert [len(group) for group in find_duplicates(made, k=3).groups] == [50]


def test_the_same_file_is_named_as_such(built: Path, pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "again" / "red"
    folder.mkdir(parents=True)
    (folder / "copy.png").write_bytes((pictures / "blue" / "1.png").read_bytes())
    with Image.open(pictures / "blue" / "2.png") as image:
        image.save(folder / "saved.jpg", quality=95)
    opened = VisualMemory.open(built)
    queries = open_queries(opened, folder.parent, progress=False)
    leaks = find_leaks(opened, queries.batches(), distance=1e-4, k=18)
    exact = [leak for leak in leaks if leak.exact]
    assert [(leak.id, leak.twin_id, leak.same_label) for leak in exact] == [("red/copy.png", "blue/1.png", False)]
    assert leaks[0] == exact[0]


def test_the_same_content_is_found_beyond_the_neighbours_looked_at(
    pictures: Path, checkpoint: Path, tmp_path: Path
) -> None:
    made = VisualMemory.create(tmp_path / "m", embedder=str(checkpoint))
    made.add_folder(pictures, progress=False)
    made.add_folder(pictures, id_prefix="again/", progress=False)
    exact = [twin for twin in find_duplicates(made, distance=0.0, k=1, progress=False).twins if twin.exact]
    assert sorted((twin.id, twin.twin_id) for twin in exact) == sorted(
        (id_, f"again/{id_}") for id_ in made.snapshot().ids.tolist() if not id_.startswith("again/")
    )


def test_a_memory_is_compared_with_another(memory: VisualMemory, tmp_path: Path) -> None:
    other = VisualMemory.create(tmp_path / "other", embedder=foreign_vectors("test", 3))
    other.add_vectors(["q1", "q60"], ["a", "z"], np.stack([turned(1), turned(60)]))
    leaks = find_leaks(memory, open_queries(memory, tmp_path / "other", progress=False).batches(), distance=0.001)
    assert [(leak.id, leak.twin_id) for leak in leaks] == [("q1", "a0")]


def test_queries_of_features_and_of_a_manifest_are_taken(built: Path, pictures: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    opened = VisualMemory.open(built)
    listing = tmp_path / "list.csv"
    listing.write_text(f"id,label,path\nq,red,{pictures / 'red' / '0.png'}\nnone,red,missing.png\n")
    queries = open_queries(opened, listing, progress=False)
    leaks = find_leaks(opened, queries.batches(), distance=1e-6, k=1)
    assert [(leak.id, leak.twin_id, leak.exact) for leak in leaks] == [("q", "red/0.png", True)]
    assert queries.total == 2 and [id_ for id_, _ in queries.unreadable] == ["none"]
    assert [picture is None for picture in queries.pictures(["q", "none"])] == [False, True]
    pq.write_table(pa.table({"id": ["f"], "label": ["x"], "vector": [[1.0] * 32]}), tmp_path / "features.parquet")
    with pytest.raises(EmbedderMismatch, match="was built by"):
        open_queries(opened, tmp_path / "features.parquet")
    with pytest.raises(FolderError, match="not there"):
        open_queries(opened, tmp_path / "nothing")


def test_a_view_without_some_items_is_refused(memory: VisualMemory) -> None:
    with pytest.raises(InvalidArgument, match="a view without some items cannot be compared"):
        find_duplicates(memory.without(["a0", "a5"]))
    assert find_duplicates(memory.at(memory.version), distance=0.005).surplus == 3


def test_out_of_range_is_refused(memory: VisualMemory) -> None:
    with pytest.raises(InvalidArgument, match="distance 3"):
        find_duplicates(memory, distance=3.0)
    with pytest.raises(InvalidArgument, match="k=0"):
        find_leaks(memory, [QueryBatch(["q"], ["x"], turned(0)[None], [None])], k=0)
