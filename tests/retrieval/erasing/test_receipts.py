"""Receipts: what they say and do not say, and what looking again by one finds."""

import json
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval.embedders.base import foreign_vectors
from retrieval.erasing.erase import erase_items, keys_of_ids
from retrieval.erasing.receipts import RECORD, read_receipt, verify
from retrieval.errors import InvalidArgument
from retrieval.memory import VisualMemory
from tests.retrieval.erasing.erasures import (
    DIMENSION,
    erase,
    everything,
    file_of,
    held,
    left,
    look_again,
    put,
    vector_bytes,
    vectors,
)
from tests.retrieval.erasing.sequences import changes


def test_an_erasure_to_be_proven_later_leaves_nothing_either_and_says_so(memory: Path) -> None:
    row = held(memory)["b/3"]
    receipt = erase_items(memory, keys_of_ids(memory, ["b/3"]), prove=False, progress=False)
    assert vector_bytes(row) not in everything(memory) and row["thumbnail"] not in everything(memory)
    assert "not searched yet" in {check.what: check.how for check in receipt.checks}["bytes"]
    assert look_again(memory, read_receipt(file_of(receipt))) == {}


def test_a_later_proof_lets_duplicates_stay_but_nothing_else(memory: Path) -> None:
    VisualMemory.open(memory).add_vectors(["twin"], ["x"], vectors(30, 0)[4:5])
    row = held(memory)["a/4"]
    receipt = erase_items(memory, keys_of_ids(memory, ["a/4"]), prove=False, progress=False)
    assert look_again(memory, receipt) == {}
    (memory / "copy").write_bytes(row["thumbnail"])
    assert list(look_again(memory, receipt)) == ["bytes"]


def test_a_receipt_names_nothing_of_what_was_erased(memory: Path) -> None:
    row = held(memory)["b/3"]
    receipt = erase(memory, "b/3")
    text = file_of(receipt).read_text()
    assert "b/3" not in text and row["digest"] not in text and str(row["thumbnail"]) not in text
    assert json.loads(text)["items"] == 1 and read_receipt(file_of(receipt)) == receipt


def test_bytes_that_turn_up_again_in_any_file_are_found(memory: Path) -> None:
    row = held(memory)["b/3"]
    receipt = erase(memory, "b/3")
    for left_behind in (vector_bytes(row), row["thumbnail"][100:]):
        (memory / "some.tmp").write_bytes(b"123" + left_behind)
        assert "some.tmp" in look_again(memory, receipt)["bytes"][0]


def test_an_item_that_is_added_again_is_found_and_told_from_one_that_was_left(memory: Path) -> None:
    receipt = erase(memory, "b/3")
    put(memory, ["b/3"], 8)
    assert list(look_again(memory, receipt)) == ["added again"]


def test_a_receipt_of_another_memory_proves_nothing(memory: Path, tmp_path: Path) -> None:
    receipt = erase(memory, "b/3")
    VisualMemory.create(tmp_path / "other", embedder=foreign_vectors("made", DIMENSION))
    with pytest.raises(InvalidArgument, match="receipt is of another memory"):
        verify(receipt, tmp_path / "other", traces=[], progress=False)


@pytest.fixture
def again(memory: Path) -> Path:
    """Return the receipt of an erasure whose item was added again."""
    row = held(memory)["b/3"]
    receipt = erase(memory, "b/3")
    put(memory, ["b/3"], 8)
    (memory / "copy").write_bytes(vector_bytes(row))
    return file_of(receipt)


def test_a_receipt_of_which_any_one_field_was_changed_proves_nothing(memory: Path, tmp_path: Path) -> None:
    receipt = erase(memory, "b/3")
    recorded, count = receipt.is_of(memory), 0
    for content in changes(file_of(receipt)):
        (tmp_path / "changed.json").write_text(content)
        count += 1
        try:
            assert not read_receipt(tmp_path / "changed.json").is_of(memory)
        except InvalidArgument:
            continue
    assert recorded and count > 100 and look_again(memory, receipt) == {}


@pytest.mark.parametrize(
    "change",
    [
        {"salt": "00" * 32},
        {"digests": {"ids": [], "pictures": [], "thumbnails": []}},
        {"digests": {"ids": ["0" * 32], "pictures": ["0" * 32], "thumbnails": ["0" * 32]}},
        {"keys": [], "bytes": {"window": 64, "sparsity": 6, "windows": {}}},
    ],
)
def test_a_receipt_that_was_made_to_name_something_else_proves_nothing(
    memory: Path, again: Path, change: dict[str, Any]
) -> None:
    written = json.loads(again.read_text())
    written["known_by"] |= change
    again.write_text(json.dumps(written))
    found = verify(read_receipt(again), memory, traces=[], progress=False)
    assert not found.proven and "receipts.sha256 has no record of it" in left(found.checks)["receipt"][0]


def test_a_receipt_that_names_no_item_proves_nothing(memory: Path) -> None:
    receipt = erase_items(memory, np.array([7]), progress=False)
    assert look_again(memory, receipt) == {"receipt": ("it names no item",)}


def test_a_receipt_from_before_memories_kept_a_record_can_be_read_and_is_no_proof(memory: Path) -> None:
    receipt = erase(memory, "b/3")
    (memory / RECORD).unlink()
    assert list(look_again(memory, receipt)) == ["receipt"] and read_receipt(file_of(receipt)) == receipt


def test_a_memory_that_was_brought_back_does_not_know_the_receipt(memory: Path, tmp_path: Path) -> None:
    shutil.copytree(memory, tmp_path / "backup")
    receipt = erase(memory, "b/3")
    found = verify(receipt, tmp_path / "backup", traces=[], progress=False)
    assert {"receipt", "rows", "bytes"} <= left(found.checks).keys()


def test_the_record_of_receipts_is_one_that_sha256sum_reads(memory: Path) -> None:
    receipts = [erase(memory, "b/3"), erase(memory, "b/4")]
    lines = [
        f"{sha256(file_of(receipt).read_bytes()).hexdigest()}  receipts/{file_of(receipt).name}" for receipt in receipts
    ]
    assert (memory / RECORD).read_text().splitlines() == lines and all(receipt.is_of(memory) for receipt in receipts)


@pytest.mark.parametrize(
    ("field", "value"), [("salt", "00" * 65), ("salt", ""), ("keys", [2**64]), ("keys", ["x"]), ("bytes", {})]
)
def test_a_receipt_that_was_tampered_with_is_refused(memory: Path, field: str, value: Any) -> None:
    receipt = erase(memory, "b/3")
    written = json.loads(file_of(receipt).read_text())
    written["known_by"][field] = value
    file_of(receipt).write_text(json.dumps(written))
    with pytest.raises(InvalidArgument, match="no receipt of an erasure"):
        read_receipt(file_of(receipt))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 1}', "\x00", '{"format": 1, "known_by": []}'])
def test_a_file_that_is_no_receipt_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(InvalidArgument, match="no receipt of an erasure"):
        read_receipt(tmp_path / "r.json")
