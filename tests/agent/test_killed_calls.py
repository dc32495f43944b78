"""``kill -9`` at random points of runs that ask a model: what was answered is never paid for again.

``VMEM_TEST_KILLS`` says how many points to try; a few by default.
"""

import hashlib
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from agent.calls.cached import ReplyStore
from retrieval import VisualMemory
from tests.agent.conftest import KEY
from tests.agent.test_batch_of_queries import answer_by_picture, noise
from tests.gemini_server import Call, GeminiServer

KILLS = int(os.environ.get("VMEM_TEST_KILLS", "6"))
COUNT = 20 * KILLS  # so that every kill finds work under way
PROGRAM = """
import sys
from pathlib import Path
from agent.batch import BatchJobs, BatchSettings
from agent.classify import prepare
from agent.settings import TransportConfig
from agent.calls.ready import load_model
from eval.datasets.trees import read_folder
from eval.runs.runner import run_evaluation
from eval.types import Dataset
from retrieval import VisualMemory

memory, queries, out, batch = VisualMemory.open(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4] == "batch"
model = load_model("gemini-3.5-flash-lite", transport=TransportConfig(concurrency=4, first_wait_seconds=0.01))
stages = prepare(memory, model=model, k=18)
jobs = BatchJobs(out, model, BatchSettings(wave_requests=15, poll_seconds=0.05)) if batch else None
print("begun", flush=True)
run_evaluation(memory, {"q": Dataset(read_folder(queries))}, out, k=18, stages=stages, batch=jobs, progress=False)
"""


@pytest.fixture(scope="module")
def queries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("queries")
    (folder / "red").mkdir()
    for number in range(COUNT):
        noise(number).save(folder / "red" / f"{number}.png")
    return folder


@pytest.mark.parametrize("way", ["online", "batch"])
def test_what_was_answered_is_never_paid_again(
    built: Path, queries: Path, server: GeminiServer, tmp_path: Path, way: str
) -> None:
    VisualMemory.open(built).build_index()
    server.answer, server.latency_seconds, server.batch_seconds = answer_by_picture, 0.1, 0.1
    environment = os.environ | {
        "GEMINI_API_KEY": KEY,
        "GOOGLE_GEMINI_BASE_URL": server.url,
        "VMEM_CACHE": str(tmp_path / "cache"),
    }
    command = [sys.executable, "-c", PROGRAM, str(built), str(queries), str(tmp_path / "run"), way]
    chance, asked_again, kills = random.Random(way), 0, 0
    for _ in range(KILLS):
        kept = replies(tmp_path / "cache")
        before = len(server.generate_calls())
        running = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert running.stdout and running.stdout.readline() == b"begun\n"
        try:
            running.wait(timeout=chance.uniform(0.0, 1.0))
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()
            kills += 1
        running.stdout.close()
        assert running.stderr
        running.stderr.close()
        asked_again += len(kept & queries_of(server.generate_calls()[before:]))
        if running.returncode == 0:
            break
    before, kept = len(server.generate_calls()), replies(tmp_path / "cache")
    subprocess.run(command, env=environment, check=True, capture_output=True)
    asked_again += len(kept & queries_of(server.generate_calls()[before:]))
    assert kills >= KILLS // 2 and asked_again == 0
    assert len(replies(tmp_path / "cache")) == COUNT
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == COUNT + 1
    if way == "batch":
        assert server.generate_calls() == [] and max(Counter(server.batch_items).values()) == 1


def replies(cache: Path) -> set[str]:
    """Return the digests of the queries whose replies are kept."""
    return {entry.parts["query picture"] for entry in ReplyStore(cache / "replies").entries()}


def queries_of(calls: list[Call]) -> set[str]:
    return {hashlib.sha256(call.images[-1]).hexdigest() for call in calls}
