"""``kill -9`` at random points of runs: the figures are those of an unbroken run, to the byte.

``VMEM_TEST_KILLS`` says how many points to try; a few by default.
"""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eval.runs.log import read_run
from tests.agent.queries import noise
from tests.commands import vmem

KILLS = int(os.environ.get("VMEM_TEST_KILLS", "5"))
COUNTS = {"vote": 520, "model": 120, "centred": 520}  # queries: three groups of a run that votes, and many lines
HEADER = 2000  # bytes: more than the log's first line, less than a group


def write_queries(folder: Path, count: int) -> None:
    for label in ("red", "green"):
        (folder / label).mkdir(parents=True)
    for number in range(count):
        noise(number).save(folder / ("red", "green")[number % 2] / f"{number}.png")
    (folder / "red" / "broken.png").write_text("words")


@pytest.mark.parametrize(
    ("kind", "way"),
    [("vote", ()), ("model", ("--model", "scripted")), ("centred", ("--centre", "queries"))],
    ids=["vote", "model", "centred"],
)
def test_a_run_that_is_killed_again_and_again_has_the_figures_of_an_unbroken_one(
    built: Path, tmp_path: Path, kind: str, way: tuple[str, ...]
) -> None:
    write_queries(queries := tmp_path / "queries", COUNTS[kind])
    command = ["eval", "run", "--memory", str(built), "--k", "18"]
    command += ["--dataset", f"q={queries}", "--pictures", "5", "--precision", "float32", *way]
    whole = vmem(*command, "--out", tmp_path / "whole", "--no-cache")
    assert whole.returncode == 0, whole.stderr
    broken = [sys.executable, "-m", "eval.cli.vmem", *command, "--out", str(tmp_path / "broken"), "--no-cache"]
    chance = random.Random(str(way))
    # Half of them as soon as there is something more in the log, half at any time.
    kills = sum(
        killed(broken, tmp_path / "broken" / "log.jsonl", chance, in_log=number % 2 == 0) for number in range(KILLS)
    )
    assert vmem(*broken[3:]).returncode == 0
    assert kills >= 1
    assert sorted(read_run(tmp_path / "broken").results["q"].ids) == sorted(
        read_run(tmp_path / "whole").results["q"].ids
    )
    assert (tmp_path / "broken" / "metrics.json").read_bytes() == (tmp_path / "whole" / "metrics.json").read_bytes()


def killed(command: list[str], log: Path, chance: random.Random, *, in_log: bool) -> bool:
    """Run a command and kill it; tell whether it was still running."""

    def size() -> int:
        return log.stat().st_size if log.exists() else 0

    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    before, until = size(), time.monotonic() + chance.uniform(0.3, 2.0)
    while running.poll() is None and (size() < before + HEADER if in_log else time.monotonic() < until):
        time.sleep(0.002)
    time.sleep(chance.uniform(0, 0.02))
    was_running = running.poll() is None
    running.kill()
    running.wait()
    return was_running
