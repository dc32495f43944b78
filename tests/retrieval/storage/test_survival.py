"""``kill -9`` at random points of edits: each edit is wholly there or not at all, and what was acknowledged is there.

``VMEM_TEST_KILLS`` says how many points to try; a few by default.
"""

import itertools
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from retrieval.erasing.erase import finish_pending
from retrieval.indexes.saved import check_stored
from retrieval.memory import VisualMemory
from retrieval.storage.checking import check_memory
from retrieval.storage.places import ASIDE, erasure_notes
from tests.retrieval.storage import edits
from tests.retrieval.storage.edits import KINDS, State, expect_right_answers, expected, holds

KILLS = int(os.environ.get("VMEM_TEST_KILLS", "12"))
START_SECONDS = 60.0  # for a process that may have an index to build first
WAIT_SECONDS = 4.0  # for an edit of the kind that is to be cut off
LONGEST = {
    "erase": 0.3,
    "compact": 0.2,
    "grow": 0.1,
    "shrink": 0.1,
    "index": 0.6,
    "rebuild": 0.8,
}  # seconds from its beginning
KILLS_OF_ONE = 25  # memory; then another, which has not thousands of versions


def test_edits_killed_at_random_points_are_wholly_there_or_not_at_all(tmp_path: Path) -> None:
    seed = random.SystemRandom().getrandbits(32)
    chance = random.Random(seed)
    print(f"seed {seed}")
    cut_off, done = Counter[str](), Counter[str]()
    state: State
    for number in range(KILLS):
        if number % KILLS_OF_ONE == 0:
            path, log = tmp_path / f"memory {number}", tmp_path / f"{number}.jsonl"
            edits.create(path)
            state, states, erased = edits.first_state(), dict[int, State](), set[str]()
        log.write_text("")
        kill_one(path, log, KINDS[number % len(KINDS)], chance)
        state, states, pending, gone = replay(log, state, states)
        erased |= gone
        cut_off[pending["kind"] if pending else "nothing"] += 1
        if erasure_notes(path):
            finish_pending(path, traces=[], progress=False)
        memory = VisualMemory.open(path)
        undone = pending is not None and pending["kind"] == "undo" and memory.version > max(states)
        there = pending is None or undone or holds(memory) != expected(state)
        if pending and there:
            done[pending["kind"]] += 1
            state = edits.after(state, pending, states)
        assert holds(memory) == expected(state), pending
        expect_whole_versions(memory)
        if pending and not there:  # the same command goes through
            edits.make(memory, pending)
            state = edits.after(state, pending, states)
            assert holds(memory) == expected(state), pending
        erased |= set(pending["ids"]) if pending and pending["kind"] == "erase" else set()
        states = {memory.version: state}
        expect_right_answers(memory, state, erased)
        expect_no_left_overs(path)
        if number % KILLS_OF_ONE in (KILLS_OF_ONE - 1, KILLS - 1):
            expect_everything_swept(path, memory)
    print(f"{KILLS} kills, in the middle of {dict(cut_off)}; there though not acknowledged: {dict(done)}")


def kill_one(path: Path, log: Path, kind: str, chance: random.Random) -> None:
    """Let a process edit, and kill it while it makes an edit of a kind, or somewhere."""
    command = [sys.executable, edits.__file__, str(path), str(log), str(chance.getrandbits(32)), kind]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, cwd=Path(__file__).parents[3])
    wait_for(process, log, '"done"', START_SECONDS)
    wait_for(process, log, f'"kind": "{kind}"', WAIT_SECONDS)
    time.sleep(chance.uniform(0, LONGEST.get(kind, 0.03)))
    process.kill()
    _, errors = process.communicate()
    assert process.returncode == -9, errors.decode()
    assert log.read_text(), "killed before it began"


def wait_for(process: "subprocess.Popen[bytes]", log: Path, text: str, seconds: float) -> None:
    """Wait until a process has written something to its log, or has ended, or some time is over."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline and text not in log.read_text():
        time.sleep(0.005)


def replay(
    log: Path, state: State, states: dict[int, State]
) -> tuple[State, dict[int, State], edits.Edit | None, set[str]]:
    """Return the state after what was acknowledged, states by version, the edit under way, and the erased ids."""
    lines = [json.loads(line) for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
    states = dict(states)
    erased = set[str]()
    states[lines[0]["done"]] = state
    for begun_, done in itertools.zip_longest(lines[1::2], lines[2::2]):
        if done is None:
            return state, states, begun_["begun"], erased
        state = edits.after(state, begun_["begun"], states)
        states[done["done"]] = state
        if begun_["begun"]["kind"] == "erase":
            erased |= set(begun_["begun"]["ids"])
    return state, states, None, erased


def expect_no_left_overs(path: Path) -> None:
    """Look for what a killed writer left, after the next one has opened the memory and answered."""
    assert check_stored(path / "index") == []
    names = {entry.name for entry in path.iterdir() if not entry.name.startswith(ASIDE)}
    assert names <= {
        "items.lance",
        "dropped.rows",
        "index",
        "receipts",
        "receipts.sha256",
        ".writer.lock",
    }


def expect_whole_versions(memory: VisualMemory) -> None:
    """Read every version that is listed, and every tag."""
    listed = memory.history()
    assert [version.number for version in listed][0] == memory.version
    for version in listed:
        table = memory.at(version.number)._table
        assert (len(table), table.dataset.to_table().num_rows) == (version.items, version.items)
        assert all(memory.at(tag).version == version.number for tag in version.tags)


def expect_everything_swept(path: Path, memory: VisualMemory) -> None:
    """Erase something: that sweeps up what was killed while it was put aside. Then read all there is."""
    edits.erase(memory, memory.snapshot().ids[:2].tolist())
    assert not list(path.glob(f"{ASIDE}*"))
    memory.build_index()
    assert check_memory(path).sound
