"""vmem prompt tune: what it saves, what it says beforehand, and what is paid for over kills."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.calls.cached import ReplyStore, sha256
from agent.calls.metered import Meter
from agent.presets import load_preset
from eval.types import Dataset
from tests import commands
from tests.gemini_protocol import Call
from tests.gemini_server import GeminiServer

KEY = "test-key-of-the-race"
VMEM = [sys.executable, "-m", "eval.cli.vmem"]
PROMPTS = ("rerank_v1", "rerank_scores_v1")


@pytest.fixture
def server() -> Iterator[GeminiServer]:
    with GeminiServer(key=KEY) as running:
        yield running
        assert running.wrong == []


@pytest.fixture
def folder(held_out: dict[str, Dataset], tmp_path: Path) -> Path:
    for dataset in held_out.values():
        for sample in dataset.samples:
            file = tmp_path / "queries" / f"{sample.id}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            sample.image.save(file)  # type: ignore[union-attr]
    return tmp_path / "queries"


@pytest.fixture
def tune(built: Path, folder: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """Return a maker of commands."""

    def command(*more: str) -> list[str]:
        settings = [part for prompt in PROMPTS for part in ("--prompt", prompt)] + ["--k", "14", "--k", "18"]
        shared = ["--memory", str(built), "--dataset", f"q={folder}", "--out", str(tmp_path / "race")]
        return ["prompt", "tune", *shared, *settings, "--precision", "float32", *more]

    return command


@pytest.fixture
def surroundings(tmp_path: Path, server: GeminiServer) -> dict[str, str]:
    return {
        "GEMINI_API_KEY": KEY,
        "GOOGLE_GEMINI_BASE_URL": server.url,
        "VMEM_CACHE": str(tmp_path / "cache"),
        "VMEM_PRESETS": str(tmp_path / "presets"),
    }


def test_the_winner_is_saved_as_a_preset_that_a_run_takes(
    tune: Callable[..., list[str]], surroundings: dict[str, str], built: Path, folder: Path, tmp_path: Path
) -> None:
    def vmem(command: list[str]) -> subprocess.CompletedProcess[str]:
        return commands.vmem(*command, variables=surroundings)

    scripted = tune("--model", "scripted", "--save", "mine")
    done = vmem(scripted)
    assert done.returncode == 0 and "Saved as mine: " in done.stdout, done.stderr
    assert "Rung 2 of 2: 2 settings on 24 queries each, 48 so far" in done.stderr
    found = json.loads((tmp_path / "race" / "tune.json").read_text())
    assert found["recommended"] == {"prompt": "rerank_v1", "neighbors": 14} and len(found["settings"]) == 6
    preset = load_preset(tmp_path / "presets" / "mine.toml")
    assert (preset.prompt, preset.neighbors, preset.model) == ("rerank_v1", 14, "scripted")
    assert "top-1" in preset.about and "48 queries" in preset.about
    taken = vmem(scripted)
    assert taken.returncode == 2 and "Error: there is a preset mine already" in taken.stderr
    run = ["eval", "run", "--memory", str(built), "--dataset", f"q={folder}", "--out", str(tmp_path / "run")]
    measured = vmem([*run, "--model", "scripted", "--preset", "mine"])
    assert measured.returncode == 0, measured.stderr
    settings = json.loads((tmp_path / "run" / "metrics.json").read_text())["settings"]
    assert settings["k"] == 14 and settings["rerank"]["prompt"].startswith("rerank_v1 ")


def test_a_dry_run_says_the_plan_and_asks_nothing(
    tune: Callable[..., list[str]], surroundings: dict[str, str], server: GeminiServer, tmp_path: Path
) -> None:
    dry = commands.vmem(*tune("--model", "gemini-3.5-flash-lite", "--dry-run"), variables=surroundings)
    assert dry.returncode == 0 and "Nothing was asked" in dry.stdout and "$" in dry.stdout, dry.stderr
    assert server.generate_calls() == [] and not (tmp_path / "race").exists()


def test_money_is_kept_to_over_kills_and_nothing_is_paid_twice(
    tune: Callable[..., list[str]], surroundings: dict[str, str], server: GeminiServer, tmp_path: Path
) -> None:
    server.latency_seconds = 0.05
    command = tune("--model", "gemini-3.5-flash-lite", "--concurrency", "4", "--max-cost", "3")
    chance, asked_again, kills = random.Random(0), 0, 0
    for _ in range(4):
        kept, before = kept_replies(tmp_path / "cache"), len(server.generate_calls())
        running = subprocess.Popen(
            [*VMEM, *command], env=os.environ | surroundings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        seen = before + 1 + chance.randrange(20)
        while running.poll() is None and len(server.generate_calls()) < seen:
            with_timeout(running, 0.01)
        running.kill()
        kills += running.wait() < 0
        asked_again += len(kept & digests(server.generate_calls()[before:]))
    kept, before = kept_replies(tmp_path / "cache"), len(server.generate_calls())
    assert commands.vmem(*command, variables=surroundings).returncode == 0
    asked_again += len(kept & digests(server.generate_calls()[before:]))
    assert kills == 4 and asked_again == 0
    assert len(digests(server.generate_calls())) == 2 * 24 + 2 * 48
    assert kept_replies(tmp_path / "cache") == digests(server.generate_calls())
    counted = Meter(ledger=tmp_path / "race" / "spent.jsonl").calls  # before they are sent
    assert 0 <= counted - len(server.generate_calls()) <= kills * 4


def test_no_more_is_spent_than_was_allowed(
    tune: Callable[..., list[str]], surroundings: dict[str, str], server: GeminiServer, tmp_path: Path
) -> None:
    poor = commands.vmem(*tune("--model", "gemini-3.5-flash-lite", "--max-cost", "0.02"), variables=surroundings)
    assert poor.returncode == 2 and server.generate_calls() == []
    assert "Error: the race was not got through its first rung: it would cost about $" in poor.stderr
    unknown = commands.vmem(*tune("--model", "scripted", "--max-cost", "1"), variables=surroundings)
    assert unknown.returncode == 2 and "Error: --max-cost needs the model's price" in unknown.stderr


def with_timeout(running: "subprocess.Popen[bytes]", seconds: float) -> None:
    try:
        running.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def kept_replies(cache: Path) -> set[str]:
    """Return the digests of the requests whose replies are kept."""
    return {entry.parts["query picture"] + entry.parts["texts"] for entry in ReplyStore(cache / "replies").entries()}


def digests(calls: list[Call]) -> set[str]:
    """Return the same of requests as they arrived."""
    return {sha256(call.images[-1]) + sha256(json.dumps(texts_of(call)).encode()) for call in calls}


def texts_of(call: Call) -> list[str]:
    return [part["text"] for content in call.body["contents"] for part in content["parts"] if "text" in part]
