"""Erased means gone: from every version, every file, the index and the caches, also where a run was killed."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest

from retrieval.adding import UNREADABLE
from retrieval.embedders.base import EmbedderIdentity, foreign_vectors
from retrieval.embedders.execution import Execution
from retrieval.errors import InvalidArgument, StorageError, UnknownItem, VisualMemoryWarning
from retrieval.features import FeatureCache
from retrieval.forgetting.deed import erase_items, finish_pending, is_pending
from retrieval.forgetting.erasing import keys_of_ids, plan_erasure
from retrieval.forgetting.examining import verify
from retrieval.forgetting.receipts import Check, Receipt, read_receipt
from retrieval.forgetting.traces import FeatureTraces
from retrieval.indexes import choose_kind
from retrieval.memory import VisualMemory
from retrieval.storage.commits import append
from retrieval.storage.history_cli import checkout
from retrieval.storage.schema import ItemBatch, to_arrow
from retrieval.storage.table import ItemTable

DIMENSION = 64
HOSTILE = "it's a \"cat\"\n<script>'; DROP TABLE items --"


def vectors(items, seed):
    made = np.random.default_rng(seed).normal(size=(items, DIMENSION)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def put(memory, ids, seed):
    """Add items with thumbnails and digests of their pictures, as one version."""
    draw = np.random.default_rng(seed)
    thumbnails = [b"\xff\xd8 header \xff\xda" + draw.bytes(900) for _ in ids]
    digests = [f"{seed:032x}{number:032x}" for number in range(len(ids))]
    none = [None] * len(ids)
    batch = ItemBatch(ids, ["some label"] * len(ids), vectors(len(ids), seed), thumbnails, none, digests)
    table = ItemTable.open(memory)
    append(table, to_arrow(batch, table.dataset.schema))


@pytest.fixture
def memory(tmp_path):
    """Return a memory of three versions with 30 items each: a/0, …, b/0, …, c/0, …."""
    path = tmp_path / "memory"
    VisualMemory.create(path, embedder=foreign_vectors("made", DIMENSION))
    for seed, name in enumerate("abc"):
        put(path, [f"{name}/{number}" for number in range(30)], seed)
    return path


def held(path, columns=("id", "key", "vector", "thumbnail", "digest")):
    rows = ItemTable.open(path).dataset.to_table(columns=list(columns)).to_pylist()
    return {row["id"]: row for row in rows}


def everything(*folders):
    return b"\n".join(file.read_bytes() for folder in folders for file in folder.rglob("*") if file.is_file())


def vector_bytes(row):
    return np.array(row["vector"], np.int16).tobytes()


def erase(path, *ids, **options):
    return erase_items(path, keys_of_ids(path, ids), progress=False, **options)


def left(checks: tuple[Check, ...]) -> dict[str, tuple[str, ...]]:
    return {check.what: check.left for check in checks if check.left}


def look_again(path: Path, receipt: Receipt) -> dict[str, tuple[str, ...]]:
    assert receipt.path is not None
    found = verify(read_receipt(receipt.path), path, traces=[FeatureTraces()], progress=False)
    assert found.proven == (not left(found.checks))
    return left(found.checks)


def test_no_byte_of_an_erased_item_is_left_and_every_other_item_is(memory):
    before = held(memory)
    row = before["b/3"]
    assert vector_bytes(row) in everything(memory) and row["thumbnail"] in everything(memory)
    receipt = erase(memory, "b/3")
    rest = everything(memory)
    assert vector_bytes(row) not in rest and row["thumbnail"] not in rest and row["digest"].encode() not in rest
    assert held(memory) == {id_: kept for id_, kept in before.items() if id_ != "b/3"}
    assert receipt.deed.windows_before == receipt.deed.windows > 0
    assert look_again(memory, receipt) == {}


def test_versions_from_before_the_item_stay_and_those_that_held_it_are_dropped(memory):
    versions = [found["version"] for found in ItemTable.open(memory).dataset.versions()]
    plan = plan_erasure(memory, keys_of_ids(memory, ["b/3"]))
    receipt = erase(memory, "b/3")
    assert plan.versions == versions[2:]
    assert set(plan.versions) <= set(receipt.deed.dropped_versions)
    kept = [found["version"] for found in ItemTable.open(memory).dataset.versions()]
    assert kept == [*versions[:2], receipt.deed.version_after] and receipt.deed.version_before == versions[-1]
    assert len(ItemTable.open(memory).at(versions[1])) == 30


def test_the_plan_names_versions_that_hold_only_what_the_item_was_before(memory):
    table = ItemTable.open(memory)
    table.dataset.tags.create("first-picture", 4)
    VisualMemory.open(memory).add_vectors(["c/0"], ["new"], vectors(1, 9), on_duplicate="replace")
    now = np.array([held(memory)["c/0"]["key"]])
    plan = plan_erasure(memory, now)
    receipt = erase_items(memory, now, progress=False)
    assert plan.tags == receipt.deed.dropped_tags == {"first-picture": 4}
    assert set(plan.versions) <= set(receipt.deed.dropped_versions)


def test_tags_on_versions_that_held_it_go_and_are_named(memory):
    table = ItemTable.open(memory)
    table.dataset.tags.create("early", 2)
    table.dataset.tags.create("late", 4)
    assert plan_erasure(memory, keys_of_ids(memory, ["c/0"])).tags == {"late": 4}
    assert erase(memory, "c/0").deed.dropped_tags == {"late": 4}
    assert set(ItemTable.open(memory).dataset.tags.list()) == {"early"}


def test_only_the_files_that_held_it_are_rewritten(memory):
    before = {file.name for file in (memory / "items.lance" / "data").iterdir()}
    receipt = erase(memory, "b/3", "b/4")
    after = {file.name for file in (memory / "items.lance" / "data").iterdir()}
    assert len(before - after) == len(after - before) == 1
    assert [Path(name).name for name in receipt.deed.files_removed] == list(before - after)
    assert [Path(name).name for name in receipt.deed.files_written] == list(after - before)


def test_what_was_relabelled_replaced_or_forgotten_before_is_erased_from_its_old_files(memory):
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


def test_a_pruning_does_not_hide_an_item(memory):
    VisualMemory.open(memory).set_reliability(np.linspace(0, 1, 90).astype(np.float32))
    row = held(memory)["a/0"]
    receipt = erase(memory, "a/0")
    assert vector_bytes(row) not in everything(memory) and look_again(memory, receipt) == {}


def test_a_whole_memory_can_be_erased(memory):
    receipt = erase(memory, *held(memory))
    assert len(ItemTable.open(memory)) == 0 and look_again(memory, receipt) == {}


def test_ids_of_any_text_are_erased(memory):
    put(memory, [HOSTILE], 7)
    row = held(memory)[HOSTILE]
    receipt = erase(memory, HOSTILE)
    assert HOSTILE not in held(memory) and vector_bytes(row) not in everything(memory)
    assert look_again(memory, receipt) == {}


def test_ids_that_no_version_holds_are_said_and_nothing_is_erased(memory):
    with pytest.raises(UnknownItem, match="no version of .* holds items 'nobody' .* nothing was changed"):
        keys_of_ids(memory, ["a/0", "nobody"])


@pytest.mark.parametrize("id_", [3, "stray \udcff"])
def test_ids_that_are_no_text_are_refused(memory, id_):
    with pytest.raises(InvalidArgument, match="got id .*: text expected"):
        keys_of_ids(memory, ["a/0", id_])


def test_a_command_of_another_program_that_names_the_id_is_dropped_with_its_version(memory):
    table = ItemTable.open(memory)
    table.dataset.delete("id = 'a/5'")
    assert b"a/5" in everything(memory / "items.lance" / "_transactions")
    receipt = erase(memory, "a/5")
    assert b"a/5" not in everything(memory / "items.lance" / "_transactions", memory / "items.lance" / "_versions")
    assert look_again(memory, receipt) == {}


def test_a_duplicate_stays_and_the_receipt_says_so(memory):
    twin = vectors(30, 0)[4:5]
    VisualMemory.open(memory).add_vectors(["twin"], ["x"], twin)
    receipt = erase(memory, "a/4")
    assert "twin" in held(memory) and 0 < receipt.deed.windows_shared < receipt.deed.windows
    assert look_again(memory, receipt) == {}


def test_the_saved_index_holds_nothing_of_it_either(tmp_path):
    if choose_kind("auto", items=10**6) != "scann":
        pytest.skip("ScaNN is not installed")
    memory = VisualMemory.create(tmp_path / "memory", embedder=foreign_vectors("made", DIMENSION), index="scann")
    memory.add_vectors([f"{number}" for number in range(500)], ["x"] * 500, vectors(500, 0))
    memory.build_index()
    row = held(memory.path)["7"]
    assert vector_bytes(row) in everything(memory.path / "index")
    receipt = erase(memory.path, "7")
    assert vector_bytes(row) not in everything(memory.path)
    assert receipt.deed.windows_before == receipt.deed.windows > 0  # the search did find what was there
    assert any(name.startswith("index/") for name in receipt.deed.files_written)
    assert look_again(memory.path, receipt) == {}
    assert "7" not in VisualMemory.open(memory.path).search_vectors(vectors(500, 0)[7:8], k=20).ids


def test_the_rows_of_an_index_that_a_killed_run_left_are_found(memory):
    row = held(memory)["b/3"]
    receipt = erase(memory, "b/3")
    generation = memory / "index" / "0123456789abcdef"
    generation.mkdir(parents=True)
    (generation / "vectors.i16").write_bytes(bytes(DIMENSION) + vector_bytes(row))
    assert "vectors.i16" in look_again(memory, receipt)["bytes"][0]


def test_a_duplicate_stays_in_a_saved_index_too(tmp_path):
    if choose_kind("auto", items=10**6) != "scann":
        pytest.skip("ScaNN is not installed")
    memory = VisualMemory.create(tmp_path / "memory", embedder=foreign_vectors("made", DIMENSION), index="scann")
    memory.add_vectors([f"{number}" for number in range(500)], ["x"] * 500, vectors(500, 0))
    memory.add_vectors(["twin"], ["x"], vectors(500, 0)[7:8])
    memory.build_index()
    twin = held(memory.path)["twin"]
    receipt = erase(memory.path, "7")
    assert vector_bytes(twin) in everything(memory.path / "index")
    assert receipt.deed.windows_shared == receipt.deed.windows and look_again(memory.path, receipt) == {}


def test_an_erasure_to_be_proven_later_leaves_nothing_either_and_says_so(memory):
    row = held(memory)["b/3"]
    receipt = erase_items(memory, keys_of_ids(memory, ["b/3"]), prove=False, progress=False)
    assert vector_bytes(row) not in everything(memory) and row["thumbnail"] not in everything(memory)
    assert "not searched yet" in {check.what: check.how for check in receipt.checks}["bytes"]
    assert look_again(memory, read_receipt(receipt.path)) == {}


def test_a_later_proof_lets_duplicates_stay_but_nothing_else(memory):
    VisualMemory.open(memory).add_vectors(["twin"], ["x"], vectors(30, 0)[4:5])
    row = held(memory)["a/4"]
    receipt = erase_items(memory, keys_of_ids(memory, ["a/4"]), prove=False, progress=False)
    assert look_again(memory, receipt) == {}
    (memory / "copy").write_bytes(row["thumbnail"])
    assert list(look_again(memory, receipt)) == ["bytes"]


def test_a_table_of_before_fixed_point_is_searched_added_to_and_erased_from(memory):
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


def test_a_receipt_names_nothing_of_what_was_erased(memory):
    row = held(memory)["b/3"]
    receipt = erase(memory, "b/3")
    text = receipt.path.read_text()
    assert "b/3" not in text and row["digest"] not in text and str(row["thumbnail"]) not in text
    assert json.loads(text)["items"] == 1 and read_receipt(receipt.path) == receipt


def test_bytes_that_turn_up_again_in_any_file_are_found(memory):
    row = held(memory)["b/3"]
    receipt = erase(memory, "b/3")
    for left_behind in (vector_bytes(row), row["thumbnail"][100:]):
        (memory / "some.tmp").write_bytes(b"123" + left_behind)
        assert "some.tmp" in look_again(memory, receipt)["bytes"][0]


def test_an_item_that_is_added_again_is_found_and_told_from_one_that_was_left(memory):
    receipt = erase(memory, "b/3")
    put(memory, ["b/3"], 8)
    assert list(look_again(memory, receipt)) == ["added again"]


def test_a_receipt_of_another_memory_proves_nothing(memory, tmp_path):
    receipt = erase(memory, "b/3")
    VisualMemory.create(tmp_path / "other", embedder=foreign_vectors("made", DIMENSION))
    with pytest.raises(InvalidArgument, match="receipt is of another memory"):
        verify(receipt, tmp_path / "other", traces=[], progress=False)


@pytest.mark.parametrize(
    ("field", "value"), [("salt", "00" * 65), ("salt", ""), ("keys", [2**64]), ("keys", ["x"]), ("bytes", {})]
)
def test_a_receipt_that_was_tampered_with_is_refused(memory, field, value):
    receipt = erase(memory, "b/3")
    written = json.loads(receipt.path.read_text())
    written["known_by"][field] = value
    receipt.path.write_text(json.dumps(written))
    with pytest.raises(InvalidArgument, match="no receipt of an erasure"):
        read_receipt(receipt.path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 1}', "\x00", '{"format": 1, "known_by": []}'])
def test_a_file_that_is_no_receipt_is_refused(tmp_path, content):
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(InvalidArgument, match="no receipt of an erasure"):
        read_receipt(tmp_path / "r.json")


def test_features_of_the_picture_are_wiped_out_of_the_cache(memory, tmp_path):
    identity = EmbedderIdentity.from_json(foreign_vectors("made", DIMENSION).to_json())
    features = FeatureCache(
        replace(identity, weights_digest="of the erasing test"), Execution("torch", "float32", "cpu")
    )
    rows = held(memory)
    kept = {
        row["digest"]: np.random.default_rng(n).normal(size=DIMENSION).astype(np.float32)
        for n, row in enumerate(rows.values())
    }
    features.put(kept)
    digest = rows["b/3"]["digest"]
    receipt = erase(memory, "b/3")
    assert receipt.deed.entries_dropped["features"] == 1
    assert features.get(digest) is None and features.get(rows["b/4"]["digest"]) is not None
    # By another process: closing a database's file here would let go of the locks that its open connection has.
    subprocess.run(["cp", "-r", str(features.folder), str(tmp_path / "copied")], check=True)
    rest = everything(tmp_path / "copied")
    assert kept[digest].tobytes() not in rest and digest.encode() not in rest
    features.put({digest: kept[digest]})
    assert list(look_again(memory, receipt)) == ["bytes", "features"]


def test_the_list_of_unusable_files_loses_its_line(memory):
    lines = [f"{json.dumps(id_)}\t{json.dumps('no picture')}\n" for id_ in ("b/3", "x\ny", "b/33")]
    (memory / UNREADABLE).write_text("".join(lines))
    assert erase(memory, "b/3").deed.entries_dropped["lists"] == 1
    assert (memory / UNREADABLE).read_text() == "".join(lines[1:])


def test_the_list_of_each_shard_loses_its_line_too(memory):
    shard = memory / "unreadable-2-of-8.tsv"
    shard.write_text(f"{json.dumps('b/3')}\t{json.dumps('no picture')}\n")
    receipt = erase(memory, "b/3")
    assert shard.read_text() == "" and look_again(memory, receipt) == {}
    shard.write_text(f"{json.dumps('b/3')}\t{json.dumps('no picture')}\n")
    assert look_again(memory, receipt) == {"lists": (shard.name,)}


def test_what_killed_runs_left_is_swept(memory):
    (memory / ".new-abc").mkdir()
    (memory / ".new-abc" / "rows").write_bytes(vector_bytes(held(memory)["b/3"]))
    (memory / "items.lance" / "data" / "torn.lance").write_bytes(vector_bytes(held(memory)["b/3"]))
    receipt = erase(memory, "b/3")
    assert not (memory / ".new-abc").exists() and look_again(memory, receipt) == {}


class Stuck:
    """A place that does not let go of what it keeps."""

    name = "stuck"

    def __init__(self, folder):
        self.folder = folder

    def folders(self):
        return [self.folder]

    def secrets(self, items):
        return []

    def drop(self, items):
        return 0

    def remains(self, marks):
        return []


def test_no_receipt_is_written_while_something_is_left(memory, tmp_path):
    stuck = Stuck(tmp_path / "stuck")
    stuck.folder.mkdir()
    (stuck.folder / "kept").write_bytes(vector_bytes(held(memory)["b/3"]))
    with pytest.raises(StorageError, match=r"still holds something .*stuck.*--resume"):
        erase(memory, "b/3", traces=[stuck])
    assert is_pending(memory) and not (memory / "receipts").exists() and "b/3" not in held(memory)
    (stuck.folder / "kept").unlink()
    (receipt,), waiting = finish_pending(memory, traces=[stuck], progress=False)
    assert waiting == 0 and not is_pending(memory) and look_again(memory, receipt) == {}


def test_the_next_erasure_finishes_one_that_was_cut_off(memory, tmp_path):
    stuck = Stuck(tmp_path / "stuck")
    stuck.folder.mkdir()
    (stuck.folder / "kept").write_bytes(vector_bytes(held(memory)["b/3"]))
    with pytest.raises(StorageError, match="still holds something"):
        erase(memory, "b/3", traces=[stuck])
    with pytest.raises(StorageError, match="still holds something"):
        erase(memory, "b/4", traces=[stuck])
    assert not {"b/3", "b/4"} & set(held(memory))  # neither takes part in anything any more
    (stuck.folder / "kept").unlink()
    erase(memory, "b/5", traces=[stuck])
    assert not is_pending(memory) and len(list((memory / "receipts").iterdir())) == 3


KILLED = """
import os, signal, sys
from pathlib import Path
from retrieval.forgetting.erasing import keys_of_ids
from retrieval.forgetting.deed import erase_items
from retrieval.forgetting.traces import FeatureTraces

