"""An erasure writes files anew in which all other rows keep their places: an opened memory goes on as it was."""

from pathlib import Path

import lance
import numpy as np
import pytest

from retrieval import VisualMemory
from retrieval.embedders.base import foreign_vectors
from retrieval.erasing.receipts import Receipt, verify
from retrieval.errors import UnknownItem
from retrieval.storage.checking import check_memory
from retrieval.storage.table import BYTES_PER_FILE, ItemBatch, ItemTable

DIMENSION = 32
ITEMS = 200


def vectors(number: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(number, DIMENSION)).astype(np.float32)


@pytest.fixture
def memory(tmp_path: Path) -> VisualMemory:
    memory = VisualMemory.create(tmp_path / "memory", embedder=foreign_vectors("made", DIMENSION))
    memory.add_vectors([f"a{number}" for number in range(ITEMS)], ["a"] * ITEMS, vectors(ITEMS, 0))
    memory.add_vectors([f"b{number}" for number in range(ITEMS)], ["b"] * ITEMS, vectors(ITEMS, 1))
    return memory


def erase(memory: VisualMemory, *ids: str) -> Receipt:
    receipt = memory.erase(ids=list(ids), traces=[], progress=False)
    assert verify(receipt, memory.path, traces=[], progress=False).proven
    return receipt


def addresses(memory: VisualMemory) -> dict[str, int]:
    rows = ItemTable.open(memory.path).light_columns()
    return dict(zip(rows["id"].to_pylist(), rows["_rowid"].to_pylist(), strict=True))


def reliabilities(memory: VisualMemory) -> dict[str, float]:
    snapshot = memory.snapshot()
    assert snapshot.reliabilities is not None
    return dict(zip(snapshot.ids, snapshot.reliabilities, strict=True))


def nearest(memory: VisualMemory, vector: np.ndarray) -> str:
    return str(memory.search_vectors(vector[None], k=1).ids[0, 0])


def test_all_other_items_keep_their_places(memory: VisualMemory) -> None:
    before = addresses(memory)
    erase(memory, "a7", "b150")
    del before["a7"], before["b150"]
    assert addresses(memory) == before


def test_an_opened_memory_answers_without_reading_itself_anew(memory: VisualMemory) -> None:
    memory.search_vectors(vectors(1, 9), k=3)
    settled, index = memory.snapshot().rows.settled, memory.snapshot()._layers.stored.index
    erase(memory, "a7", "a8")
    assert memory.snapshot().rows.settled is settled and memory.snapshot()._layers.stored.index is index
    assert nearest(memory, vectors(ITEMS, 0)[9]) == "a9" and nearest(memory, vectors(ITEMS, 0)[7]) != "a7"
    assert (
        len(memory) == 2 * ITEMS - 2 == len(VisualMemory.open(memory.path)) and memory.version == memory._table.version
    )
    assert list(memory.snapshot().ids) == list(VisualMemory.open(memory.path).snapshot().ids)
    with pytest.raises(UnknownItem, match="a7"):
        memory.forget(ids=["a7"])


def test_edits_go_on_after_an_erasure_as_before(memory: VisualMemory) -> None:
    erase(memory, "a7")
    memory.relabel("other", ids=["a8", "b9"])
    memory.add_vectors(["new", "a7"], ["n", "n"], vectors(2, 5))
    memory.forget(ids=["a9"])
    erase(memory, "a8", "new", "b9")
    fresh = VisualMemory.open(memory.path)
    assert list(memory.snapshot().ids) == list(fresh.snapshot().ids)
    assert list(memory.snapshot().labels) == list(fresh.snapshot().labels)
    assert nearest(memory, vectors(2, 5)[1]) == nearest(fresh, vectors(2, 5)[1]) == "a7"
    assert check_memory(memory.path).sound


def test_what_others_did_since_a_process_looked_is_seen(memory: VisualMemory) -> None:
    erase(memory, "a1")
    other = VisualMemory.open(memory.path)
    other.relabel("moved", ids=["a2", "a3"])
    other.add_vectors(["a4"], ["put"], vectors(1, 6), on_duplicate="replace")
    other.erase(ids=["a5"], traces=[], progress=False)
    other.forget(ids=["a6"])
    erase(memory, "a2", "a4", "a6")
    left = set(VisualMemory.open(memory.path).snapshot().ids)
    assert left.isdisjoint({f"a{number}" for number in (1, 2, 4, 5, 6)}) and {"a3", "a7"} <= left


def test_a_memory_that_went_back_can_be_erased_from(memory: VisualMemory) -> None:
    memory.tag("both")
    memory.forget(label="b")
    memory.checkout("both")
    erase(memory, "b3")
    memory.checkout(2)
    assert len(memory) == ITEMS
    erase(memory, "a3")
    assert len(memory) == ITEMS - 1 and check_memory(memory.path).sound


def test_the_newest_of_several_prunings_stays_with_the_others(memory: VisualMemory) -> None:
    memory.set_reliability(np.linspace(0.5, 1, 2 * ITEMS))
    memory.set_reliability(np.linspace(1, 0.5, 2 * ITEMS))
    before = reliabilities(memory)
    erase(memory, "a7")
    del before["a7"]
    assert reliabilities(VisualMemory.open(memory.path)) == before


def test_blank_rows_are_gone_once_the_table_is_compacted(memory: VisualMemory) -> None:
    erase(memory, "a7", "b7")
    memory.compact(keep=1)
    dataset = lance.dataset(ItemTable.open(memory.path).uri)
    assert sum(fragment.physical_rows for fragment in dataset.get_fragments()) == len(memory) == 2 * ITEMS - 2
    assert check_memory(memory.path).sound


def test_an_item_without_a_name_is_not_taken_for_a_blank_row(memory: VisualMemory) -> None:
    erase(memory, "a7", "a8")
    nameless = ItemBatch([""], ["nameless"], vectors(1, 7), [None], [None], [None])
    memory._put(nameless, on_duplicate="skip")  # as the first memories took it
    receipt = erase(memory, "")
    assert receipt.items == len(receipt.known.keys) == 1


def test_a_file_whose_items_are_all_erased_is_gone(memory: VisualMemory) -> None:
    erase(memory, *(f"b{number}" for number in range(ITEMS)))
    assert len(memory) == ITEMS and len(memory._table.dataset.get_fragments()) == 1
    assert nearest(memory, vectors(ITEMS, 0)[0]) == "a0"


def test_files_with_thumbnails_hold_fewer_rows_than_others(tmp_path: Path) -> None:
    memory = VisualMemory.create(tmp_path / "memory", embedder=foreign_vectors("made", DIMENSION))
    items, picture = 600, bytes(200_000)
    nothing = [None] * items
    batch = ItemBatch(
        [f"{n}" for n in range(items)], ["x"] * items, vectors(items, 0), [picture] * items, nothing, nothing
    )
    memory._put(batch, on_duplicate="error")
    rows = [fragment.physical_rows for fragment in memory._table.dataset.get_fragments()]
    assert sum(rows) == items and max(rows) == 256 and max(rows) * len(picture) <= BYTES_PER_FILE
    before = len(rows)
    memory.compact(keep=1)
    assert len(memory._table.dataset.get_fragments()) <= before
