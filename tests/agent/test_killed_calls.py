"""``kill -9`` at random points of runs that ask a model: what was answered is never paid for again.

``VMEM_TEST_KILLS`` says how many points to try; a few by default. ``VMEM_TEST_SEED`` repeats a series of points.
"""

import hashlib
import os
import random
from collections import Counter
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from agent.batch import BatchJobs, BatchSettings
from agent.calls.cached import ReplyStore
from agent.calls.ready import load_model
from agent.classify import prepare
from agent.settings import TransportConfig
from eval.datasets.trees import read_folder
from eval.runs.runner import run_evaluation
from eval.types import Dataset
from retrieval import VisualMemory
from tests.agent.conftest import KEY
from tests.agent.queries import Colours, answer_by_picture, noise
from tests.gemini_protocol import Call
from tests.gemini_server import GeminiServer

KILLS = int(os.environ.get("VMEM_TEST_KILLS", "6"))
COUNT = 20 * KILLS  # so that every kill finds work under way
SERVED = get_context("forkserver")  # its processes are there at once: what they import is imported once for all of them
SERVED.set_forkserver_preload([__name__, "google.genai"])


def evaluate(memory: Path, queries: Path, out: Path, *, batch: bool, begun: Event, environment: dict[str, str]) -> None:
    """Run an evaluation, as a process that may be killed at any point."""
    os.environ.update(environment)
    model = load_model("gemini-3.5-flash-lite", transport=TransportConfig(concurrency=4, first_wait_seconds=0.01))
    opened = VisualMemory.open(memory, embedder=Colours())
    stages = prepare(opened, model=model, k=18)
    jobs = BatchJobs(out, model, BatchSettings(wave_requests=15, poll_seconds=0.05)) if batch else None
    begun.set()
    run_evaluation(opened, {"q": Dataset(read_folder(queries))}, out, k=18, stages=stages, batch=jobs, progress=False)


@pytest.fixture(scope="module")
def queries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("queries")
    (folder / "red").mkdir()
    for number in range(COUNT):
        noise(number).save(folder / "red" / f"{number}.png")
    return folder


@pytest.mark.parametrize("way", ["online", "batch"])
def test_what_was_answered_is_never_paid_again(
    memory: VisualMemory, queries: Path, server: GeminiServer, tmp_path: Path, way: str
) -> None:
    server.answer, server.latency_seconds, server.batch_seconds = answer_by_picture, 0.1, 0.1
    cache, run = tmp_path / "cache", tmp_path / "run"
    environment = {"GEMINI_API_KEY": KEY, "GOOGLE_GEMINI_BASE_URL": server.url, "VMEM_CACHE": str(cache)}
    seed = os.environ.get("VMEM_TEST_SEED", way)
    print("VMEM_TEST_SEED =", seed)
    chance, asked_again, kills, code = random.Random(seed), 0, 0, None
    for number in range(KILLS + 1):
        kept, before, begun = replies(cache), len(server.generate_calls()), SERVED.Event()
        options = {"batch": way == "batch", "begun": begun, "environment": environment}
        running = SERVED.Process(target=evaluate, args=(memory.path, queries, run), kwargs=options)
        running.start()
        assert begun.wait(60)
        running.join(chance.uniform(0.0, 1.0) if number < KILLS else None)
        if running.exitcode is None:
            running.kill()
            running.join()
            kills += 1
        code = running.exitcode
        asked_again += len(kept & queries_of(server.generate_calls()[before:]))
        if code == 0:
            break
    assert code == 0 and kills >= KILLS // 2 and asked_again == 0
    assert len(replies(cache)) == COUNT
    assert len((run / "log.jsonl").read_text().splitlines()) == COUNT + 1
    if way == "batch":
        assert server.generate_calls() == [] and max(Counter(server.batch_items).values()) == 1


def replies(cache: Path) -> set[str]:
    """Return the digests of the queries whose replies are kept."""
    return {entry.parts["query picture"] for entry in ReplyStore(cache / "replies").entries()}


def queries_of(calls: list[Call]) -> set[str]:
    return {hashlib.sha256(call.images[-1]).hexdigest() for call in calls}
