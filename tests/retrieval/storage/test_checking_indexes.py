"""Damaged indexes are found and built anew from the table, and nothing that lies in their place is ever run."""

import pickle
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from retrieval.cli.history_cli import check
from retrieval.indexes.base import ArrayBlocks
from retrieval.indexes.saved import build_stored, load_stored
from retrieval.memory import VisualMemory
from retrieval.storage.checking import check_memory
from tests.retrieval.storage import edits
from tests.retrieval.storage.damage import HARMS, run, truncate
from tests.retrieval.storage.edits import WITHOUT_TREE


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Return what gives a memory of so many items with an index, made once."""
    return cache(lambda items: edits.create(tmp_path_factory.mktemp("i") / "memory", items).path)


@pytest.fixture
def small(made: Callable[[int], Path], tmp_path: Path) -> Path:
    """Return a memory whose index is no tree."""
    return Path(shutil.copytree(made(WITHOUT_TREE), tmp_path / "memory"))


def some_answers(path: Path) -> tuple[list[object], float]:
    """Return which item each of some items finds first, itself, and how far away it is."""
    found = VisualMemory.open(path).search_vectors(edits.vectors(50, 1), k=5)
    return found.ids[:, 0].tolist(), float(np.abs(found.distances[:, 0]).max())


@HARMS
@pytest.mark.parametrize("name", ["keys.npy", "vectors.i16", "lengths.npy", "header.json"])
def test_a_damaged_index_is_found_taken_away_and_built_anew(
    small: Path, name: str, hurt: Callable[[Path], None]
) -> None:
    expect_found_and_taken_away(small, name, hurt)
    expect_built_anew(small)


@HARMS
def test_a_damaged_tree_is_found_and_taken_away(
    made: Callable[[int], Path], tmp_path: Path, hurt: Callable[[Path], None]
) -> None:
    path = Path(shutil.copytree(made(edits.ITEMS), tmp_path / "memory"))
    expect_found_and_taken_away(path, "hashed_dataset.npy", hurt)
    if hurt is truncate:  # once: what is left without the index is the same whatever it had
        expect_built_anew(path)


def expect_found_and_taken_away(path: Path, name: str, hurt: Callable[[Path], None]) -> None:
    hurt(next((path / "index").glob(f"*/{name}")))
    code, said = run(check, path)
    assert (code, "the next search builds another from the table" in said) == (1, True)
    assert load_stored(path / "index") is None


def expect_built_anew(path: Path) -> None:
    ids, furthest = some_answers(path)
    assert (ids, furthest < 1e-3) == ([f"first {i}" for i in range(50)], True)
    assert check_memory(path).sound
    assert load_stored(path / "index") is not None


def test_an_index_that_holds_other_vectors_than_the_table_is_found(small: Path) -> None:
    snapshot = VisualMemory.open(small).snapshot()
    other = np.concatenate(list(snapshot._table))
    other[[5, 77]] = other[[6, 78]]
    build_stored("scann", ArrayBlocks(other), snapshot.rows.keys(snapshot.rows.living()), small / "index")
    found = check_memory(small)
    assert found.table == ()
    assert "holds other vectors than the table for 2 items" in found.index[0]
    assert some_answers(small)[0] == [f"first {i}" for i in range(50)]


class Trap:
    """Makes a file when it is loaded from a pickle."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.sprung,)


@pytest.mark.parametrize("folder", ["index", "items.lance", "items.lance/data", "items.lance/_versions", "."])
def test_no_pickle_that_somebody_planted_is_ever_loaded(
    made: Callable[[int], Path], tmp_path: Path, folder: str
) -> None:
    items = edits.ITEMS if folder == "index" else WITHOUT_TREE
    path = Path(shutil.copytree(made(items), tmp_path / "memory"))
    place = next((path / "index").glob("*/header.json")).parent if folder == "index" else path / folder
    for name in ("scann_docids.pkl", "keys.npy", "scann_assets.pbtxt", "current", "items.pickle"):
        if name.endswith(("npy", "pbtxt")) and folder != "index":
            continue
        (place / name).write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    pickle.loads(pickle.dumps(Trap(tmp_path / "a trap works")))  # noqa: S301
    assert some_answers(path)[0] == [f"first {i}" for i in range(50)]
    check_memory(path)
    VisualMemory.open(path).forget(ids=["first 9"])
    assert (tmp_path / "a trap works").exists()
    assert not (tmp_path / "sprung").exists()