path, last = Path(sys.argv[1]), int(sys.argv[2])
count = 0

def kill_at_last(event, arguments):
    global count
    if event in ("os.rename", "os.remove", "os.rmdir", "sqlite3.connect", "tempfile.mkstemp", "os.scandir"):
        count += 1
        if count > last:
            os.kill(os.getpid(), signal.SIGKILL)

keys = keys_of_ids(path, ["b/3"])
sys.addaudithook(kill_at_last)
erase_items(path, keys, traces=[FeatureTraces()], progress=False)
print("done", count)
"""


@pytest.mark.parametrize("events", [0, 1, 3, 5, 8, 12, 20])
def test_an_erasure_that_is_killed_anywhere_is_finished_or_never_began(memory, events):
    before = held(memory)
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", KILLED, str(memory), str(events)]
    said = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60, check=False)
    assert said.returncode == -9 or "done" in said.stdout, said.stderr
    begun = is_pending(memory)
    receipts, _ = finish_pending(memory, traces=[FeatureTraces()], progress=False)
    assert len(receipts) == begun
    if not begun and "done" not in said.stdout and not list(memory.glob("receipts/*.json")):
        assert held(memory) == before
        receipts = [erase(memory, "b/3")]
    rest = everything(memory)
    assert vector_bytes(before["b/3"]) not in rest and before["b/3"]["thumbnail"] not in rest
    assert held(memory) == {id_: row for id_, row in before.items() if id_ != "b/3"}
    assert all(look_again(memory, receipt) == {} for receipt in receipts) and not is_pending(memory)


def test_what_waits_for_another_place_is_only_taken_out_of_decisions(memory, tmp_path):
    stuck = Stuck(tmp_path)
    stuck.drop = lambda items: 1 / 0
    with pytest.raises(ZeroDivisionError):
        erase(memory, "b/3", traces=[stuck])
    receipts, waiting = finish_pending(memory, traces=[], progress=False)
    assert (receipts, waiting) == ([], 1) and is_pending(memory) and "b/3" not in held(memory)
    put(memory, ["b/3"], 8)  # added again meanwhile: another item
    (receipt,), _ = finish_pending(memory, traces=[Stuck(tmp_path / "empty")], progress=False)
    assert "b/3" in held(memory) and receipt.deed.windows_before > 0


def test_repairing_a_memory_does_not_bring_back_what_was_being_erased(memory, tmp_path):
    stuck = Stuck(tmp_path)
    stuck.drop = lambda items: 1 / 0
    with pytest.raises(ZeroDivisionError):
        erase(memory, "b/3", traces=[stuck])
    with pytest.warns(VisualMemoryWarning, match="forget .* --resume` goes on"):
        checkout(memory, "3", repair=True)
    assert "b/3" not in held(memory) and "b/4" in held(memory) and is_pending(memory)
