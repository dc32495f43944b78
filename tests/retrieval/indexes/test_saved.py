"""An index on disk: whole or not there, and without a trace of what was erased."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from retrieval.errors import InvalidArgument
from retrieval.indexes.base import ArrayBlocks
from retrieval.indexes.saved import Stored, build_stored, check_stored, erase_stored, extend_stored, load_stored
from retrieval.items import KeyRanges
from retrieval.vectors import to_fixed_point
from tests.conftest import needs_scann
from tests.retrieval.indexes.saving import TREE, Vectors, copied, keys_of, live, processes, save

pytestmark = needs_scann


def answers(stored: Stored | None, queries: np.ndarray) -> np.ndarray:
    assert stored is not None
    found: np.ndarray = stored.keys[stored.index.search(queries, 1)[0][:, 0]]
    return found


def kept_bytes(vector: np.ndarray) -> bytes:
    return to_fixed_point(vector[None]).tobytes()


@pytest.fixture(scope="module")
def vectors(random_vectors: Vectors) -> np.ndarray:
    """Return vectors for a tree, and 300 more."""
    return random_vectors(TREE + 300, 16)


@pytest.fixture(scope="module")
def built(vectors: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """Return an index with a tree; tests change a copy of its folder."""
    return save(vectors[:TREE], tmp_path_factory.mktemp("built") / "index", stamp="mean 1")


@pytest.fixture
def folder(built: Stored, tmp_path: Path) -> Path:
    """Return the folder of a saved index with a tree."""
    assert built.folder is not None
    return copied(built.folder.parent, tmp_path)


def load_tree(folder: Path) -> Stored:
    stored = load_stored(folder, stamp="mean 1")
    assert stored is not None
    return stored


def test_a_saved_index_is_found_again_with_its_keys(random_vectors: Vectors, tmp_path: Path) -> None:
    vectors = random_vectors(20, 8)
    found_again(save(vectors, tmp_path / "index", stamp="mean 1"), vectors, tmp_path / "index")


def test_a_saved_tree_is_found_again_with_its_keys(built: Stored, vectors: np.ndarray, folder: Path) -> None:
    found_again(built, vectors, folder)


def found_again(built: Stored, vectors: np.ndarray, folder: Path) -> None:
    loaded = load_stored(folder, stamp="mean 1")
    assert np.array_equal(answers(loaded, vectors[:20]), answers(built, vectors[:20]))
    assert answers(loaded, vectors[:3]).tolist() == keys_of(3).tolist()
    assert check_stored(folder) == []


def test_keys_cannot_be_written_to(random_vectors: Vectors, tmp_path: Path) -> None:
    for folder in (tmp_path, None):
        stored = build_stored("scann", ArrayBlocks(random_vectors(5, 8)), keys_of(5), folder)
        with pytest.raises(ValueError, match="read-only"):
            stored.keys[0] = 1


def test_an_index_of_another_stamp_is_not_loaded(random_vectors: Vectors, tmp_path: Path) -> None:
    save(random_vectors(20, 8), tmp_path, stamp="mean 1")
    assert load_stored(tmp_path) is None and load_stored(tmp_path, stamp="mean 2") is None


def test_where_nothing_was_saved_nothing_is_loaded_checked_or_erased(tmp_path: Path) -> None:
    nowhere = tmp_path / "index"
    assert load_stored(nowhere) is None
    assert check_stored(nowhere) == erase_stored(nowhere, but=[]) == []


def test_exact_search_is_kept_in_memory_and_takes_away_what_was_saved(random_vectors: Vectors, tmp_path: Path) -> None:
    save(random_vectors(20, 8), tmp_path)
    stored = build_stored("exact", ArrayBlocks(random_vectors(20, 8)), keys_of(20), tmp_path)
    assert stored.folder is None and not list(tmp_path.iterdir())
    longer = extend_stored(stored, ArrayBlocks(random_vectors(5, 8, seed=1)), keys_of(5, first=7), tmp_path)
    assert answers(longer, random_vectors(5, 8, seed=1)).tolist() == [7, 8, 9, 10, 11]


def test_a_new_index_takes_the_place_of_the_old_one_and_of_what_lay_around(
    random_vectors: Vectors, tmp_path: Path
) -> None:
    save(random_vectors(20, 8), tmp_path)
    (tmp_path / "index.json").write_text("of an earlier release")
    (tmp_path / "0123456789abcdef").mkdir()
    (tmp_path / "0123456789abcdef" / "vectors.i16").write_bytes(b"left by a killed run")
    save(random_vectors(30, 8), tmp_path)
    loaded = load_stored(tmp_path)
    assert loaded is not None and len(loaded.index) == 30
    assert {entry.name for entry in tmp_path.iterdir()} == {"current", live(tmp_path).name}


def test_an_extended_index_shares_the_rows_on_disk(vectors: np.ndarray, folder: Path) -> None:
    first = load_tree(folder)
    rows = (live(folder) / "vectors.i16").stat().st_ino
    extended = extend_stored(first, ArrayBlocks(vectors[TREE:]), keys_of(300, first=5), folder)
    assert (live(folder) / "vectors.i16").stat().st_ino == rows
    for stored in (extended, load_tree(folder)):
        assert (answers(stored, vectors[TREE:]) == keys_of(300, first=5)).mean() > 0.99
    assert answers(first, vectors[:3]).tolist() == keys_of(3).tolist()
    assert check_stored(folder) == []


def test_the_rows_of_one_leaf_lie_together_on_disk(folder: Path) -> None:
    leaves, places = (np.load(live(folder) / f"{name}.npy") for name in ("datapoint_to_token", "places"))
    by_place = np.empty_like(leaves)
    by_place[places] = leaves
    assert (np.diff(by_place) >= 0).all() and len(np.unique(leaves)) > 100


def test_an_index_that_another_has_replaced_is_extended_in_memory_only(vectors: np.ndarray, folder: Path) -> None:
    stale = load_tree(folder)
    save(vectors[:20], folder)
    longer = extend_stored(stale, ArrayBlocks(vectors[TREE:]), keys_of(300, first=5), folder)
    assert longer.folder is None and len(longer.index) == TREE + 300
    loaded = load_stored(folder)
    assert loaded is not None and len(loaded.index) == 20


def test_rows_that_a_killed_run_left_behind_the_end_are_no_part_of_an_extended_index(
    vectors: np.ndarray, folder: Path
) -> None:
    with (live(folder) / "vectors.i16").open("ab") as rows:
        rows.write(b"left by a killed run")
    extend_stored(load_tree(folder), ArrayBlocks(vectors[TREE : TREE + 10]), keys_of(10, first=5), folder)
    assert answers(load_tree(folder), vectors[TREE : TREE + 10]).tolist() == keys_of(10, first=5).tolist()
    assert check_stored(folder) == [] and b"killed" not in (live(folder) / "vectors.i16").read_bytes()


def test_of_erased_items_neither_vector_nor_key_is_left(random_vectors: Vectors, tmp_path: Path) -> None:
    vectors = random_vectors(20, 24)
    save(vectors, tmp_path)
    leaves_nothing(vectors, tmp_path, stamp="")


def test_of_items_erased_from_a_tree_neither_vector_nor_key_is_left(vectors: np.ndarray, folder: Path) -> None:
    leaves_nothing(vectors[:TREE], folder, stamp="mean 1")


def leaves_nothing(vectors: np.ndarray, folder: Path, *, stamp: str) -> None:
    items = len(vectors)
    (folder / "feedfeedfeedfeed").mkdir()
    (folder / "feedfeedfeedfeed" / "vectors.i16").write_bytes(kept_bytes(vectors[3]))
    with (live(folder) / "vectors.i16").open("ab") as rows:
        rows.write(kept_bytes(vectors[3]))
    written = erase_stored(folder, but=[KeyRanges.of(np.delete(keys_of(items), [3, 17]))])
    assert written and all((folder / name).exists() for name in written)
    everything = b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())
    for row in (3, 17):
        assert kept_bytes(vectors[row]) not in everything
        assert keys_of(items)[row].tobytes() not in everything
    assert kept_bytes(vectors[4]) in everything
    loaded = load_stored(folder, stamp=stamp)
    assert loaded is not None and np.flatnonzero(loaded.keys < 0).tolist() == [3, 17]
    assert check_stored(folder) == []
    assert erase_stored(folder, but=[KeyRanges.of(np.delete(keys_of(items), [3, 17]))]) == []


def test_an_opened_index_goes_on_while_items_are_erased(vectors: np.ndarray, folder: Path) -> None:
    opened = load_tree(folder)
    erase_stored(folder, but=[KeyRanges.of(keys_of(TREE)[3:])])
    assert answers(opened, vectors[10:13]).tolist() == keys_of(3, first=10**12 + 10).tolist()


def test_an_index_is_not_taken_for_damaged_while_items_are_erased(
    vectors: np.ndarray, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    eraser = processes().Process(target=_erase_often, args=(folder,))
    eraser.start()
    while eraser.is_alive():
        assert answers(load_tree(folder), vectors[TREE - 3 : TREE]).tolist() == keys_of(TREE)[-3:].tolist()
    eraser.join()
    assert eraser.exitcode == 0 and not caplog.text


def _erase_often(folder: Path) -> None:
    for start in range(0, 200, 10):
        erase_stored(folder, but=[KeyRanges.of(keys_of(TREE)[start + 10 :])])


def test_an_unknown_kind_is_not_built(random_vectors: Vectors) -> None:
    with pytest.raises(InvalidArgument, match="no index 'tree'"):
        build_stored("tree", ArrayBlocks(random_vectors(2, 8)), keys_of(2), None)


def test_where_the_disk_is_full_the_index_is_kept_in_memory_and_the_old_one_on_disk(
    vectors: np.ndarray, tmp_path: Path
) -> None:
    """A limit on the size of files stands for the full disk: the system refuses to write beyond it."""
    save(vectors[:20], tmp_path)
    before = {file: file.read_bytes() for file in sorted(tmp_path.rglob("*")) if file.is_file()}
    for limit in (1000, 3000 * 32 - 1):  # the last of the bytes of its largest file
        child = processes().Process(target=_build_within, args=(vectors[:3000], tmp_path, limit))
        child.start()
        child.join(60)
        assert child.exitcode == 0
        assert {file: file.read_bytes() for file in sorted(tmp_path.rglob("*")) if file.is_file()} == before


def _build_within(vectors: np.ndarray, folder: Path, limit: int) -> None:
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    stored = save(vectors, folder)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    found = answers(stored, vectors[:50])
    os._exit(0 if stored.folder is None and (found == keys_of(50)).all() else 1)


def test_a_build_killed_at_any_moment_leaves_the_old_index_or_the_new_one(vectors: np.ndarray, tmp_path: Path) -> None:
    save(vectors[:20], tmp_path / "index")
    child = processes().Process(target=save, args=(vectors[:TREE], tmp_path / "timed"))
    started = time.perf_counter()
    child.start()
    child.join()
    whole = time.perf_counter() - started
    for moment in np.linspace(0.01, 1.1 * whole, 12):
        child = processes().Process(target=save, args=(vectors[:TREE], tmp_path / "index"))
        child.start()
        child.join(moment)
        child.kill()
        child.join()
        loaded = load_stored(tmp_path / "index")
        assert loaded is not None and answers(loaded, vectors[:3]).tolist() == keys_of(3).tolist()
        assert check_stored(tmp_path / "index") == []
    save(vectors[:30], tmp_path / "index")
    assert len(list((tmp_path / "index").iterdir())) == 2


def test_readers_get_one_whole_index_while_it_is_replaced_again_and_again(
    random_vectors: Vectors, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    vectors = random_vectors(60, 8)
    save(vectors[:20], tmp_path)
    writer = processes().Process(target=_replace_often, args=(vectors, tmp_path))
    writer.start()
    sizes = set()
    while writer.is_alive():
        stored = load_stored(tmp_path)
        assert stored is not None
        sizes.add(len(stored.index))
        assert answers(stored, vectors[:20]).tolist() == keys_of(20).tolist()
    writer.join()
    assert sizes <= {20, 60} and not caplog.text


def _replace_often(vectors: np.ndarray, folder: Path) -> None:
    for turn in range(30):
        save(vectors[: (20, 60)[turn % 2]], folder)


def test_what_was_erased_after_an_index_was_opened_is_not_carried_on_by_extending_it(
    random_vectors: Vectors, tmp_path: Path
) -> None:
    save(random_vectors(20, 8), tmp_path)
    opened = load_stored(tmp_path)
    assert opened is not None
    erase_stored(tmp_path, but=[KeyRanges.of(keys_of(20)[3:])])
    extend_stored(opened, ArrayBlocks(random_vectors(5, 8, seed=1)), keys_of(5, first=7), tmp_path)
    assert (np.load(live(tmp_path) / "lengths.npy")[:3] == 0).all()
    assert answers(load_stored(tmp_path), random_vectors(5, 8, seed=1)).tolist() == [7, 8, 9, 10, 11]
