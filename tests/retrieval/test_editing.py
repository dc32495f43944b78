"""Edits of a memory: every one is a version, takes effect at once, and leaves searches as a fresh reading has them."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval.embedders.base import Execution, foreign_vectors
from retrieval.erasing.receipts import Changes, Note
from retrieval.errors import InvalidArgument, StorageError, UnknownItem, UnknownVersion
from retrieval.memory import VisualMemory
from retrieval.vectors import to_unit_vectors
from retrieval.view import MemoryView
from tests.conftest import needs_scann

DIMENSION = 16


def vectors(count: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype(np.float32)


@pytest.fixture
def memory(tmp_path: Path) -> VisualMemory:
    memory = VisualMemory.create(tmp_path / "memory", embedder=foreign_vectors("made", DIMENSION))
    memory.add_vectors([f"{i}" for i in range(60)], [f"class {i % 6}" for i in range(60)], vectors(60))
    return memory


def state(memory: MemoryView, k: int = 20) -> tuple[list[Any], ...]:
    found = memory.search_vectors(vectors(8, seed=9), k=k)
    return found.ids.tolist(), found.labels.tolist(), found.rows.tolist(), found.distances.tolist()


def fresh(memory: VisualMemory) -> VisualMemory:
    return VisualMemory.open(memory.path)


def test_a_forgotten_item_takes_no_part_in_the_next_search(memory: VisualMemory) -> None:
    nearest = memory.search_vectors(vectors(1), k=1).ids[0, 0]
    assert memory.forget(ids=[nearest]) == 1
    assert nearest not in memory.search_vectors(vectors(1), k=59).ids
    assert len(memory) == 59


def test_forgetting_a_label_forgets_all_its_items(memory: VisualMemory) -> None:
    assert memory.forget(label="class 2") == 10
    assert "class 2" not in memory.stats().labels


def test_forgetting_takes_a_condition_on_id_label_and_source(memory: VisualMemory) -> None:
    assert memory.forget(where="label = 'class 1' AND id <> '7'") == 9
    assert memory.stats().labels["class 1"] == 1


def test_a_condition_that_is_none_is_an_error(memory: VisualMemory) -> None:
    for condition in (
        *("label ==== 3", "", "id = ?", "id", "'a'", "id = 'a' AND", "id = 'a' label = 'b'", "(id = 'a'", "id = 'a"),
        *("id = '1'; DROP TABLE items", "id = '1' -- AND label = 'x'", "id = '1' /* */", "key = 1", "vector IS NULL"),
        *("regexp_match(id, '(a+)+$')", "id IN (SELECT id)", "lower(upper(id)) = 'a'", "id = 1"),
        *("(" * 100_000 + "true" + ")" * 100_000, "NOT " * 100_000 + "true", " OR ".join(["id = 'a'"] * 10_000)),
        *("id LIKE '" + "%a" * 100_000 + "'", "id = '" + "a" * 2_000_000 + "'"),
    ):
        with pytest.raises(InvalidArgument, match="is no condition on id, label and source") as caught:
            memory.forget(where=condition)
        assert len(str(caught.value)) < 700
    assert len(memory) == 60


@pytest.mark.parametrize(
    ("condition", "items"),
    [
        ("true", 60),
        ("NOT true OR false", 0),
        ("label = 'class 1' and (id = '1' OR id = '7' OR id = '8')", 2),
        ("id IN ('1', '2', 'x') AND label <> 'class 1'", 1),
        ("id NOT IN ('1', '2')", 58),
        ("label LIKE 'class _' AND id NOT LIKE '5%'", 49),
        ("UPPER(label) = 'CLASS 3'", 10),
        ("label ilike 'CLASS 3'", 10),
        ("id BETWEEN '1' AND '19'", 11),
        ("id >= '58' AND id < '6'", 2),
        ("source IS NULL", 60),
        ("source = 'x' OR NOT source = 'x' OR source LIKE '%'", 0),  # of what is not known, neither holds
        ("\"label\" = 'quote''s'", 0),
        ("id IN (" + ", ".join(f"'{i}'" for i in range(50_000)) + ")", 60),
    ],
)
def test_a_condition_holds_for_what_sql_says(memory: VisualMemory, condition: str, items: int) -> None:
    assert len(memory._table.select(condition)) == items


@pytest.mark.parametrize(
    ("pattern", "ids"),
    [
        ("C:\\\\a\\_1", ["C:\\a_1"]),
        ("C:\\\\%", ["C:\\a_1", "C:\\ab1"]),
        ("%a\\_1", ["C:\\a_1"]),
        ("%\\\\%1", ["C:\\a_1", "C:\\ab1"]),
        ("50\\%", ["50%"]),
        ("%\\a", ["a"]),
        ("%\\", []),
        ("l_n%", ["l\nn.*"]),
        ("%.*", ["l\nn.*"]),
    ],
)
def test_a_backslash_in_a_pattern_takes_the_next_character_as_it_is(
    tmp_path: Path, pattern: str, ids: list[str]
) -> None:
    memory = VisualMemory.create(tmp_path / "odd", embedder=foreign_vectors("made", DIMENSION))
    memory.add_vectors(["C:\\a_1", "C:\\ab1", "50%", "500", "a", "l\nn.*"], ["x"] * 6, vectors(6))
    assert sorted(memory.snapshot().ids[memory._table.select(f"id LIKE '{pattern}'")]) == ids


def test_unknown_ids_are_an_error_and_change_nothing(memory: VisualMemory) -> None:
    version = memory.version
    with pytest.raises(UnknownItem, match="has no items 'x', 'y': nothing was changed"):
        memory.forget(ids=["1", "x", "y"])
    assert (memory.version, len(memory)) == (version, 60)


def test_an_unknown_label_is_an_error(memory: VisualMemory) -> None:
    with pytest.raises(UnknownItem, match="no item with the label 'nobody'"):
        memory.forget(label="nobody")


def test_what_cannot_be_an_id_is_not_there(memory: VisualMemory) -> None:
    stray = "\udcff"  # a byte of a command line that is no UTF-8
    with pytest.raises(UnknownItem, match="has no item"):
        memory.forget(ids=["1", stray])
    memory.add_vectors(["new"], ["class 1"], vectors(1, seed=3))
    assert memory.thumbnails([stray]) == [None]


def test_a_text_is_no_list_of_ids(memory: VisualMemory) -> None:
    with pytest.raises(InvalidArgument, match="got '12' as ids: a list of them expected"):
        memory.forget(ids="12")


def test_editing_no_item_makes_no_version(memory: VisualMemory) -> None:
    version = memory.version
    assert memory.forget(ids=[]) == memory.relabel("new", ids=[]) == memory.relabel({}) == 0
    assert memory.version == fresh(memory).version == version


def test_one_way_of_choosing_items_has_to_be_given(memory: VisualMemory) -> None:
    with pytest.raises(InvalidArgument, match="give one of ids, label and where"):
        memory.forget()
    with pytest.raises(InvalidArgument, match="give one of ids, label and where"):
        memory.forget(ids=["1"], label="class 1")


def test_a_relabelled_item_votes_for_its_new_label_at_once(memory: VisualMemory) -> None:
    before = memory.search_vectors(vectors(1), k=1)
    memory.relabel("new class", ids=[before.ids[0, 0]])
    after = memory.search_vectors(vectors(1), k=1)
    assert (after.ids[0, 0], after.labels[0, 0]) == (before.ids[0, 0], "new class")
    assert after.distances[0, 0] == before.distances[0, 0]


def test_items_can_each_get_a_label_of_their_own(memory: VisualMemory) -> None:
    memory.relabel({"3": "a", "1": "b", "2": "c"})
    labels = dict(zip(memory.snapshot().ids, memory.snapshot().labels, strict=True))
    assert [labels[id_] for id_ in "123"] == ["b", "c", "a"]


def test_a_hostile_label_and_id_are_stored_as_they_are(memory: VisualMemory) -> None:
    hostile = '\'; DROP TABLE "x" --\n<script>'
    memory.add_vectors([hostile], ["quote's"], vectors(1, seed=3))
    memory.relabel(hostile, ids=[hostile])
    assert fresh(memory).stats().labels[hostile] == 1
    memory.forget(label=hostile)
    assert len(fresh(memory)) == 60


def test_any_sequence_of_edits_leaves_what_a_fresh_reading_finds(memory: VisualMemory) -> None:
    random = np.random.default_rng(5)
    state(memory)
    for step in range(60):
        ids = memory.snapshot().ids
        some = random.choice(ids, random.integers(1, 4), replace=False).tolist()
        match step % 5:
            case 0:
                memory.forget(ids=some)
            case 1:
                memory.relabel(f"label {step}", ids=some)
            case 2:
                memory.add_vectors([f"new {step} {i}" for i in range(3)], ["class 1"] * 3, vectors(3, seed=step))
            case 3:
                memory.add_vectors(some, ["put"] * len(some), vectors(len(some), seed=step), on_duplicate="replace")
            case 4:
                memory.relabel({id_: f"own {step}" for id_ in some})
        opened = fresh(memory)
        assert memory.snapshot().ids.tolist() == opened.snapshot().ids.tolist()
        assert memory.snapshot().labels.tolist() == opened.snapshot().labels.tolist()
        assert state(memory) == state(opened)
        assert (memory.snapshot().rows_of(ids.tolist()) == opened.snapshot().rows_of(ids.tolist())).all()


def test_without_answers_as_a_memory_that_never_had_the_items(memory: VisualMemory, tmp_path: Path) -> None:
    gone = memory.search_vectors(vectors(1), k=7).ids[0].tolist()
    view = memory.without(gone)
    kept = [i for i in range(60) if str(i) not in gone]
    other = VisualMemory.create(tmp_path / "other", embedder=foreign_vectors("made", DIMENSION))
    other.add_vectors([str(i) for i in kept], [f"class {i % 6}" for i in kept], vectors(60)[kept])
    assert state(view)[:2] == state(other)[:2]
    assert len(memory) == 60


def test_without_an_unknown_item_is_an_error(memory: VisualMemory) -> None:
    with pytest.raises(UnknownItem, match="has no item 'x'"):
        memory.without(["x"])


def test_a_view_without_items_has_them_in_no_form(memory: VisualMemory) -> None:
    memory.set_reliability(np.where(memory.snapshot().ids == "5", 0.5, 1.0))
    view, query = memory.without(["3"]), to_unit_vectors(vectors(60)[3:4], dimension=DIMENSION)
    for snapshot in (view.snapshot(), view.snapshot().unpruned(), view.snapshot(centred=True)):
        assert "3" not in snapshot.search(query, 59).ids
        assert len(snapshot) == 59
    assert (view.stats().items, sum(view.stats().labels.values())) == (59, 59)
    assert len(view.without(["4"])) == 58
    with pytest.raises(UnknownItem, match="has no item '3'"):
        view.without(["3"])


def test_an_earlier_version_answers_as_it_did_then(memory: VisualMemory) -> None:
    before, version = state(memory), memory.version
    memory.forget(label="class 3")
    memory.relabel("other", label="class 4")
    assert state(memory.at(version)) == before
    assert state(fresh(memory).at(version)) == before


def test_a_version_that_is_not_there_is_an_error(memory: VisualMemory) -> None:
    with pytest.raises(UnknownVersion, match="has no version 99"):
        memory.at(99)
    with pytest.raises(UnknownVersion, match="has no version 'never'"):
        memory.checkout("never")


def test_checking_out_a_version_makes_it_the_latest(memory: VisualMemory) -> None:
    before, version = state(memory), memory.version
    memory.forget(label="class 3")
    memory.checkout(version)
    assert state(memory) == state(fresh(memory)) == before
    memory.add_vectors(["more"], ["class 1"], vectors(1, seed=4))
    assert len(fresh(memory)) == 61


def test_a_tag_names_a_version(memory: VisualMemory) -> None:
    memory.tag("before")
    memory.forget(label="class 3")
    assert len(memory.at("before")) == 60
    memory.untag("before")
    with pytest.raises(UnknownVersion, match="has no version 'before'"):
        memory.at("before")


def test_a_tag_is_not_given_twice_and_is_no_number(memory: VisualMemory) -> None:
    memory.tag("kept")
    memory.tag("kept")  # as it is already
    with pytest.raises(InvalidArgument, match="tag 'kept' is version 2's: untag it first"):
        memory.tag("kept", version=1)
    for name in ("12", "a..b", "a.", "a.lock", "a b", ""):
        with pytest.raises(InvalidArgument, match="is no tag"):
            memory.tag(name)
    memory.tag("v1.2-b_c")


def test_undoing_again_goes_one_command_further_back(memory: VisualMemory) -> None:
    states = [state(memory)]
    memory.forget(ids=["1", "2"])
    states.append(state(memory))
    memory.set_reliability(np.linspace(0.5, 1, 58))
    memory.set_reliability(np.linspace(0.1, 1, 58))
    memory.compact(keep=20)
    for deed, before in (("prune", None), ("prune", states[1]), ("forget", states[0])):
        assert memory.undo().deed == deed
        assert before is None or state(memory) == state(fresh(memory)) == before
    undone = memory.undo()
    assert (undone.deed, len(memory)) == ("add", 0)
    with pytest.raises(UnknownVersion, match="has nothing more to undo: it begins with 'create', versions 1 to 1"):
        memory.undo()
    memory.checkout(undone.number)
    memory.relabel("other", ids=["5"])
    assert memory.undo().deed == "relabel"
    assert state(memory) == states[0]
    assert (memory.undo().deed, len(memory)) == ("checkout", 0)


def test_compacting_many_small_files_is_passed_over_by_undoing(memory: VisualMemory) -> None:
    for number in range(3):
        memory.add_vectors([f"new {number}"], ["x"], vectors(1, seed=number))
    memory.compact(keep=50)
    assert {entry.deed for entry in memory.commands()} == {"compact", "add", "create"}
    assert (memory.undo().deed, len(memory)) == ("add", 62)


def test_what_was_erased_or_compacted_away_is_not_brought_back_by_undoing(memory: VisualMemory) -> None:
    memory.erase(ids=["1"], progress=False)
    with pytest.raises(UnknownVersion, match="cannot undo an erasure: what was erased is gone"):
        memory.undo()
    memory.forget(ids=["2"])
    memory.forget(ids=["3"])
    memory.compact(keep=1)
    with pytest.raises(UnknownVersion, match="cannot undo 'forget'.*version 5, before it, was dropped"):
        memory.undo()
    assert len(memory) == 57


def test_compacting_changes_nothing_that_is_held_and_drops_old_versions_without_a_tag(memory: VisualMemory) -> None:
    memory.tag("kept")
    for step in range(6):
        memory.add_vectors([f"new {step}"], ["class 1"], vectors(1, seed=step))
        memory.forget(ids=[str(step)])
    before, kept = state(memory), state(memory.at("kept"))
    assert memory.compact(keep=2) > 8
    assert state(memory) == state(fresh(memory)) == before
    assert state(memory.at("kept")) == kept
    assert [version.tags for version in memory.history()] == [(), (), ("kept",)]
    memory.forget(ids=["new 3"])
    assert len(fresh(memory)) == 59
    with pytest.raises(InvalidArgument, match="keep=0: 1 or more versions expected"):
        memory.compact(keep=0)


def test_a_reader_of_a_version_that_was_compacted_away_is_told_to_open_the_memory_again(memory: VisualMemory) -> None:
    reader = fresh(memory)
    memory.forget(label="class 2")
    memory.compact(keep=1)
    with pytest.raises(UnknownVersion, match="was dropped by another process: open the memory again"):
        reader.search_vectors(vectors(1), k=1)


def test_the_history_tells_every_edit(memory: VisualMemory) -> None:
    memory.forget(ids=["1", "2"])
    memory.relabel("new", ids=["3"])
    memory.set_reliability(np.linspace(0.1, 1, 58))
    memory.tag("pruned")
    newest = memory.history(limit=3)
    assert [(version.deed, version.change) for version in newest] == [("prune", 0), ("relabel", 0), ("forget", -2)]
    assert newest[0].tags == ("pruned",)
    assert len(memory.history()) == memory.version


def test_a_difference_names_what_was_added_forgotten_relabelled_and_replaced(memory: VisualMemory) -> None:
    version = memory.version
    memory.forget(ids=["1", "2"])
    memory.relabel("new", ids=["3"])
    memory.add_vectors(["61", "4"], ["class 1", "class 4"], vectors(2, seed=8), on_duplicate="replace")
    changes = memory.diff(version)
    assert (changes.added, changes.forgotten, changes.replaced) == (("61",), ("1", "2"), ("4",))
    assert changes.relabelled == {"3": ("class 3", "new")} and changes.reweighted == ()
    version = memory.version
    memory.set_reliability(np.where(memory.snapshot().ids == "7", 0.5, 1.0))
    assert memory.diff(version).reweighted == ("7",)


def test_an_unreliable_item_says_so_among_the_neighbors(memory: VisualMemory) -> None:
    memory.set_reliability(np.where(memory.snapshot().ids == "5", 0.25, 1.0))
    found = memory.search_vectors(vectors(60)[5:6], k=3)[0]
    assert [(neighbor.id, neighbor.reliability) for neighbor in found][0] == ("5", 0.25)
    assert found[1].reliability == 1.0


def test_an_item_of_no_reliability_takes_no_part_and_comes_back_when_that_is_undone(memory: VisualMemory) -> None:
    before = state(memory)
    memory.set_reliability(np.where(memory.snapshot().ids == "5", 0.0, 1.0))
    assert "5" not in memory.search_vectors(vectors(60)[5:6], k=59).ids
    memory.relabel("still pruned", ids=["5"])
    assert "5" not in memory.search_vectors(vectors(60)[5:6], k=59).ids
    memory.relabel("class 5", ids=["5"])
    memory.set_reliability(None)
    assert sorted(state(memory)[0][0]) == sorted(before[0][0])


def test_reliabilities_are_numbers_from_0_to_1_one_for_each_item(memory: VisualMemory) -> None:
    with pytest.raises(InvalidArgument, match="a number from 0 to 1 for each of 60 items expected"):
        memory.set_reliability(np.ones(3))
    with pytest.raises(InvalidArgument, match="a number from 0 to 1 for each of 60 items expected"):
        memory.set_reliability(np.full(60, 1.5))


def test_items_that_are_added_to_a_pruned_memory_are_relied_on(memory: VisualMemory) -> None:
    memory.set_reliability(np.full(60, 0.5))
    memory.add_vectors(["new"], ["class 1"], vectors(1, seed=4))
    assert memory.search_vectors(vectors(1, seed=4), k=1)[0][0].reliability == 1.0
    assert state(memory) == state(fresh(memory))


def test_a_replaced_item_is_found_by_its_slot_though_how_it_was_made_is_written_down_in_between(tmp_path: Path) -> None:
    memory = VisualMemory.create(tmp_path / "memory", embedder=foreign_vectors("made", DIMENSION))
    memory.add_vectors([f"{i}" for i in range(9000)], ["old"] * 9000, vectors(9000))
    memory = fresh(memory)
    memory.forget(ids=[f"{i}" for i in range(4200)])  # so many that the next version is read anew
    made_by = Execution("torch", "float32", "cpu")
    memory.add_vectors(["4300"], ["new"], vectors(1, seed=3), on_duplicate="replace", made_by=made_by)
    for opened in (memory, fresh(memory)):
        assert sorted(opened.snapshot().ids) == sorted(f"{i}" for i in range(4200, 9000))
        assert opened.search_vectors(vectors(1, seed=3), k=1).ids.tolist() == [["4300"]]


@pytest.mark.parametrize("index", ["exact", pytest.param("scann", marks=needs_scann)])
def test_a_memory_of_which_nothing_can_be_found_says_so(tmp_path: Path, index: str) -> None:
    memory = VisualMemory.create(tmp_path / "memory", embedder=foreign_vectors("made", DIMENSION), index=index)
    memory.build_index()
    memory.add_vectors(["a", "b"], ["x", "y"], vectors(2))
    memory.build_index()
    memory.set_reliability(np.zeros(2))
    for opened in (memory, fresh(memory)):
        with pytest.raises(InvalidArgument, match="no item of the memory takes part in decisions"):
            opened.search_vectors(vectors(1), k=1)
    memory.forget(ids=["a", "b"])
    for opened in (memory, fresh(memory)):
        with pytest.raises(InvalidArgument, match="the memory is empty"):
            opened.search_vectors(vectors(1), k=1)
    memory.add_vectors(["c"], ["x"], vectors(1))
    assert fresh(memory).search_vectors(vectors(1), k=1).ids.tolist() == [["c"]]


def test_a_memory_made_anew_in_the_same_place_is_noticed_though_its_version_has_the_same_number(
    memory: VisualMemory,
) -> None:
    path = memory.path
    shutil.rmtree(path)
    other = VisualMemory.create(path, embedder=foreign_vectors("made", DIMENSION))
    other.add_vectors(["a"], ["x"], vectors(1))
    assert other.version == memory.version
    assert memory.refresh()
    assert memory.snapshot().ids.tolist() == ["a"]


def test_what_another_object_wrote_is_read_after_a_refresh(memory: VisualMemory) -> None:
    other = fresh(memory)
    other.forget(ids=["1"])
    assert len(memory) == 60
    assert memory.refresh()
    assert not memory.refresh()
    assert state(memory) == state(other)


def test_an_edit_starts_from_the_latest_version(memory: VisualMemory) -> None:
    other = fresh(memory)
    other.forget(ids=["1"])
    memory.forget(ids=["2"])
    assert sorted(set(map(str, range(60))) - set(fresh(memory).snapshot().ids)) == ["1", "2"]


def test_an_old_version_or_a_view_has_nothing_that_edits(memory: VisualMemory) -> None:
    assert not hasattr(memory.at(memory.version), "forget")
    assert not hasattr(memory.without(["1"]), "add_vectors")


def test_a_table_without_keys_gets_them_when_it_is_opened(memory: VisualMemory) -> None:
    import lance

    dataset = lance.dataset(str(memory.path / "items.lance"))
    dataset.drop_columns(["key", "digest"])
    opened = fresh(memory)
    assert len(set(opened.snapshot().rows.keys(np.arange(60)).tolist())) == 60
    opened.forget(ids=["1"])
    assert state(opened) == state(fresh(memory))
    opened.checkout(dataset.version)
    assert len(opened.snapshot().ids) == 60
    assert state(opened) == state(fresh(memory))


def test_an_edit_waits_for_its_turn_and_gives_up_in_one_sentence(memory: VisualMemory) -> None:
    import filelock

    from retrieval.errors import MemoryBusy
    from retrieval.storage.places import LOCK, writer_lock

    with (
        filelock.FileLock(memory.path / LOCK, is_singleton=False),
        pytest.raises(MemoryBusy, match="is being written by another process"),
        writer_lock(memory.path, wait_seconds=0.1),
    ):
        pass
    assert issubclass(MemoryBusy, StorageError)


def test_a_memory_does_not_go_back_while_an_erasure_is_cut_off(memory: VisualMemory) -> None:
    version = memory.version
    memory.forget(ids=["1"])
    Note.begin(memory.path, "0", (1,), (), Changes(memory.version))
    with pytest.raises(StorageError, match="cannot go back while items are being erased.*--resume"):
        memory.checkout(version)
    assert len(memory) == 59
