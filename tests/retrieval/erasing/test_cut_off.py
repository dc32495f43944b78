"""Erasures that were cut off: by a kill anywhere, or by a place that does not let go."""

import subprocess
import sys
from pathlib import Path

import pytest

from retrieval.cli.history_cli import checkout
from retrieval.erasing.erase import finish_pending
from retrieval.erasing.secrets import Forgotten, Marks
from retrieval.erasing.traces import FeatureTraces
from retrieval.errors import StorageError, VisualMemoryWarning
from retrieval.storage.places import erasure_notes
from tests.retrieval.erasing.erasures import erase, everything, held, look_again, put, vector_bytes


class Stuck:
    """A place that does not let go of what it keeps."""

    name = "stuck"

    def __init__(self, folder: Path, *, refuses: bool = False) -> None:
        self.folder = folder
        self.refuses = refuses

    def folders(self) -> list[Path]:
        return [self.folder]

    def secrets(self, items: Forgotten) -> list[bytes]:
        return []

    def drop(self, items: Forgotten) -> int:
        return int(1 / 0) if self.refuses else 0

    def remains(self, marks: Marks) -> list[str]:
        return []


def test_no_receipt_is_written_while_something_is_left(memory: Path, tmp_path: Path) -> None:
    stuck = Stuck(tmp_path / "stuck")
    stuck.folder.mkdir()
    (stuck.folder / "kept").write_bytes(vector_bytes(held(memory)["b/3"]))
    with pytest.raises(StorageError, match=r"still holds something .*stuck.*--resume"):
        erase(memory, "b/3", traces=[stuck])
    assert erasure_notes(memory) and not (memory / "receipts").exists() and "b/3" not in held(memory)
    (stuck.folder / "kept").unlink()
    (receipt,), waiting = finish_pending(memory, traces=[stuck], progress=False)
    assert waiting == 0 and not erasure_notes(memory) and look_again(memory, receipt) == {}


def test_the_next_erasure_finishes_one_that_was_cut_off(memory: Path, tmp_path: Path) -> None:
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
    assert not erasure_notes(memory) and len(list((memory / "receipts").iterdir())) == 3


KILLED = """
import os, signal, sys
from pathlib import Path
from retrieval.erasing.erase import keys_of_ids
from retrieval.erasing.erase import erase_items
from retrieval.erasing.traces import FeatureTraces

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
def test_an_erasure_that_is_killed_anywhere_is_finished_or_never_began(memory: Path, events: int) -> None:
    before = held(memory)
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", KILLED, str(memory), str(events)]
    said = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60, check=False)
    assert said.returncode == -9 or "done" in said.stdout, said.stderr
    begun = erasure_notes(memory)
    receipts, _ = finish_pending(memory, traces=[FeatureTraces()], progress=False)
    assert len(receipts) == len(begun)
    if not begun and "done" not in said.stdout and not list(memory.glob("receipts/*.json")):
        assert held(memory) == before
        receipts = [erase(memory, "b/3")]
    rest = everything(memory)
    assert vector_bytes(before["b/3"]) not in rest and before["b/3"]["thumbnail"] not in rest
    assert held(memory) == {id_: row for id_, row in before.items() if id_ != "b/3"}
    assert all(look_again(memory, receipt) == {} for receipt in receipts) and not erasure_notes(memory)


def test_what_waits_for_another_place_is_only_taken_out_of_decisions(memory: Path, tmp_path: Path) -> None:
    stuck = Stuck(tmp_path, refuses=True)
    with pytest.raises(ZeroDivisionError):
        erase(memory, "b/3", traces=[stuck])
    receipts, waiting = finish_pending(memory, traces=[], progress=False)
    assert (receipts, waiting) == ([], 1) and erasure_notes(memory) and "b/3" not in held(memory)
    put(memory, ["b/3"], 8)  # added again meanwhile: another item
    (receipt,), _ = finish_pending(memory, traces=[Stuck(tmp_path / "empty")], progress=False)
    assert "b/3" in held(memory) and receipt.changes.windows_before > 0


def test_repairing_a_memory_does_not_bring_back_what_was_being_erased(memory: Path, tmp_path: Path) -> None:
    stuck = Stuck(tmp_path, refuses=True)
    with pytest.raises(ZeroDivisionError):
        erase(memory, "b/3", traces=[stuck])
    with pytest.warns(VisualMemoryWarning, match="forget .* --resume` goes on"):
        checkout(memory, "3", repair=True)
    assert "b/3" not in held(memory) and "b/4" in held(memory) and erasure_notes(memory)
