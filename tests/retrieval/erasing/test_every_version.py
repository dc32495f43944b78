"""Of an erased item nothing of any version is left, whatever became of that before: replaced, forgotten, compacted."""

import os
import shutil
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from retrieval.embedders.base import foreign_vectors
from retrieval.embedding import ABOUT, FEATURES_SIZE_LIMIT
from retrieval.erasing.erase import erase_items, finish_pending, keys_of_ids
from retrieval.erasing.secrets import DROPPED, Forgotten, Marks
from retrieval.errors import StorageError, UnknownItem
from retrieval.memory import VisualMemory
from retrieval.support.cachedir import VARIABLE, open_store
from tests.conftest import needs_scann
from tests.retrieval.erasing.erasures import (
    DIMENSION,
    erase,
    everything,
    held,
    look_again,
    put,
    vector_bytes,
    vectors,
)
from tests.retrieval.erasing.sequences import Sequence

KINDS = ("exact", pytest.param("scann", marks=needs_scann))


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Path]:
    """Return a cache folder of the test's own."""
    before = os.environ[VARIABLE]
    os.environ[VARIABLE] = str(tmp_path / "cache")
    yield tmp_path / "cache"
    os.environ[VARIABLE] = before


@pytest.fixture(params=KINDS)
def indexed(request: pytest.FixtureRequest, tmp_path: Path) -> VisualMemory:
    """Return a memory of the items 0 to 299 with an index."""
    memory = VisualMemory.create(tmp_path / "memory", embedder=foreign_vectors("made", DIMENSION), index=request.param)
    memory.add_vectors([f"{number}" for number in range(300)], ["x"] * 300, vectors(300, 0))
    memory.build_index()
    return memory


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(5))
def test_after_random_edits_an_independent_reader_finds_nothing_of_what_was_erased(
    seed: int, kind: str, tmp_path: Path, cache: Path
) -> None:
    sequence = Sequence(tmp_path, seed, kind)
    for _ in range(12):
        sequence.step()
    sequence.erase()


@pytest.mark.parametrize("seed", [9, 0], ids=["another vector", "the same vector"])
def test_what_was_replaced_and_compacted_away_is_erased_with_its_item(indexed: VisualMemory, seed: int) -> None:
    before = held(indexed.path)
    indexed.add_vectors(["7"], ["y"], vectors(8, seed)[7:], on_duplicate="replace")
    now = held(indexed.path)["7"]
    indexed.compact(keep=1)
    receipt = erase(indexed.path, "7")
    rest = everything(indexed.path)
    assert vector_bytes(before["7"]) not in rest and vector_bytes(now) not in rest and vector_bytes(before["8"]) in rest
    assert receipt.items == 1 and len(receipt.known.keys) == 2 and look_again(indexed.path, receipt) == {}


def test_what_was_forgotten_and_compacted_away_leaves_the_index_and_can_be_erased(indexed: VisualMemory) -> None:
    before = held(indexed.path)
    gone = [f"{number}" for number in range(60)]
    indexed.forget(ids=gone)
    indexed.compact(keep=1)
    rest = everything(indexed.path)
    assert not any(vector_bytes(before[id_]) in rest for id_ in gone)
    receipt = erase(indexed.path, "7")
    assert receipt.items == 1 and look_again(indexed.path, receipt) == {}
    with pytest.raises(UnknownItem, match="no version of .* holds item '7'"):
        keys_of_ids(indexed.path, ["7"])
    (indexed.path / "some.tmp").write_bytes(vector_bytes(before["7"]))  # the proof looks for it all the same
    assert "some.tmp" in look_again(indexed.path, receipt)["bytes"][0]


