"""A saved index that is damaged, or not ours: noticed, never loaded, and gone with what is erased."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from retrieval.indexes.saved import check_stored, erase_stored, load_stored
from retrieval.items import KeyRanges
from tests.conftest import needs_scann
from tests.retrieval.indexes.saving import TREE, Vectors, keys_of, live, save

pytestmark = needs_scann


def test_a_damaged_index_is_removed_rather_than_erased_from(random_vectors: Vectors, tmp_path: Path) -> None:
    save(random_vectors(20, 8), tmp_path)
    (live(tmp_path) / "keys.npy").unlink()
    erase_stored(tmp_path, but=[])
    assert not list(tmp_path.iterdir())


def test_an_index_that_a_killed_erasing_left_half_overwritten_is_removed_by_the_next(
    random_vectors: Vectors, tmp_path: Path
) -> None:
    save(random_vectors(20, 8), tmp_path)
    rows = np.memmap(live(tmp_path) / "vectors.i16", np.int16, "r+", shape=(20, 8))
    rows[0] = 0  # and not yet its length
    rows.flush()
    erase_stored(tmp_path, but=[KeyRanges.of(np.delete(keys_of(20), 3))])
    assert not list(tmp_path.iterdir())


FILES = [
    "ah_codebook.pb",
    "datapoint_to_token.npy",
    "facts.json",
    "hashed_dataset.npy",
    "header.json",
    "keys.npy",
    "lengths.npy",
    "places.npy",
    "scann_assets.pbtxt",
    "scann_config.pb",
    "serialized_partitioner.pb",
    "vectors.i16",
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "index"
    save(np.random.default_rng(0).normal(size=(TREE, 16)).astype(np.float32), folder)
    return folder


def damage(folder: Path, tmp_path: Path, name: str, change: Callable[[bytes], bytes]) -> Path:
    """Return a copy of an index with one file changed."""
    copy = tmp_path / "index" / live(folder).name
    copy.mkdir(parents=True)
    for file in live(folder).iterdir():
        content = file.read_bytes()
        (copy / file.name).write_bytes(change(content) if file.name == name else content)
    (tmp_path / "index" / "current").write_text(copy.name)
    return tmp_path / "index"


def test_the_files_are_those_that_the_tests_damage(saved: Path) -> None:
    assert sorted(file.name for file in live(saved).iterdir()) == FILES


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda content: b"", id="emptied"),
        pytest.param(lambda content: content[:-7], id="cut"),
        pytest.param(lambda content: bytes(len(content)), id="zeroed"),
    ],
)
def test_an_index_with_a_damaged_file_is_not_loaded_and_said_to_be_damaged(
    name: str,
    change: Callable[[bytes], bytes],
    saved: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = damage(saved, tmp_path, name, change)
    with caplog.at_level(logging.WARNING):
        assert load_stored(folder) is None
    assert "is damaged and will be built anew" in caplog.text
    assert len(check_stored(folder)) == 1


def test_one_wrong_byte_among_the_rows_is_found_when_a_small_index_is_opened(saved: Path, tmp_path: Path) -> None:
    def flip(content: bytes) -> bytes:
        return content[:9999] + bytes([content[9999] ^ 1]) + content[10_000:]

    folder = damage(saved, tmp_path, "vectors.i16", flip)
    assert load_stored(folder) is None  # not every row of a large one is looked at then
    (found,) = check_stored(folder)
    assert "vectors.i16 is damaged from byte 0 to" in found


def test_a_pickle_in_an_index_is_never_loaded(saved: Path, tmp_path: Path) -> None:
    folder = damage(saved, tmp_path, "", lambda content: content)
    assert load_stored(folder) is not None
    ran = tmp_path / "ran"
    (live(folder) / "scann_docids.pkl").write_bytes(f"cposix\nsystem\n(S'touch {ran}'\ntR.".encode())
    assert load_stored(folder) is None and not ran.exists()


@pytest.mark.parametrize("header", ["", "[]", "{}", '{"format": 1}', '{"format": 3, "files": []}', '{"format": 3}'])
def test_a_header_of_another_form_is_damage(header: str, saved: Path, tmp_path: Path) -> None:
    folder = damage(saved, tmp_path, "header.json", lambda _: header.encode())
    assert load_stored(folder) is None and len(check_stored(folder)) == 1


def test_an_index_of_an_earlier_format_is_not_loaded_and_goes_with_what_is_erased(saved: Path, tmp_path: Path) -> None:
    def earlier(header: bytes) -> bytes:
        return json.dumps({**json.loads(header), "format": 2}).encode()

    folder = damage(saved, tmp_path, "header.json", earlier)
    assert load_stored(folder) is None
    assert erase_stored(folder, but=[]) == [] and not list(folder.iterdir())


@pytest.mark.parametrize("name", ["", "..", "../elsewhere", "nowhere", "\x00", "\xff"])
def test_a_live_generation_of_another_name_is_none(name: str, saved: Path, tmp_path: Path) -> None:
    folder = damage(saved, tmp_path, "", lambda content: content)
    (folder / "current").write_bytes(name.encode("latin-1"))
    assert load_stored(folder) is None


def test_a_header_that_names_an_unknown_kind_is_damage(saved: Path, tmp_path: Path) -> None:
    def rename(header: bytes) -> bytes:
        return json.dumps({**json.loads(header), "kind": "os"}).encode()

    assert load_stored(damage(saved, tmp_path, "header.json", rename)) is None
