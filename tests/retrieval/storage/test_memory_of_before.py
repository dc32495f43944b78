"""A memory that was made before the rooms were rebuilt is opened, searched, gone back in, proven, and edited as ever.

The archive holds one of 12 vectors with 10 versions: an item was erased, two classes were added and tagged, an item was
relabelled, one forgotten, one replaced, and all of them relied on more or less; its index lies beside the table.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest

from retrieval import UnknownVersion, VisualMemory
from retrieval.erasing.receipts import read_receipt, verify
from retrieval.indexes.saved import load_stored
from retrieval.storage.checking import check_memory
from tests.conftest import needs_scann

ARCHIVE = Path(__file__).parents[2] / "data" / "memory-of-before.tar.xz"
VECTORS = np.random.default_rng(21).normal(size=(16, 32)).astype(np.float32)  # those that it was made of
IDS = [*(f"cat/{number}" for number in range(5)), *(f"dog/{number}" for number in range(4)), "cat/5", "dog/4"]


@pytest.fixture
def memory(tmp_path: Path) -> VisualMemory:
    shutil.unpack_archive(ARCHIVE, tmp_path, filter="data")
    return VisualMemory.open(tmp_path / "memory-of-before")


def receipt_of(memory: VisualMemory) -> Path:
    (receipt,) = (memory.path / "receipts").iterdir()
    return receipt


def test_it_is_sound_and_answers(memory: VisualMemory) -> None:
    assert check_memory(memory.path, progress=False).sound
    assert memory.snapshot().ids.tolist() == ["fish/1", *IDS]
    found = memory.search_vectors(VECTORS[:6], k=1)
    assert found.ids[:, 0].tolist() == [f"cat/{number}" for number in range(6)]
    assert found.labels[:, 0].tolist() == ["cat"] * 5 + ["kitten"]
    assert np.abs(found.distances).max() < 1e-4
    assert memory.search_vectors(VECTORS[12:13], k=1).ids[0, 0] == "dog/4"
    assert memory.snapshot().reliabilities == pytest.approx(np.linspace(0.5, 1, 12))


@needs_scann
def test_its_index_goes_on_serving(memory: VisualMemory) -> None:
    generation = (memory.path / "index" / "current").read_text()
    memory.search_vectors(VECTORS[:1], k=3)
    stored = load_stored(memory.path / "index")
    assert stored is not None and stored.folder is not None and stored.folder.name == generation


def test_its_versions_are_listed_and_gone_back_to(memory: VisualMemory) -> None:
    deeds = [(version.number, version.deed, version.items) for version in memory.history()]
    assert deeds == [
        *((10, "prune", 12), (9, "replace", 12), (8, "forget", 12), (7, "relabel", 13)),
        *((6, "add", 13), (5, "add", 7), (4, "erase", 1), (1, "create", 0)),
    ]
    assert memory.diff("both").forgotten == ("dog/5",) and memory.diff("both").relabelled == {
        "cat/5": ("cat", "kitten")
    }
    assert memory.undo().deed == "prune" and memory.snapshot().reliabilities is None
    memory.checkout("both")
    assert len(memory) == 13 and memory.search_vectors(VECTORS[11:12], k=1).ids[0, 0] == "dog/5"
    with pytest.raises(UnknownVersion, match="has no version 3"):
        memory.checkout(3)


def test_its_receipt_still_proves_what_was_erased(memory: VisualMemory) -> None:
    receipt = read_receipt(receipt_of(memory))
    assert (receipt.items, receipt.changes.version_before, receipt.changes.version_after) == (1, 2, 4)
    assert verify(receipt, memory.path, progress=False).proven
    memory.add_vectors(["fish/0"], ["fish"], VECTORS[13:14])
    again = verify(receipt, memory.path, progress=False)
    assert {check.what for check in again.checks if check.left} == {"bytes", "added again"}


def test_it_is_added_to_forgotten_from_erased_from_and_compacted(memory: VisualMemory) -> None:
    memory.add_vectors(["bird/0"], ["bird"], VECTORS[15:16])
    assert memory.search_vectors(VECTORS[15:16], k=1).labels[0, 0] == "bird"
    assert memory.forget(label="kitten") == 1
    receipt = memory.erase(ids=["cat/5", "cat/0", "dog/4"], progress=False)
    assert receipt.items == 3 and verify(receipt, memory.path, progress=False).proven
    memory.compact(keep=1)
    assert check_memory(memory.path, progress=False).sound
    kept = [id_ for id_ in IDS if id_ not in ("cat/5", "cat/0", "dog/4")]
    assert sorted(VisualMemory.open(memory.path).snapshot().ids) == sorted(["fish/1", *kept, "bird/0"])
    assert verify(read_receipt(receipt.path or Path()), memory.path, progress=False).proven
