"""Commands that ask a model: runs, dry runs, batch runs, and what the cache of replies says."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import commands
from tests.agent.queries import noise
from tests.gemini_server import GeminiServer

KEY = "test-key-of-the-command-line"


@pytest.fixture
def server() -> Iterator[GeminiServer]:
    with GeminiServer(key=KEY) as running:
        yield running
        assert running.wrong == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    queries = tmp_path / "queries" / "red"
    queries.mkdir(parents=True)
    for number in range(8):
        noise(number).save(queries / f"{number}.png")
    return queries.parent


def vmem(server: GeminiServer, cache: Path, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    own = {"GEMINI_API_KEY": KEY, "GOOGLE_GEMINI_BASE_URL": server.url, "VMEM_CACHE": str(cache)}
    return commands.vmem(*arguments, variables=own | variables)


def test_a_dry_run_says_what_the_run_would_take_and_asks_nothing(
    built: Path, server: GeminiServer, folder: Path, tmp_path: Path
) -> None:
    shared = ("eval", "run", "--memory", built, "--dataset", f"q={folder}", "--k", 18, "--out", tmp_path / "run")
    model = ("--model", "gemini-3.5-flash-lite")
    dry = vmem(server, tmp_path / "cache", *shared, *model, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert (
        "the gate asks about 8, about 0 of them answered in the cache" in dry.stdout
        and "Counted by the service" in dry.stdout
    )
    assert server.generate_calls() == [] and not (tmp_path / "run").exists()
    tokens = int(dry.stdout.split("tokens in")[1].split()[0].replace(",", ""))
    ran = vmem(server, tmp_path / "cache", *shared, *model)
    assert ran.returncode == 0, ran.stderr
    assert "reranked 8" in ran.stdout and "8 calls: " in ran.stderr and (tmp_path / "run" / "report.html").exists()
    took = int(ran.stderr.split("8 calls: ")[1].split()[0].replace(",", ""))
    assert abs(took - tokens) < 0.1 * took
    again = vmem(server, tmp_path / "cache", *shared, *model, "--dry-run")
    assert "the gate asks about 8, about 8 of them answered in the cache" in again.stdout and "$0.00" in again.stdout


def test_a_budget_and_a_key_end_a_run_with_one_sentence(
    built: Path, server: GeminiServer, folder: Path, tmp_path: Path
) -> None:
    shared = ("eval", "run", "--memory", built, "--dataset", f"q={folder}", "--k", 18, "--out", tmp_path / "run")
    model = ("--model", "gemini-3.5-flash-lite")
    poor = vmem(server, tmp_path / "cache", *shared, *model, "--max-cost", "0.001")
    assert poor.returncode == 2 and "Error: the next call could exceed --max-cost 0.001" in poor.stderr
    wrong = vmem(server, tmp_path / "cache", *shared, *model, GEMINI_API_KEY="wrong")
    assert wrong.returncode == 2 and "Error: the service refuses the API key" in wrong.stderr
    assert "Traceback" not in poor.stderr + wrong.stderr and "wrong" not in wrong.stderr.replace("wrong key", "")
    none = vmem(server, tmp_path / "cache", *shared, *model, GEMINI_API_KEY="", GOOGLE_API_KEY="")
    assert none.returncode == 2 and "Error: no API key is set" in none.stderr


def test_the_cache_of_replies_is_shown_explained_and_cleared(
    built: Path, server: GeminiServer, folder: Path, tmp_path: Path
) -> None:
    cache, picture = tmp_path / "cache", folder / "red" / "1.png"
    asked = (picture, "--memory", built, "--model", "gemini-3.5-flash-lite", "--k", 18)
    assert "nothing else is" in vmem(server, cache, "cache", "explain", *asked).stdout
    answered = vmem(server, cache, "classify", *asked, "--json")
    assert json.loads(answered.stdout)["source"] == "rerank", answered.stderr
    assert "Kept: " in vmem(server, cache, "cache", "explain", *asked).stdout
    other = vmem(server, cache, "cache", "explain", *asked, "--temperature", "0.5").stdout
    assert "differs in: generation temperature" in other and "0.0 there, 0.5 here" in other
    assert "vision-language models" in vmem(server, cache, "cache", "stats").stdout
    assert "Freed" in vmem(server, cache, "cache", "clear", "replies").stdout
    assert "nothing else is" in vmem(server, cache, "cache", "explain", *asked).stdout
    assert len(server.generate_calls()) == 1


def test_the_command_line_asks_a_local_server_by_its_address(
    built: Path, server: GeminiServer, folder: Path, tmp_path: Path
) -> None:
    asked = ("classify", folder / "red" / "1.png", "--memory", built, "--k", 18)
    model = f"openai:qwen3-vl@{server.url}/v1"
    found = vmem(server, tmp_path / "cache", *asked, "--model", model, OPENAI_API_KEY=KEY)
    assert found.returncode == 0 and f"reranked: {model} chose among 3 candidates" in found.stdout
    assert KEY not in found.stdout + found.stderr


def test_a_batch_run_by_command_line_ends_with_the_same_figures(
    built: Path, server: GeminiServer, folder: Path, tmp_path: Path
) -> None:
    shared = (
        "eval",
        "run",
        "--memory",
        built,
        "--dataset",
        f"q={folder}",
        "--k",
        18,
        "--model",
        "gemini-3.5-flash-lite",
        "--precision",
        "float32",  # without the cache a busy machine may choose another one the second time
    )
    first = vmem(server, tmp_path / "cache", *shared, "--out", tmp_path / "run", "--batch")
    assert first.returncode == 0, first.stderr
    assert len(server.batch_items) == 8 and server.generate_calls() == []
    shutil.rmtree(tmp_path / "cache")
    vmem(server, tmp_path / "cache", *shared, "--out", tmp_path / "online")
    figures = [json.loads((tmp_path / name / "metrics.json").read_text())["datasets"] for name in ("run", "online")]
    full_costs = [figure["q"]["rerank"]["gate"].pop("cost") for figure in figures]
    assert figures[0] == figures[1] and full_costs[0] == pytest.approx([cost / 2 for cost in full_costs[1]])
    spent = [json.loads((tmp_path / name / "usage.json").read_text())["datasets"]["q"] for name in ("run", "online")]
    assert spent[0]["cost"] == pytest.approx(spent[1]["cost"] / 2)


def test_a_dry_run_needs_no_key(built: Path, server: GeminiServer, folder: Path, tmp_path: Path) -> None:
    shared = ("eval", "run", "--memory", built, "--dataset", f"q={folder}", "--k", 18, "--out", tmp_path / "run")
    arguments = (*shared, "--model", "gemini-3.5-flash-lite", "--dry-run")
    dry = vmem(server, tmp_path / "cache", *arguments, GEMINI_API_KEY="", GOOGLE_API_KEY="")
    assert dry.returncode == 0 and "Estimated by four characters a token" in dry.stdout and server.calls == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--centre", ""), "--centre '': choose one of queries, running"),
        (("--centre", "mean", "--dry-run", "--model", "scripted"), "--centre 'mean': choose one of queries, running"),
        (("--choose-k-on", "p"), "--choose-k-on 'p': test or one of q expected"),
    ],
)
def test_options_are_looked_at_before_anything_is_embedded(
    built: Path, folder: Path, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    command = ("eval", "run", "--memory", built, "--dataset", f"q={folder}", "--out", tmp_path / "run", *options)
    refused = commands.vmem(*command)
    assert refused.returncode == 2 and said in refused.stderr and "openvino" not in refused.stderr
    assert not (tmp_path / "run").exists()
