"""Batch jobs: cheaper, later, in any order, and never paid twice."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.batch import BatchJobs, BatchSettings
from agent.calls.cached import ReplyStore
from agent.calls.metered import Meter
from agent.calls.ready import LoadedModel, make_ready
from agent.classify import prepare
from agent.errors import EveryRequestFails, ModelError
from agent.settings import GenerationConfig
from eval.types import Sample, Summary
from prompts.cost import find_price
from retrieval import VisualMemory
from retrieval.errors import InvalidArgument
from tests.agent.conftest import SWIFT, connect
from tests.agent.queries import answer_by_picture, noise
from tests.gemini_protocol import Call
from tests.gemini_server import GeminiServer
from tests.runs import evaluate

COUNT = 30


@pytest.fixture
def run(memory: VisualMemory, server: GeminiServer, fresh_store: ReplyStore, tmp_path: Path) -> Callable[..., Summary]:
    """Return a function that evaluates some queries by batch jobs in one run folder."""
    samples = [Sample(str(number), noise(number), frozenset(["red"])) for number in range(COUNT)]

    def evaluate_by(*, batch: bool = True, out: str = "run", shuffles: int = 0, meter: Meter | None = None) -> Summary:
        from agent.settings import TransportConfig

        model = make_ready(
            connect("gemini", server),
            transport=TransportConfig(**SWIFT),  # type: ignore[arg-type]
            meter=meter,
            store=fresh_store,
        )
        stages = prepare(memory, model=model, k=18, shuffles=shuffles)
        settings = BatchSettings(wave_requests=8, poll_seconds=0.05)
        jobs = BatchJobs(tmp_path / out, model, settings) if batch else None
        summary, _ = evaluate(
            memory,
            {"q": samples},
            tmp_path / out,
            k=18,
            stages=stages,
            batch=jobs,
            price=find_price("gemini-3.5-flash-lite"),
        )
        return summary

    server.answer, server.check_images = answer_by_picture, False
    return evaluate_by


def reasons(summary: Summary) -> dict[str, int]:
    rerank = summary.metrics["q"].rerank
    assert rerank is not None
    return rerank.reasons


def test_a_batch_run_answers_what_an_online_one_does_at_half_the_price(
    run: Callable[..., Summary], server: GeminiServer, fresh_store: ReplyStore
) -> None:
    by_batch = run()
    assert server.generate_calls() == [] and len(server.batch_jobs) == 4  # 30 queries in waves of 8
    assert reasons(by_batch) == {"reranked": COUNT} and by_batch.spending["q"].calls == COUNT
    online = run(batch=False, out="again")
    assert server.generate_calls() == []  # the same replies, from the same store
    assert online.metrics["q"].top1 == by_batch.metrics["q"].top1 and online.spending["q"].calls_saved == COUNT
    spent = by_batch.spending["q"]
    price = find_price("gemini-3.5-flash-lite")
    assert price and spent.cost == pytest.approx(0.5 * price.cost(spent.prompt_tokens, spent.reply_tokens))


def test_items_that_fail_are_submitted_again_and_the_others_are_not(
    run: Callable[..., Summary], server: GeminiServer
) -> None:
    seen: Counter[str] = Counter()

    def fault(key: str, call: Call) -> str | None:
        seen[key] += 1
        faults = ["error", "expired-item", "missing", "empty", "max-tokens", "not-json", None, None]
        return faults[int(key[:8], 16) % len(faults)] if seen[key] == 1 else None

    server.batch_item_fault = fault
    assert reasons(run()) == {"reranked": COUNT}
    assert set(seen.values()) == {1, 2}


def test_items_that_are_blocked_or_never_answered_leave_votes_with_reasons(
    run: Callable[..., Summary], server: GeminiServer
) -> None:
    server.batch_item_fault = lambda key, call: "blocked" if int(key[:8], 16) % 2 else "error"
    found = reasons(run())
    assert set(found) == {"blocked", "batch_failed"} and sum(found.values()) == COUNT
    assert max(Counter(server.batch_items).values()) <= 3


@pytest.mark.parametrize("end", ["expired", "failed"])
def test_a_job_that_ends_without_results_is_submitted_again(
    run: Callable[..., Summary], server: GeminiServer, end: str
) -> None:
    server.batch_job_fault = [end]
    assert reasons(run()) == {"reranked": COUNT} and len(server.batch_jobs) == 5


def test_further_orders_make_a_further_round(run: Callable[..., Summary], server: GeminiServer) -> None:
    metrics = run(shuffles=1)
    assert reasons(metrics) == {"reranked": COUNT} and metrics.spending["q"].calls > COUNT


def test_a_second_run_of_the_same_folder_submits_nothing(run: Callable[..., Summary], server: GeminiServer) -> None:
    first, calls = run(), len(server.calls)
    assert run() == first and len(server.calls) == calls


def test_a_job_whose_creation_was_cut_off_is_found_by_its_name(
    run: Callable[..., Summary], server: GeminiServer, tmp_path: Path
) -> None:
    run()
    ledger = tmp_path / "run" / "batch" / "waves.jsonl"
    begun = [line for line in ledger.read_text().splitlines(keepends=True) if "keys" in json.loads(line)]
    ledger.write_text("".join(begun) + '{"wave": "torn')  # as if it had died after every creation
    (tmp_path / "run" / "batch" / "results.jsonl").unlink()
    log = tmp_path / "run" / "log.jsonl"
    log.write_text(log.read_text().splitlines(keepends=True)[0])
    paid = Counter(server.batch_items)
    assert reasons(run()) == {"reranked": COUNT}
    assert Counter(server.batch_items) == paid


def test_a_spent_budget_stops_before_the_job(run: Callable[..., Summary], server: GeminiServer) -> None:
    meter = Meter(find_price("gemini-3.5-flash-lite"), max_cost=0.002)
    with pytest.raises(EveryRequestFails, match="could exceed --max-cost 0.002"):
        run(meter=meter)
    assert server.batch_jobs == []


@pytest.mark.parametrize("kind", ["openai", "generativeai"])
def test_only_gemini_has_batch_jobs(
    ready: Callable[..., LoadedModel], fresh_store: ReplyStore, tmp_path: Path, kind: str
) -> None:
    with pytest.raises(InvalidArgument, match="--batch with .*: a Gemini model with its cache expected"):
        BatchJobs(tmp_path, ready(kind, store=fresh_store))


def test_a_refused_key_ends_the_run_before_anything_is_made(
    memory: VisualMemory, ready: Callable[..., LoadedModel], fresh_store: ReplyStore, tmp_path: Path
) -> None:
    model = ready(store=fresh_store, key="another")
    stages = prepare(memory, model=model, k=18, generation=GenerationConfig())
    jobs = BatchJobs(tmp_path / "run", model, BatchSettings(poll_seconds=0.05))
    samples = {"q": [Sample("1", noise(1), frozenset(["red"]))]}
    with pytest.raises(ModelError, match="refuses the API key"):
        evaluate(memory, samples, tmp_path / "run", k=18, stages=stages, batch=jobs)


def test_a_job_that_cannot_be_made_ends_the_run_and_costs_no_later_one(
    run: Callable[..., Summary], server: GeminiServer
) -> None:
    server.models = {"another"}
    for _ in range(4):
        with pytest.raises(EveryRequestFails, match="there is no such model"):
            run()
    server.models = None
    assert reasons(run()) == {"reranked": COUNT} and len(server.batch_items) == COUNT


def test_the_budget_holds_for_all_waves_together(run: Callable[..., Summary], server: GeminiServer) -> None:
    meter = Meter(find_price("gemini-3.5-flash-lite"), max_cost=0.09)
    with pytest.raises(EveryRequestFails, match="--max-cost"):
        run(meter=meter)
    assert 0 < len(server.batch_jobs) < 4
    assert reasons(run()) == {"reranked": COUNT} and max(Counter(server.batch_items).values()) == 1


def test_a_job_that_the_service_forgot_is_submitted_again(
    run: Callable[..., Summary], server: GeminiServer, tmp_path: Path
) -> None:
    server.models = {"another"}
    with pytest.raises(EveryRequestFails):
        run()
    server.models = None
    ledger = tmp_path / "run" / "batch" / "waves.jsonl"
    wave = json.loads(ledger.read_text().splitlines()[0])
    with ledger.open("a") as lines:
        lines.write(json.dumps({"wave": wave["wave"], "job": "batches/forgotten"}) + "\n")
    assert reasons(run()) == {"reranked": COUNT}


def test_clearing_the_cache_while_jobs_run_loses_no_reply(
    run: Callable[..., Summary], server: GeminiServer, fresh_store: ReplyStore
) -> None:
    def forget(key: str, call: Call) -> None:
        fresh_store._store.clear()

    server.batch_item_fault = forget
    assert reasons(run()) == {"reranked": COUNT} and max(Counter(server.batch_items).values()) == 1


def test_what_a_request_needs_the_second_time_survives_a_kill(
    run: Callable[..., Summary], server: GeminiServer, tmp_path: Path
) -> None:
    server.batch_item_fault, server.tokens_needed = (lambda key, call: "max-tokens"), 2000
    server.batch_job_fault = ["ok"] * 4
    whole = run()
    spent = whole.spending["q"]
    assert reasons(whole) == {"reranked": COUNT}
    assert spent.prompt_tokens == 2 * spent.calls * spent.prompt_tokens // (2 * COUNT)
    kept = [json.loads(line) for line in (tmp_path / "run" / "batch" / "results.jsonl").read_text().splitlines()]
    assert sum(line.get("again") == "cut_off" for line in kept) == COUNT


@pytest.mark.parametrize(("code", "again"), [(14, True), (4, True), (8, True), (503, True), (3, False), (400, False)])
def test_codes_of_items_are_read_in_both_ways_of_counting(
    ready: Callable[..., LoadedModel], fresh_store: ReplyStore, tmp_path: Path, code: int, again: bool
) -> None:
    jobs = BatchJobs(tmp_path, ready(store=fresh_store))
    jobs._keep_results(json.dumps({"key": "k", "error": {"code": code, "message": "x"}}).encode())
    assert ("k" not in jobs.ledger.failures) is again