@needs_scann
@pytest.mark.parametrize("indexed", ["scann"], indirect=True)
def test_an_index_that_knows_what_no_version_does_is_no_proof_and_the_next_erasure_heals_it(
    indexed: VisualMemory, tmp_path: Path
) -> None:
    before = held(indexed.path)
    first = erase(indexed.path, "100")
    indexed.forget(ids=[f"{number}" for number in range(60)])
    shutil.copytree(indexed.path / "index", tmp_path / "index")
    indexed.compact(keep=1)
    shutil.rmtree(indexed.path / "index")
    shutil.copytree(tmp_path / "index", indexed.path / "index")  # as an earlier release left it
    assert "60 positions in index that no version knows" in look_again(indexed.path, first)["index"]
    second = erase(indexed.path, "200")
    assert vector_bytes(before["7"]) not in everything(indexed.path)
    assert look_again(indexed.path, first) == look_again(indexed.path, second) == {}


def test_an_erasure_keeps_account_of_other_items_whose_versions_it_drops(indexed: VisualMemory) -> None:
    before = held(indexed.path)
    indexed.add_vectors(["new"], ["x"], vectors(1, 3))
    indexed.forget(ids=["new"])  # its file is in no later version
    indexed.add_vectors(["7"], ["x"], vectors(1, 4), on_duplicate="replace")
    erase(indexed.path, "7")
    receipt = erase(indexed.path, "new")
    assert receipt.changes.windows > 0 and look_again(indexed.path, receipt) == {}
    assert vector_bytes(before["8"]) in everything(indexed.path)


def test_features_and_replies_of_a_picture_that_was_compacted_away_are_dropped(memory: Path, cache: Path) -> None:
    row = held(memory)["b/3"]
    feature, shown = vectors(1, 5).tobytes(), sha256(row["thumbnail"]).hexdigest()
    with open_store(cache / "features" / "some", size_limit=FEATURES_SIZE_LIMIT) as store:
        store.set(row["digest"], feature)
    (cache / "features" / "some" / ABOUT).write_text("some")
    with open_store(cache / "replies", size_limit=FEATURES_SIZE_LIMIT) as store:
        store.set(f"image:{shown}", row["thumbnail"])
    opened = VisualMemory.open(memory)
    opened.add_vectors(["b/3"], ["x"], vectors(1, 9), on_duplicate="replace")
    opened.compact(keep=1)
    receipt = opened.erase(ids=["b/3"], progress=False)
    assert receipt.changes.entries_dropped == {"features": 1, "replies": 1, "lists": 0}
    rest = everything(memory, cache)
    assert feature not in rest and row["thumbnail"] not in rest and row["digest"].encode() not in rest


def test_a_duplicate_of_what_was_compacted_away_stays(memory: Path) -> None:
    opened = VisualMemory.open(memory)
    opened.add_vectors(["twin"], ["x"], vectors(30, 1)[3:4])
    opened.add_vectors(["b/3"], ["x"], vectors(1, 9), on_duplicate="replace")
    opened.compact(keep=1)
    receipt = erase(memory, "b/3")
    assert receipt.changes.windows_shared > 0 and "twin" in held(memory) and look_again(memory, receipt) == {}


def test_an_erasure_that_was_cut_off_is_finished_after_compacting(memory: Path) -> None:
    row = held(memory)["b/3"]

    class Stuck:
        name = "features"
        pictures: frozenset[str] = frozenset()

        def drop(self, items: Forgotten) -> int:
            Stuck.pictures = items.pictures
            return int(1 / 0)

        def folders(self) -> list[Path]:
            return []

        def secrets(self, items: Forgotten) -> list[bytes]:
            return []

        def remains(self, marks: Marks) -> list[str]:
            return []

    opened = VisualMemory.open(memory)
    with pytest.raises(ZeroDivisionError):
        erase(memory, "b/3", traces=[Stuck()])
    opened.compact(keep=1)
    with pytest.raises(ZeroDivisionError):
        erase(memory, "b/4", traces=[Stuck()])
    assert Stuck.pictures == {row["digest"]}


class Busy:
    """A place that cannot be cleared, or not be read, at first."""

    name = "busy"
    tries = 0

    def __init__(self, refuses: str = "drop") -> None:
        self.refuses = refuses

    def _try(self, what: str) -> int:
        self.tries += what == self.refuses
        return int(1 / 0) if what == self.refuses and self.tries == 1 else 0

    def drop(self, items: Forgotten) -> int:
        return self._try("drop")

    def folders(self) -> list[Path]:
        return []

    def secrets(self, items: Forgotten) -> list[bytes]:
        self._try("secrets")
        return []

    def remains(self, marks: Marks) -> list[str]:
        return []


