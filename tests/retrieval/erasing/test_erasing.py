"""Erased means gone: from every version, every file, the index and the caches."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest

from retrieval.embedders.base import EmbedderIdentity, Execution, foreign_vectors
from retrieval.embedding import FeatureCache
from retrieval.erasing.erase import erase_items, keys_of_ids, plan_erasure
from retrieval.errors import InvalidArgument, UnknownItem
from retrieval.memory import VisualMemory
from retrieval.storage.places import PASSED_OVER
from retrieval.storage.table import ItemTable
from retrieval.vectors import to_unit
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

HOSTILE = "it's a \"cat\"\n<script>'; DROP TABLE items --"


def test_no_byte_of_an_erased_item_is_left_and_every_other_item_is(memory: Path) -> None:
    before = held(memory)
    row = before["b/3"]
    assert vector_bytes(row) in everything(memory) and row["thumbnail"] in everything(memory)
    receipt = erase(memory, "b/3")
    rest = everything(memory)
    assert vector_bytes(row) not in rest and row["thumbnail"] not in rest and row["digest"].encode() not in rest
    assert held(memory) == {id_: kept for id_, kept in before.items() if id_ != "b/3"}
    assert receipt.changes.windows_before == receipt.changes.windows > 0
    assert look_again(memory, receipt) == {}


def test_versions_from_before_the_item_stay_and_those_that_held_it_are_dropped(memory: Path) -> None:
    versions = [found["version"] for found in ItemTable.open(memory).dataset.versions()]
    plan = plan_erasure(memory, keys_of_ids(memory, ["b/3"]))
    receipt = erase(memory, "b/3")
    assert plan.versions == versions[2:]
    assert set(plan.versions) <= set(receipt.changes.dropped_versions)
    kept = [found["version"] for found in ItemTable.open(memory).dataset.versions()]
    assert kept == [*versions[:2], receipt.changes.version_after] and receipt.changes.version_before == versions[-1]
    assert len(ItemTable.open(memory).at(versions[1])) == 30


def test_the_plan_names_versions_that_hold_only_what_the_item_was_before(memory: Path) -> None:
    table = ItemTable.open(memory)
    table.dataset.tags.create("first-picture", 4)
    VisualMemory.open(memory).add_vectors(["c/0"], ["new"], vectors(1, 9), on_duplicate="replace")
    now = np.array([held(memory)["c/0"]["key"]])
    plan = plan_erasure(memory, now)
    receipt = erase_items(memory, now, progress=False)
    assert plan.tags == receipt.changes.dropped_tags == {"first-picture": 4}
    assert set(plan.versions) <= set(receipt.changes.dropped_versions)


def test_tags_on_versions_that_held_it_go_and_are_named(memory: Path) -> None:
    table = ItemTable.open(memory)
    table.dataset.tags.create("early", 2)
    table.dataset.tags.create("late", 4)
    assert plan_erasure(memory, keys_of_ids(memory, ["c/0"])).tags == {"late": 4}
    assert erase(memory, "c/0").changes.dropped_tags == {"late": 4}
    assert set(ItemTable.open(memory).dataset.tags.list()) == {"early"}


def test_only_the_files_that_held_it_are_rewritten(memory: Path) -> None:
    before = {file.name for file in (memory / "items.lance" / "data").iterdir()}
    receipt = erase(memory, "b/3", "b/4")
    after = {file.name for file in (memory / "items.lance" / "data").iterdir()}
    assert len(before - after) == len(after - before) == 1
    assert [Path(name).name for name in receipt.changes.files_removed] == list(before - after)
    assert [Path(name).name for name in receipt.changes.files_written] == list(after - before)


def test_what_was_relabelled_replaced_or_forgotten_before_is_erased_from_its_old_files(memory: Path) -> None:
    before = held(memory)
    opened = VisualMemory.open(memory)
    opened.relabel("other", ids=["a/1"])
    opened.add_vectors(["a/2"], ["new"], vectors(1, 9), on_duplicate="replace")
    opened.forget(ids=["a/3"])
    after = held(memory)
    receipt = erase(memory, "a/1", "a/2", "a/3")
    rest = everything(memory)
    assert not any(vector_bytes(before[id_]) in rest for id_ in ("a/1", "a/2", "a/3"))
    assert vector_bytes(after["a/2"]) not in rest
    assert receipt.items == 3 and len(receipt.known.keys) == 4  # the replaced item had another key
    assert look_again(memory, receipt) == {}


def test_a_pruning_does_not_hide_an_item(memory: Path) -> None:
    VisualMemory.open(memory).set_reliability(np.linspace(0, 1, 90).astype(np.float32))
    row = held(memory)["a/0"]
    receipt = erase(memory, "a/0")
    assert vector_bytes(row) not in everything(memory) and look_again(memory, receipt) == {}


def test_a_whole_memory_can_be_erased(memory: Path) -> None:
    receipt = erase(memory, *held(memory))
    assert len(ItemTable.open(memory)) == 0 and look_again(memory, receipt) == {}


def test_ids_of_any_text_are_erased(memory: Path) -> None:
    put(memory, [HOSTILE], 7)
    row = held(memory)[HOSTILE]
    receipt = erase(memory, HOSTILE)
    assert HOSTILE not in held(memory) and vector_bytes(row) not in everything(memory)
    assert look_again(memory, receipt) == {}


def test_ids_that_no_version_holds_are_said_and_nothing_is_erased(memory: Path) -> None:
    with pytest.raises(UnknownItem, match="no version of .* holds item 'nobody': nothing was changed"):
        keys_of_ids(memory, ["a/0", "nobody"])


def test_ids_that_are_no_text_are_refused_and_stray_bytes_are_not_there(memory: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"got id 3.5 \(float\): text, or a whole number from 0, expected"):
        keys_of_ids(memory, ["a/0", 3.5])  # type: ignore[list-item]
    with pytest.raises(UnknownItem, match="no version of .* holds item 'stray"):
        keys_of_ids(memory, ["a/0", "stray \udcff"])


def test_a_command_of_another_program_that_names_the_id_is_dropped_with_its_version(memory: Path) -> None:
    table = ItemTable.open(memory)
    table.dataset.delete("id = 'a/5'")
    assert b"a/5" in everything(memory / "items.lance" / "_transactions")
    receipt = erase(memory, "a/5")
    assert b"a/5" not in everything(memory / "items.lance" / "_transactions", memory / "items.lance" / "_versions")
    assert look_again(memory, receipt) == {}


def test_a_duplicate_stays_and_the_receipt_says_so(memory: Path) -> None:
    twin = vectors(30, 0)[4:5]
    VisualMemory.open(memory).add_vectors(["twin"], ["x"], twin)
    receipt = erase(memory, "a/4")
    assert "twin" in held(memory) and 0 < receipt.changes.windows_shared < receipt.changes.windows
    assert look_again(memory, receipt) == {}


@needs_scann
def test_the_saved_index_holds_nothing_of_it_either(tmp_path: Path) -> None:
    memory = VisualMemory.create(tmp_path / "memory", embedder=foreign_vectors("made", DIMENSION), index="scann")
    memory.add_vectors([f"{number}" for number in range(500)], ["x"] * 500, vectors(500, 0))
    memory.build_index()
    row = held(memory.path)["7"]
    assert vector_bytes(row) in everything(memory.path / "index")
    receipt = erase(memory.path, "7")
    assert vector_bytes(row) not in everything(memory.path)
    assert receipt.changes.windows_before == receipt.changes.windows > 0  # the search did find what was there
    assert any(name.startswith("index/") for name in receipt.changes.files_written)
    assert look_again(memory.path, receipt) == {}
    assert "7" not in VisualMemory.open(memory.path).search_vectors(vectors(500, 0)[7:8], k=20).ids


def test_the_rows_of_an_index_that_a_killed_run_left_are_found(memory: Path) -> None:
    row = held(memory)["b/3"]
    receipt = erase(memory, "b/3")
    generation = memory / "index" / "0123456789abcdef"
    generation.mkdir(parents=True)
    (generation / "vectors.i16").write_bytes(bytes(DIMENSION) + vector_bytes(row))
    assert "vectors.i16" in look_again(memory, receipt)["bytes"][0]


@needs_scann
def test_a_duplicate_stays_in_a_saved_index_too(tmp_path: Path) -> None:
    memory = VisualMemory.create(tmp_path / "memory", embedder=foreign_vectors("made", DIMENSION), index="scann")
    memory.add_vectors([f"{number}" for number in range(500)], ["x"] * 500, vectors(500, 0))
    memory.add_vectors(["twin"], ["x"], vectors(500, 0)[7:8])
    memory.build_index()
    twin = held(memory.path)["twin"]
    receipt = erase(memory.path, "7")
    assert vector_bytes(twin) in everything(memory.path / "index")
    assert receipt.changes.windows_shared == receipt.changes.windows and look_again(memory.path, receipt) == {}


def test_a_table_of_before_fixed_point_is_searched_added_to_and_erased_from(memory: Path) -> None:
    before = held(memory)
    uri = str(ItemTable.open(memory).uri)
    rows = lance.dataset(uri).to_table()
    halves = np.concatenate([vectors(30, seed) for seed in range(3)]).astype(np.float16)
    kept = pa.FixedSizeListArray.from_arrays(pa.array(halves.ravel()), DIMENSION)
    place = rows.schema.get_field_index("vector")
    lance.write_dataset(rows.set_column(place, "vector", kept), uri, mode="overwrite")
    VisualMemory.open(memory).add_vectors(["new"], ["x"], vectors(1, 9))
    found = VisualMemory.open(memory).search_vectors(np.concatenate([vectors(30, 1)[3:4], vectors(1, 9)]), k=1)
    assert found.ids[:, 0].tolist() == ["b/3", "new"] and (found.distances < 1e-3).all()
    receipt = erase(memory, "b/3")
    left_behind = everything(memory)
    assert halves[33].tobytes() not in left_behind and vector_bytes(before["b/3"]) not in left_behind
    assert look_again(memory, receipt) == {}


def test_features_of_the_picture_are_wiped_out_of_the_cache(memory: Path, tmp_path: Path) -> None:
    identity = EmbedderIdentity.from_json(foreign_vectors("made", DIMENSION).to_json())
    features = FeatureCache(
        replace(identity, weights_digest="of the erasing test"), Execution("torch", "float32", "cpu")
    )
    rows = held(memory)
    kept = {row["digest"]: unit for row, unit in zip(rows.values(), to_unit(vectors(len(rows), 77)), strict=True)}
    features.put(kept)
    digest = rows["b/3"]["digest"]
    receipt = erase(memory, "b/3")
    assert receipt.changes.entries_dropped["features"] == 1
    assert features.get(digest) is None and features.get(rows["b/4"]["digest"]) is not None
    # By another process: closing a database's file here would let go of the locks that its open connection has.
    subprocess.run(["cp", "-r", str(features.folder), str(tmp_path / "copied")], check=True)
    rest = everything(tmp_path / "copied")
    assert kept[digest].tobytes() not in rest and digest.encode() not in rest
    features.put({digest: kept[digest]})
    assert list(look_again(memory, receipt)) == ["bytes", "features"]


def test_the_list_of_unusable_files_loses_its_line(memory: Path) -> None:
    lines = [f"{json.dumps(id_)}\t{json.dumps('no picture')}\n" for id_ in ("b/3", "x\ny", "b/33")]
    (memory / PASSED_OVER).write_text("".join(lines))
    assert erase(memory, "b/3").changes.entries_dropped["lists"] == 1
    assert (memory / PASSED_OVER).read_text() == "".join(lines[1:])


def test_the_list_of_each_shard_loses_its_line_too(memory: Path) -> None:
    shard = memory / "unreadable-2-of-8.tsv"
    shard.write_text(f"{json.dumps('b/3')}\t{json.dumps('no picture')}\n")
    receipt = erase(memory, "b/3")
    assert shard.read_text() == "" and look_again(memory, receipt) == {}
    shard.write_text(f"{json.dumps('b/3')}\t{json.dumps('no picture')}\n")
    assert look_again(memory, receipt) == {"lists": (shard.name,)}


def test_what_killed_runs_left_is_swept(memory: Path) -> None:
    (memory / ".new-abc").mkdir()
    (memory / ".new-abc" / "rows").write_bytes(vector_bytes(held(memory)["b/3"]))
    (memory / "items.lance" / "data" / "torn.lance").write_bytes(vector_bytes(held(memory)["b/3"]))
    receipt = erase(memory, "b/3")
    assert not (memory / ".new-abc").exists() and look_again(memory, receipt) == {}
