"""Runs that ask a model: what they log and count, and what a dry run says beforehand."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from agent import ScriptedModel
from agent.calls.cached import ReplyStore
from agent.calls.metered import Meter
from agent.calls.ready import load_model, make_ready
from agent.classify import prepare
from agent.errors import EveryRequestFails, RequestFailure
from agent.keys import Secret
from agent.models.gemini import Gemini
from agent.settings import TransportConfig
from eval.metrics.rerank import fit_fusion
from eval.runs.log import read_run
from eval.runs.runner import estimate_run
from eval.types import Dataset, OtherSettings, RunError, Sample
from prompts.cost import find_price
from prompts.types import Prompt
from retrieval import VisualMemory
from tests.agent.queries import noise
from tests.conftest import draw
from tests.gemini_server import GeminiServer
from tests.runs import evaluate, page_of

KEY = "test-key-of-the-command-line"
VMEM = [sys.executable, "-m", "eval.cli.vmem"]


@pytest.fixture(scope="module")
def memory(built: Path) -> VisualMemory:
    return VisualMemory.open(built)


@pytest.fixture
def samples() -> list[Sample]:
    return [Sample(f"red/{number}", draw((190, 40, 40), number), frozenset(["red"])) for number in range(10)]


@pytest.fixture
def server() -> Iterator[GeminiServer]:
    with GeminiServer(key=KEY) as running:
        yield running
        assert running.wrong == []


def test_the_second_look_is_measured_beside_the_vote(
    memory: VisualMemory, samples: list[Sample], tmp_path: Path
) -> None:
    replies = iter(['{"ranking": ["B"]}', "words", '{"ranking": ["NONE"]}'])
    model = ScriptedModel(lambda prompt: next(replies, '{"ranking": ["A"]}'))
    stages = prepare(memory, model=model, neighbors=18)
    summary, run = evaluate(memory, {"q": samples}, tmp_path / "run", k=18, stages=stages, concurrency=1)
    rerank = summary.metrics["q"].rerank
    assert rerank and (rerank.vote_top1, rerank.top1, rerank.fixed, rerank.broken) == (100.0, 90.0, 0, 1)
    assert rerank.reasons == {"reranked": 8, "unusable_reply": 1, "none_of_these": 1}
    assert (rerank.out_of_candidates, rerank.errors, rerank.unchanged_right) == (1, 0, 9)
    assert summary.spending["q"].calls == 10 and summary.spending["q"].cost is None
    assert run.results["q"].outcomes is not None and len(run.results["q"].outcomes) == 10
    written = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert written["datasets"]["q"]["rerank"]["broken"] == 1
    assert written["settings"]["rerank"]["model"] == "scripted"
    line = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[1])
    assert line["rerank"]["replies"][0]["text"] == '{"ranking": ["B"]}'


def test_a_run_that_was_cut_off_asks_only_what_is_missing(
    memory: VisualMemory, samples: list[Sample], tmp_path: Path
) -> None:
    def run(model: ScriptedModel, out: Path) -> object:
        stages = prepare(memory, model=model, neighbors=6)
        return evaluate(memory, {"q": samples}, out, k=6, stages=stages)[0]

    whole = run(ScriptedModel(lambda prompt: "A"), tmp_path / "run")
    log = tmp_path / "run" / "log.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:5]) + b'{"dataset": "q"')
    model = ScriptedModel(lambda prompt: "A")
    assert run(model, tmp_path / "run") == whole and len(model.prompts) == 6


def test_another_way_of_asking_is_another_run(memory: VisualMemory, samples: list[Sample], tmp_path: Path) -> None:
    for when in ("always", "margin<0.3"):
        stages = prepare(memory, model=ScriptedModel(lambda prompt: "A"), neighbors=6, when=when)
        if when == "always":
            evaluate(memory, {"q": samples}, tmp_path / "run", k=6, stages=stages)
            continue
        with pytest.raises(OtherSettings, match="rerank when: always, now margin<0.3"):
            evaluate(memory, {"q": samples}, tmp_path / "run", k=6, stages=stages)


def test_what_every_query_would_meet_ends_the_run_and_keeps_what_is_done(
    memory: VisualMemory, samples: list[Sample], tmp_path: Path
) -> None:
    asked = []

    def reply(prompt: object) -> str:
        asked.append(prompt)
        if len(asked) > 4:
            raise EveryRequestFails("today's quota is spent", code="quota_spent")
        return "A"

    stages = prepare(memory, model=ScriptedModel(reply), neighbors=6)
    with pytest.raises(EveryRequestFails, match="today's quota is spent"):
        evaluate(memory, {"q": samples}, tmp_path / "run", k=6, stages=stages, concurrency=1)
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 1 + 4


def test_a_weight_is_fitted_to_a_run(memory: VisualMemory, tmp_path: Path) -> None:
    samples = [Sample(str(number), noise(number), frozenset([["red", "blue"][number % 2]])) for number in range(40)]

    def right(prompt: Prompt) -> str:
        wanted = ["red", "blue"][len(model.prompts) % 2 - 1]
        code = next(code for code, label in prompt.candidates.items() if label == wanted)
        return json.dumps({"ranking": [code], "confidence": 0.8})

    model = ScriptedModel(right)
    stages = prepare(memory, model=model, neighbors=18)
    evaluate(memory, {"q": samples}, tmp_path / "run", k=18, stages=stages, concurrency=1)
    fitted = fit_fusion(read_run(tmp_path / "run").results)
    assert fitted.queries == 40 and fitted.weight > 0.5
    assert fitted.fused_top1 == fitted.model_top1 > fitted.vote_top1
    told = subprocess.run(
        [*VMEM, "eval", "fusion", str(tmp_path / "run")], capture_output=True, text=True, check=True
    ).stdout
    assert f"--fusion {fitted.weight:.2f}" in told


def test_without_a_model_there_is_nothing_to_fit(memory: VisualMemory, samples: list[Sample], tmp_path: Path) -> None:
    evaluate(memory, {"q": samples}, tmp_path / "run", k=6)
    with pytest.raises(RunError, match="has 0 queries that a model answered"):
        fit_fusion(read_run(tmp_path / "run").results)
    with pytest.raises(RunError, match="holds no run: give the folder that `vmem eval run` wrote"):
        read_run(tmp_path)


def test_votes_of_an_outage_are_asked_again_by_the_same_command(
    memory: VisualMemory, samples: list[Sample], server: GeminiServer, tmp_path: Path
) -> None:
    def run(attempts: int) -> dict[str, int]:
        bare = Gemini("gemini-3.5-flash-lite", Secret(KEY), base_url=server.url)
        transport = TransportConfig(attempts=attempts, first_wait_seconds=0.01, failed_calls_before_break=4)
        stages = prepare(memory, model=make_ready(bare, transport=transport), neighbors=6)
        summary, _ = evaluate(memory, {"q": samples}, tmp_path / "run", k=6, stages=stages, concurrency=1)
        rerank = summary.metrics["q"].rerank
        return rerank.reasons if rerank else {}

    server.script = ["ok", "safety"] + ["503"] * 4
    assert run(1) == {"reranked": 1, "blocked": 1, "overloaded": 4, "circuit_open": 4}
    asked = len(server.generate_calls())
    assert run(3) == {"reranked": 9, "blocked": 1} and len(server.generate_calls()) == asked + 8


def test_equal_queries_are_paid_once(memory: VisualMemory, server: GeminiServer, tmp_path: Path) -> None:
    server.latency_seconds = 0.2
    bare = Gemini("gemini-3.5-flash-lite", Secret(KEY), base_url=server.url)
    meter = Meter(find_price("gemini-3.5-flash-lite"))
    stages = prepare(memory, model=make_ready(bare, meter=meter, store=ReplyStore(tmp_path / "r")), neighbors=6)
    samples = [Sample(str(number), noise(1), frozenset(["red"])) for number in range(10)]
    summary, _ = evaluate(memory, {"q": samples}, tmp_path / "run", k=6, stages=stages, price=meter.price)
    spent = summary.spending["q"]
    assert (spent.calls, spent.calls_saved) == (1, 9)
    assert spent.cost == pytest.approx(meter.cost) and spent.prompt_tokens == meter.prompt_tokens
    assert spent.seconds["max"] >= 0.2


def test_failed_attempts_are_counted_as_the_service_counts_them(
    memory: VisualMemory, samples: list[Sample], server: GeminiServer, tmp_path: Path
) -> None:
    server.script, server.tokens_needed = ["safety", "max-tokens", "ok", "not-json", "ok", "500", "ok"], 2000
    bare = Gemini("gemini-3.5-flash-lite", Secret(KEY), base_url=server.url)
    meter = Meter(find_price("gemini-3.5-flash-lite"))
    transport = TransportConfig(first_wait_seconds=0.01)
    stages = prepare(memory, model=make_ready(bare, meter=meter, transport=transport), neighbors=6)
    summary, _ = evaluate(
        memory, {"q": samples}, tmp_path / "run", k=6, stages=stages, concurrency=1, price=meter.price
    )
    spent = summary.spending["q"]
    assert spent.cost == pytest.approx(meter.cost)
    rerank = summary.metrics["q"].rerank
    assert rerank and rerank.gate.cost[-1] == pytest.approx(meter.cost)  # attempts without a reply have their price too
    assert (spent.prompt_tokens, spent.reply_tokens) == (meter.prompt_tokens, meter.reply_tokens)


def test_half_a_character_in_a_reply_reaches_the_report_as_a_mark(
    memory: VisualMemory, samples: list[Sample], tmp_path: Path
) -> None:
    stages = prepare(memory, model=ScriptedModel(lambda prompt: '{"ranking": ["\\ud800"]}'), neighbors=6)
    summary, run = evaluate(memory, {"q": samples}, tmp_path / "run", k=6, stages=stages)
    assert "unusable_reply" in page_of(summary, run, memory, {"q": samples}, tmp_path / "run")


def test_refusals_are_asked_again_only_when_asked_for(
    memory: VisualMemory, samples: list[Sample], tmp_path: Path
) -> None:
    def run(refused: int, **options: bool) -> tuple[dict[str, int], int]:
        asked: list[Prompt] = []

        def reply(prompt: Prompt) -> str:
            asked.append(prompt)
            if len(asked) <= refused:
                raise RequestFailure("refused", code="request_refused")
            return "A"

        stages = prepare(memory, model=ScriptedModel(reply), neighbors=6)
        summary, _ = evaluate(memory, {"q": samples}, tmp_path / "run", k=6, stages=stages, concurrency=1, **options)
        rerank = summary.metrics["q"].rerank
        assert rerank is not None
        return rerank.reasons, len(asked)

    assert run(3) == ({"reranked": 7, "request_refused": 3}, 10)
    assert run(0) == ({"reranked": 7, "request_refused": 3}, 0)
    assert run(0, retry_errors=True) == ({"reranked": 10}, 3)


def test_a_centred_run_shows_the_model_the_neighbours_that_centring_found(
    memory: VisualMemory, samples: list[Sample], tmp_path: Path
) -> None:
    model = ScriptedModel(lambda prompt: "A")
    stages = prepare(memory, model=model, neighbors=6)
    _, reranked = evaluate(memory, {"q": samples}, tmp_path / "model", k=6, stages=stages, centre="queries")
    _, voted = evaluate(memory, {"q": samples}, tmp_path / "vote", k=6, centre="queries")
    assert np.array_equal(reranked.results["q"].neighbor_distances, voted.results["q"].neighbor_distances)
    assert len(model.prompts) == len(samples)


@pytest.mark.parametrize("centre", [None, "queries"])
def test_a_dry_run_asks_the_gate_about_the_neighbours_that_the_run_will_find(
    memory: VisualMemory, tmp_path: Path, centre: str | None
) -> None:
    samples = [Sample(str(n), draw((190, 40 + 8 * n, 40), n), frozenset(["red"])) for n in range(12)]
    model = load_model("scripted", cache=False)
    stages = prepare(memory, model=model, neighbors=18, when="margin<0.4")
    estimate = estimate_run(stages, {"q": Dataset(samples)}, model, centre=centre)
    summary, _ = evaluate(memory, {"q": samples}, tmp_path / "run", k=18, stages=stages, centre=centre)
    rerank = summary.metrics["q"].rerank
    assert rerank and estimate.queries == 12 and estimate.asked == 12 - rerank.reasons.get("decisive", 0)