def test_an_item_whose_newest_row_was_compacted_away_in_between_is_erased_with_its_older_rows(memory: Path) -> None:
    opened, place = VisualMemory.open(memory), Busy("secrets")
    opened.tag("kept")
    rows = [held(memory)["b/3"]]
    opened.add_vectors(["b/3"], ["x"], vectors(9, 8)[8:], on_duplicate="replace")
    rows.append(held(memory)["b/3"])
    with pytest.raises(ZeroDivisionError):
        erase_items(memory, np.array([rows[1]["key"]]), traces=[place], progress=False)
    opened.refresh()
    opened.compact(keep=1)
    (receipt,), _ = finish_pending(memory, traces=[place], progress=False)
    assert set(receipt.known.keys) == {row["key"] for row in rows}
    assert look_again(memory, receipt) == {}
    assert not [row for row in rows if vector_bytes(row) in everything(memory)]


def test_what_came_again_and_went_while_an_erasure_was_cut_off_is_erased_with_it(memory: Path, cache: Path) -> None:
    place, opened = Busy(), VisualMemory.open(memory)
    rows = [held(memory)["b/3"]]
    with pytest.raises(ZeroDivisionError):
        erase(memory, "b/3", traces=[place])
    put(memory, ["b/3"], 8)
    rows.append(held(memory)["b/3"])
    opened.forget(ids=["b/3"])
    (receipt,), waiting = finish_pending(memory, traces=[place], progress=False)
    assert (waiting, receipt.items, len(receipt.known.keys), place.tries) == (0, 1, 2, 2)
    assert look_again(memory, receipt) == {}
    assert not [row for row in rows if vector_bytes(row) in everything(memory)]


def test_what_tells_dropped_rows_is_no_id_and_goes_when_they_are_erased(memory: Path) -> None:
    opened = VisualMemory.open(memory)
    opened.forget(ids=["b/3", "b/4"])
    opened.compact(keep=1)
    before = (memory / DROPPED).read_bytes()
    receipt = erase(memory, "b/3", "b/4")
    assert b"b/3" not in before and len((memory / DROPPED).read_bytes()) < len(before)
    assert look_again(memory, receipt) == {}


def test_an_item_that_came_again_and_was_compacted_away_is_found_by_the_receipt(memory: Path) -> None:
    receipt = erase(memory, "b/3")
    put(memory, ["b/3"], 8)
    opened = VisualMemory.open(memory)
    opened.forget(ids=["b/3"])
    opened.compact(keep=1)
    assert look_again(memory, receipt) == {"dropped rows": ("1 rows",)}


@pytest.mark.parametrize("at", [0, 40, -1])
def test_a_damaged_account_of_dropped_rows_is_said_with_what_to_do(memory: Path, at: int) -> None:
    opened = VisualMemory.open(memory)
    opened.forget(ids=["b/3"])
    opened.compact(keep=1)
    content = bytearray((memory / DROPPED).read_bytes())
    content[at] ^= 1
    (memory / DROPPED).write_bytes(content)
    with pytest.raises(StorageError, match=r"dropped\.rows, which tells rows .* cannot be used .*: delete it"):
        erase(memory, "b/4")


def test_the_account_of_another_memory_is_refused(memory: Path, tmp_path: Path) -> None:
    other = VisualMemory.create(tmp_path / "other", embedder=foreign_vectors("made", DIMENSION))
    other.add_vectors(["x"], ["x"], vectors(1, 0))
    other.erase(ids=["x"], progress=False)
    shutil.copy(other.path / DROPPED, memory / DROPPED)
    with pytest.raises(StorageError, match=r"dropped\.rows, .* cannot be used \(it is another memory's\): delete it"):
        erase(memory, "b/4")
