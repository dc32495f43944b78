"""What the query page counts, and how edits are undone, without a browser."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from eval.app.context import Edits, Kept, Thumbnails
from eval.app.query_page import MOST_NEIGHBORS, Inquiry, change, spoken, verdict
from retrieval import VisualMemory
from retrieval.errors import InvalidArgument, StorageError, UnknownItem
from retrieval.types import Neighbor, Votes


@pytest.fixture
def memory(built: Path, tmp_path: Path) -> VisualMemory:
    shutil.copytree(built, tmp_path / "memory")
    return VisualMemory.open(tmp_path / "memory")


@pytest.fixture
def vector(memory: VisualMemory) -> np.ndarray:
    return memory.snapshot().vectors()[:1]


def test_a_search_is_counted_for_every_k_as_a_search_of_its_own_would_be(
    memory: VisualMemory, vector: np.ndarray
) -> None:
    inquiry = Inquiry.make(memory, vector)
    assert inquiry.found.k == len(memory) < MOST_NEIGHBORS
    for k in (1, 7, 18):
        assert inquiry.count(k, "rank")[0] == memory.search_vectors(vector, k=k)[0]


def test_what_is_left_out_is_no_neighbour_and_unknown_ids_do_not_matter(
    memory: VisualMemory, vector: np.ndarray
) -> None:
    (nearest,) = Inquiry.make(memory, vector).count(1, "rank")[0]
    inquiry = Inquiry.make(memory, vector, without=[nearest.id, "not there"])
    assert nearest.id not in {neighbor.id for neighbor in inquiry.found[0]}
    assert len(inquiry.view) == len(memory) - 1


def test_leaving_all_out_is_refused(memory: VisualMemory, vector: np.ndarray) -> None:
    with pytest.raises(InvalidArgument, match="no picture of the memory is left"):
        Inquiry.make(memory, vector, without=memory.snapshot().ids.tolist())


def test_decisions_and_changes_are_told_in_words() -> None:
    votes = Votes(("dog", "cat"), (3.0, 1.0))
    assert verdict(votes, 4, "rank") == "dog: 75 % of the vote, 4 neighbours by rank voting"
    assert verdict(Votes(("dog",), (0.0,)), 1, "rank").startswith("dog: nobody has a vote")
    assert change(None, "dog") == ""
    assert change("dog", "dog") == "The decision stays dog."
    assert change("n01440764", "dog") == "The decision changed: tench (n01440764) → dog"
    assert spoken(3, Neighbor("id", "dog", 0.2149, 7)) == "Neighbour 3, dog, distance 0.21"


def test_edits_are_undone_one_by_one(memory: VisualMemory) -> None:
    before = labels_of(memory)
    first, second = memory.snapshot().ids[:2].tolist()
    edits = Edits(memory)
    edits.relabel(first, "new")
    edits.forget(second)
    assert labels_of(memory)[first] == "new" and second not in labels_of(memory)
    assert edits.undo().words == f"{second} forgotten"
    assert labels_of(memory) == before | {first: "new"}
    edits.undo()
    assert labels_of(memory) == before and edits.made == ()


def test_undoing_would_not_take_away_anothers_edit(memory: VisualMemory) -> None:
    first, second = memory.snapshot().ids[:2].tolist()
    edits = Edits(memory)
    edits.relabel(first, "new")
    VisualMemory.open(memory.path).relabel("theirs", ids=[second])
    with pytest.raises(StorageError, match=r"edited elsewhere since.*vmem memory checkout"):
        edits.undo()
    assert labels_of(memory)[second] == "theirs"


def test_an_edit_that_fails_is_no_edit(memory: VisualMemory) -> None:
    edits = Edits(memory)
    with pytest.raises(UnknownItem, match="nothing was changed"):
        edits.forget("not there")
    with pytest.raises(StorageError, match="nothing was edited here"):
        edits.undo()


def test_a_thumbnails_address_shows_the_same_after_an_edit(memory: VisualMemory) -> None:
    thumbnails = Thumbnails(memory)
    first, last = memory.snapshot().ids[[0, -1]].tolist()
    (address, missing) = thumbnails.urls([last, "not there"])
    assert address is not None and missing is None
    stamp, row = address.split("/")[2:]
    picture = thumbnails.read(stamp, int(row))
    assert picture == memory.thumbnails([last])[0]
    memory.forget(ids=[first])
    assert thumbnails.urls([last]) != [address]
    assert thumbnails.read(stamp, int(row)) == picture
    assert thumbnails.read(stamp, 10_000) is None


def test_the_oldest_things_make_room() -> None:
    kept = Kept[bytes](most=10, size=len)
    names = [kept.put(bytes(length)) for length in (4, 4, 4, 20)]
    assert [kept.get(name) for name in names] == [None, None, None, bytes(20)]
    assert kept.get("guessed") is None


def labels_of(memory: VisualMemory) -> dict[str, str]:
    snapshot = memory.snapshot()
    return dict(zip(snapshot.ids.tolist(), snapshot.labels.tolist(), strict=True))
