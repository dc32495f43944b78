"""Damage of every kind to every kind of file: it is found, said in a sentence, and one can go back."""

import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval.cli.history_cli import check, checkout
from retrieval.embedders.base import foreign_vectors
from retrieval.errors import NotAMemory, StorageError, UnknownVersion, VisualMemoryError
from retrieval.memory import VisualMemory
from retrieval.storage.checking import check_memory, go_back
from retrieval.storage.versions import SUMS, manifest
from retrieval.view import MemoryView
from tests.retrieval.storage.damage import HARMS, flip, run, truncate

DIMENSION = 8


def vectors(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype(np.float32)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a memory of six versions: 40 items, 20 more, 2 forgotten, 1 relabelled, a pruning."""
    memory = VisualMemory.create(tmp_path_factory.mktemp("m") / "memory", embedder=foreign_vectors("made", DIMENSION))
    memory.add_vectors([f"{i}" for i in range(40)], ["some"] * 40, vectors(40))
    memory.add_vectors([f"more {i}" for i in range(20)], ["more"] * 20, vectors(20, 1))
    memory.forget(ids=["3", "more 4"])
    memory.relabel("other", ids=["7"])
    memory.set_reliability(np.linspace(0.5, 1, 58))
    return memory.path


@pytest.fixture
def path(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "memory"))


def newest(path: Path, part: str) -> Path:
    return max((path / "items.lance" / part).glob("*.*"), key=lambda file: file.stat().st_mtime_ns)


def answers(memory: MemoryView) -> list[Any]:
    found = memory.search_vectors(vectors(5, 9), k=10)
    return [found.ids.tolist(), found.labels.tolist(), found.distances.tolist()]


FLIPS = int(os.environ.get("VMEM_TEST_FLIPS", "1"))
READS: dict[str, Callable[[Path], object]] = {
    "search": lambda path: answers(VisualMemory.open(path)),
    "stats": lambda path: [VisualMemory.open(path).stats().labels, VisualMemory.open(path).settings],
    "history": lambda path: VisualMemory.open(path).history(),
    "versions": lambda path: [answers(VisualMemory.open(path).at(version)) for version in (2, "kept", 5)],
}


def everything_read(path: Path) -> dict[str, object]:
    return {name: read(path) for name, read in READS.items()}


def test_a_sound_memory_is_found_sound(path: Path) -> None:
    found = check_memory(path)
    assert found.sound
    assert (found.version, found.versions, found.whole, found.items) == (6, 6, 6, 58)
    code, said = run(check, path)
    assert (code, "The table is sound: 58 pictures, version 6" in said) == (0, True)


def test_where_no_memory_is_none_is_checked(tmp_path: Path) -> None:
    with pytest.raises(NotAMemory, match="there is nothing"):
        check_memory(tmp_path / "nowhere")


@HARMS
@pytest.mark.parametrize("part", ["data", "_deletions"])
def test_a_damaged_file_of_the_newest_version_is_reported_with_the_version_to_go_back_to(
    path: Path, part: str, hurt: Callable[[Path], None]
) -> None:
    hurt(newest(path, part))
    code, said = run(check, path)
    back = {"data": 5, "_deletions": 4}[part]
    assert code == 1
    assert f"`vmem memory checkout {path} {back} --repair` goes back to it" in said
    code, said = run(checkout, path, back)  # which does without reading everything
    assert code == 0, said
    assert len(answers(VisualMemory.open(path))[0]) == 5
    code, said = run(checkout, path, back, "--repair")
    assert code == 0, said
    assert check_memory(path).sound
    assert len(answers(VisualMemory.open(path))[0]) == 5


@HARMS
def test_a_damaged_list_of_the_newest_version_is_reported_with_the_version_to_go_back_to(
    path: Path, hurt: Callable[[Path], None]
) -> None:
    before = answers(VisualMemory.open(path).at(5))
    hurt(path / "items.lance" / manifest(6))
    with pytest.raises(NotAMemory, match="`vmem memory check .*` says what is damaged and which version to go back to"):
        VisualMemory.open(path)
    found = check_memory(path)
    assert (found.sound, found.version, found.whole) == (False, 6, 5)
    code, said = run(checkout, path, 5)
    assert code == 0, said
    assert check_memory(path).sound
    assert answers(VisualMemory.open(path)) == before


@HARMS
def test_damage_to_what_says_which_items_are_forgotten_is_noticed_when_a_memory_is_opened(
    path: Path, hurt: Callable[[Path], None]
) -> None:
    hurt(newest(path, "_deletions"))
    with pytest.raises(NotAMemory, match="`vmem memory check .*` says what is damaged"):
        VisualMemory.open(path)


@HARMS
def test_damage_to_an_earlier_version_alone_leaves_the_newest_usable(path: Path, hurt: Callable[[Path], None]) -> None:
    before = answers(VisualMemory.open(path))
    hurt(path / "items.lance" / manifest(2))
    assert answers(VisualMemory.open(path)) == before
    found = check_memory(path)
    assert (found.whole, found.items) == (6, 58)
    if hurt is not Path.unlink:  # then that version is not there any more: nothing refers to it
        assert not found.sound
        run(checkout, path, 6, "--repair")
        assert check_memory(path).sound
        assert answers(VisualMemory.open(path)) == before


@HARMS
def test_what_lance_keeps_of_past_commits_is_not_needed(path: Path, hurt: Callable[[Path], None]) -> None:
    before = answers(VisualMemory.open(path))
    for file in (path / "items.lance" / "_transactions").iterdir():
        hurt(file)
    memory = VisualMemory.open(path)
    assert answers(memory) == before
    assert len(memory.history()) == 6
    memory.forget(ids=["8"])
    assert check_memory(path).sound


def test_a_version_that_is_damaged_cannot_be_gone_back_to(path: Path) -> None:
    truncate(path / "items.lance" / manifest(5))
    truncate(path / "items.lance" / manifest(6))
    with pytest.raises(UnknownVersion, match="has no version 5 that can be read: `vmem memory check .*` says which"):
        go_back(path, 5)
    assert check_memory(path).whole == 4


def test_a_tag_of_a_damaged_version_goes_with_it(path: Path) -> None:
    memory = VisualMemory.open(path)
    memory.tag("kept", version=5)
    memory.tag("lost", version=6)
    flip(path / "items.lance" / manifest(6))
    go_back(path, 5)
    assert [version.tags for version in VisualMemory.open(path).history(limit=2)] == [(), ("kept",)]


def test_where_nothing_can_be_read_that_is_said(path: Path) -> None:
    for file in (path / "items.lance" / "_versions").glob("*.manifest"):
        truncate(file)
    code, said = run(check, path)
    assert (code, "No version can be read whole" in said) == (1, True)


def test_the_sums_are_those_of_the_system_s_own_command(path: Path) -> None:
    subprocess.run(["sha256sum", "--check", "--strict", SUMS], cwd=path / "items.lance", check=True)
    files = {
        file.relative_to(path / "items.lance").as_posix()
        for part in ("data", "_deletions")
        for file in (path / "items.lance" / part).iterdir()
    }
    assert files <= {line.split()[1] for line in (path / "items.lance" / SUMS).read_text().split("\n") if line}


def test_files_without_sums_are_decoded_and_get_them(path: Path) -> None:
    (path / "items.lance" / SUMS).unlink()
    assert check_memory(path).sound
    flip(newest(path, "data"))
    assert not check_memory(path).sound


def test_a_damaged_file_without_a_sum_is_found_where_it_cannot_be_decoded(path: Path) -> None:
    (path / "items.lance" / SUMS).unlink()
    truncate(newest(path, "data"))
    assert check_memory(path).whole == 5


def test_a_line_of_the_sums_that_was_cut_off_does_no_harm(path: Path) -> None:
    os.truncate(path / "items.lance" / SUMS, (path / "items.lance" / SUMS).stat().st_size - 20)
    assert check_memory(path).sound
    VisualMemory.open(path).forget(ids=["9"])
    assert check_memory(path).sound


def test_the_findings_can_be_had_as_json(path: Path) -> None:
    flip(newest(path, "data"))
    code, said = run(check, path, "--json")
    assert code == 1
    found = json.loads(said.splitlines()[-1])
    assert (found["sound"], found["whole"], len(found["table"])) == (False, 5, 1)


def test_one_bit_of_an_old_version_s_list_is_said_in_a_sentence(path: Path) -> None:
    memory, file = VisualMemory.open(path), path / "items.lance" / manifest(2)
    whole = file.read_bytes()
    for place in range(0, len(whole), 61):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        assert not check_memory(path, progress=False).sound
        assert len(memory.at(3)) == 60
        for read in (memory.history, memory.commands, lambda: memory.at(2)):
            with pytest.raises(NotAMemory, match="is not as it was written; `vmem memory check"):
                read()


@pytest.mark.parametrize("place", ["number", "name", "brace", "sum"])
def test_a_damaged_tag_is_found_and_can_be_taken_away(path: Path, place: str) -> None:
    memory = VisualMemory.open(path)
    memory.tag("kept", version=4)
    assert check_memory(path).sound and len(memory.at("kept")) == 58
    file = path / "items.lance" / "_refs" / "tags" / "kept.json"
    before, after = {"number": ("4", "5"), "name": ('"version"', '"versinn"'), "brace": ("{", "z"), "sum": ("m", "\0")}[
        place
    ]
    text = file.read_text()
    at = text.rindex(before) if place == "sum" else text.index(before)
    file.write_text(text[:at] + after + text[at + len(before) :])
    assert "tag 'kept' is damaged" in check_memory(path).table[0]
    for use in (memory.history, lambda: memory.compact(keep=1), lambda: memory.at("kept"), lambda: memory.tag("other")):
        with pytest.raises(StorageError, match="tag 'kept' of .* is damaged.*`vmem memory untag .* kept`"):
            use()
    with pytest.raises(StorageError, match="tag 'kept' of .* is damaged"):
        memory.erase(ids=["1"], progress=False)
    assert len(memory.at(4)) == 58
    memory.untag("kept")
    assert check_memory(path).sound and len(memory.history()) == 6


def test_a_tag_of_before_has_no_sum_and_is_read(path: Path) -> None:
    import lance

    lance.dataset(str(path / "items.lance")).tags.create("old", 4)
    memory = VisualMemory.open(path)
    assert memory.at("old").version == 4 and check_memory(path).sound
    memory.tag("new", version=5)
    assert lance.dataset(str(path / "items.lance")).tags.list()["new"]["version"] == 5
    memory.untag("old")
    assert [version.tags for version in memory.history(limit=2)] == [(), ("new",)]


def test_no_damaged_byte_of_any_file_gives_a_wrong_answer_or_a_traceback(path: Path) -> None:
    """Of each file some bytes; ``VMEM_TEST_FLIPS`` says how many, a few by default."""
    VisualMemory.open(path).tag("kept", version=3)
    seed = random.randrange(2**32)
    chance, right = random.Random(seed), everything_read(path)
    for file in sorted(file for file in path.rglob("*") if file.is_file() and file.stat().st_size):
        whole = file.read_bytes()
        for place in chance.sample(range(len(whole)), min(FLIPS, len(whole))):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << chance.randrange(8)]) + whole[place + 1 :])
            for name, read in READS.items():
                try:
                    assert read(path) == right[name], (name, file, place, seed)
                except VisualMemoryError as error:
                    assert "\n" not in str(error)
            check_memory(path, progress=False)
            file.write_bytes(whole)


def test_of_a_large_file_the_columns_that_are_read_are_compared(tmp_path: Path) -> None:
    memory = VisualMemory.create(tmp_path / "m", embedder=foreign_vectors("made", 256))
    memory.add_vectors(
        [f"{i}" for i in range(4000)], ["some"] * 4000, np.random.default_rng(0).normal(size=(4000, 256))
    )
    (file,) = (memory.path / "items.lance" / "data").iterdir()
    (line,) = (memory.path / "items.lance" / "PARTS.jsonl").read_text().splitlines()
    (parts,) = json.loads(line).values()
    assert [parts[0][1], parts[-1][2]] == [0, file.stat().st_size]
    assert [part[1] for part in parts[1:]] == [part[2] for part in parts[:-1]]
    assert {part[0] for part in parts} == {"id", "label", "key", "vector", ""}  # the last says where the others are
    for _, start, end, _ in parts:
        os.utime(file)  # what this process has compared before it does not read again
        content = bytearray(file.read_bytes())
        content[(start + end) // 2] ^= 1
        file.write_bytes(content)
        with pytest.raises(NotAMemory, match="is not as it was written"):
            VisualMemory.open(memory.path).search_vectors(np.ones((1, 256)), k=1)
        content[(start + end) // 2] ^= 1
        file.write_bytes(content)
        assert len(VisualMemory.open(memory.path).search_vectors(np.ones((1, 256)), k=1).ids) == 1
