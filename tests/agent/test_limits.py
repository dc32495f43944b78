"""How many requests travel, how often, for how much, and when the service is left alone."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent import Prediction, TransportConfig, classify_batch
from agent.calls.background import run
from agent.calls.metered import Meter
from agent.calls.ready import LoadedModel, make_ready
from agent.calls.retrying import Limits, Retrying
from agent.errors import CircuitOpen, EveryRequestFails, PassingFailure
from agent.models.wire import failure
from agent.types import Request, Usage
from prompts.cost import Price, estimate_prompt_tokens, find_price
from retrieval import VisualMemory
from retrieval.errors import InvalidArgument
from tests.agent.conftest import connect
from tests.agent.queries import PROMPT, noise
from tests.gemini_server import GeminiServer


def test_no_more_are_in_flight_than_allowed(
    memory: VisualMemory, server: GeminiServer, ready: Callable[..., LoadedModel]
) -> None:
    server.latency_seconds = 0.05
    pictures = [noise(n) for n in range(40)]
    found = classify_batch(pictures, memory, model=ready(concurrency=5), concurrency=20, k=3, progress=False)
    assert len(list(found)) == 40 and server.peak_in_flight == 5


def test_concurrency_halves_when_there_are_too_many_and_grows_while_calm() -> None:
    async def follow() -> list[float]:
        limits = Limits(TransportConfig(concurrency=16))
        seen = [limits.allowed]
        limits.crowded(None)
        limits.crowded(None)  # of the same moment: one complaint
        seen.append(limits.allowed)
        for _ in range(9):
            limits.calm()
        seen.append(int(limits.allowed))
        for _ in range(500):
            limits.calm()
        return [*seen, limits.allowed]

    assert asyncio.run(follow()) == [16, 8, 9, 16]


def test_all_wait_as_long_as_the_service_says() -> None:
    async def waited() -> float:
        limits = Limits(TransportConfig())
        limits.crowded(0.3)
        began = time.monotonic()
        async with limits.admitted(1):
            return time.monotonic() - began

    assert 0.25 < asyncio.run(waited()) < 1


@pytest.mark.parametrize("limit", [{"requests_per_minute": 600.0}, {"tokens_per_minute": 60_000.0}])
def test_a_minutes_limit_is_kept(limit: dict[str, float]) -> None:
    async def admit() -> float:
        limits = Limits(TransportConfig(**limit))  # type: ignore[arg-type]
        began = time.monotonic()
        for _ in range(70):  # ten a second, of which six seconds' worth may come at once
            async with limits.admitted(100):
                pass
        return time.monotonic() - began

    assert 0.9 < asyncio.run(admit()) < 2


def test_one_request_larger_than_the_window_is_admitted_in_its_time() -> None:
    async def admit() -> float:
        limits = Limits(TransportConfig(tokens_per_minute=60_000.0))
        began = time.monotonic()
        async with limits.admitted(7000):  # six thousand at once, then a thousand a second
            return time.monotonic() - began

    assert 0.9 < asyncio.run(admit()) < 2


def test_after_failures_in_a_row_the_rest_fall_back_at_once_until_a_probe_succeeds(server: GeminiServer) -> None:
    transport = TransportConfig(attempts=1, failed_calls_before_break=3, probe_after_seconds=0.5)
    model = Retrying(connect("gemini", server), transport)
    server.script = ["500"] * 4

    def code() -> str:
        try:
            return run(model.generate(Request(PROMPT))).text and "answered"
        except (PassingFailure, CircuitOpen) as error:
            return error.code

    assert [code() for _ in range(5)] == ["overloaded"] * 3 + ["circuit_open"] * 2
    assert len(server.calls) == 3
    time.sleep(0.6)
    assert [code() for _ in range(2)] == ["overloaded", "circuit_open"]  # the probe failed
    time.sleep(0.6)
    assert [code() for _ in range(2)] == ["answered", "answered"]


def test_a_batch_says_how_many_fell_back_and_why(
    memory: VisualMemory, server: GeminiServer, ready: Callable[..., LoadedModel], caplog: pytest.LogCaptureFixture
) -> None:
    server.fault_for = lambda call: "503"
    model = ready(attempts=1, failed_calls_before_break=3, concurrency=1)
    pictures = [noise(n) for n in range(30)]
    found = classify_batch(pictures, memory, model=model, k=3, concurrency=1, progress=False)
    codes = [prediction.code for prediction in found if isinstance(prediction, Prediction)]
    assert codes == ["overloaded"] * 3 + ["circuit_open"] * 27 and len(server.generate_calls()) == 3
    assert "failed 3 calls in a row: the following queries fall back to the vote" in caplog.text


def test_what_calls_take_is_counted(server: GeminiServer, memory: VisualMemory) -> None:
    price = find_price("gemini-3.5-flash-lite")
    assert price
    meter = Meter(price)
    model = make_ready(connect("gemini", server), meter=meter)
    server.script = ["ok", "safety", "ok"]
    list(classify_batch([noise(n) for n in range(3)], memory, model=model, k=3, concurrency=1, progress=False))
    counted = sum(258 * len(call.images) + len(call.text) // 4 for call in server.calls)
    assert (meter.calls, meter.prompt_tokens) == (3, counted)
    assert meter.cost == pytest.approx((counted * 0.3 + meter.reply_tokens * 2.5) / 1e6)


def test_a_budget_stops_before_it_is_exceeded(server: GeminiServer, memory: VisualMemory) -> None:
    meter = Meter(find_price("gemini-3.5-flash-lite"), max_cost=0.1)
    model = make_ready(connect("gemini", server), meter=meter)
    done = []
    with pytest.raises(EveryRequestFails, match=r"could exceed --max-cost 0.1 \(spent: \$0\.0"):
        for found in classify_batch([noise(n) for n in range(500)], memory, model=model, k=3, progress=False):
            done.append(found)
    assert 0 < meter.cost <= 0.1 and 3 < len(done) < 500


def test_thinking_is_paid_as_reply_and_cached_input_less() -> None:
    meter = Meter(Price(input=1.0, output=10.0, cached_input=0.1, batch=0.5))
    meter.count(Usage(prompt_tokens=1000, reply_tokens=10, thought_tokens=90, cached_tokens=400))
    assert meter.cost == pytest.approx((600 * 1.0 + 400 * 0.1 + 100 * 10.0) / 1e6)
    meter.count(Usage(prompt_tokens=1000), batch=True)
    assert meter.cost == pytest.approx((600 + 40 + 1000 + 500) / 1e6)
    meter.count(Usage())  # a service that says nothing


def test_a_budget_needs_a_price() -> None:
    with pytest.raises(InvalidArgument, match="--max-cost needs the model's price, which is not known"):
        Meter(None, max_cost=1.0)
    with pytest.raises(InvalidArgument, match="--max-cost -1: a number of dollars above 0 expected"):
        Meter(find_price("gemini-3.5-flash-lite"), max_cost=-1)


def test_ones_own_prices_go_before_those_shipped(tmp_path: Path) -> None:
    file = tmp_path / "prices.toml"
    file.write_text('[models."gemini-3.5-flash-lite"]\ninput = 7\noutput = 8\n[models.mine]\ninput = 0\noutput = 0.5\n')
    assert find_price("gemini-3.5-flash-lite", file=file) == Price(input=7, output=8)
    assert find_price("mine", file=file) == Price(input=0, output=0.5)
    assert find_price("gemini-2.5-flash", file=file) == find_price("gemini-2.5-flash") is not None
    assert find_price("unheard-of") is None


@pytest.mark.parametrize(
    "content",
    [
        "words",
        "",
        "[models.x]\ninput = 1",
        "[models.x]\ninput = -1\noutput = 1",
        "[models.x]\ninput = inf\noutput = 1",
        "[models.x]\ninput = 1\noutput = 1\nimage_square = 0.5",
        pytest.param("x = " + "[" * 100_000, id="brackets"),
    ],
)
def test_a_file_of_something_else_holds_no_prices(tmp_path: Path, content: str) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(content)
    with pytest.raises(InvalidArgument, match="holds no prices .*a TOML file like prompts/prices.toml expected"):
        find_price("x", file=file)


def test_pictures_count_by_the_models_rule_and_resolution() -> None:
    text = len("Neighbour 1:query:") // 4
    assert estimate_prompt_tokens(PROMPT, find_price("gemini-2.5-flash")) == text + 2 * 258
    lite = find_price("gemini-3.5-flash-lite")
    assert estimate_prompt_tokens(PROMPT, lite) == text + 2 * 1120
    assert estimate_prompt_tokens(PROMPT, lite, media_resolution="low") == text + 2 * 280


def test_a_budget_waits_for_calls_in_flight_instead_of_ending_early(server: GeminiServer, memory: VisualMemory) -> None:
    meter = Meter(find_price("gemini-3.5-flash-lite"), max_cost=0.04)  # ten calls at their dearest
    model = make_ready(connect("gemini", server), meter=meter)
    pictures = [noise(n) for n in range(40)]
    found = list(classify_batch(pictures, memory, model=model, k=3, concurrency=16, progress=False))
    assert len(found) == 40 and 0 < meter.cost < 0.04


@pytest.mark.parametrize(
    ("delay", "seconds"), [("7s", 7.0), ("0.5s", 0.5), ("infs", None), ("-1s", None), ("soon", None)]
)
def test_only_a_finite_wait_is_taken_at_its_word(delay: str, seconds: float | None) -> None:
    error = failure(429, "", [{"retryDelay": delay}])
    assert isinstance(error, PassingFailure) and error.retry_after_seconds == seconds


def test_one_query_that_is_asked_to_wait_an_hour_does_not_stop_the_others_for_one() -> None:
    async def pause() -> float:
        limits = Limits(TransportConfig())
        limits.crowded(3600.0)
        return limits._pause_until - asyncio.get_running_loop().time()

    assert asyncio.run(pause()) <= 60


def test_a_service_that_refuses_the_first_requests_ends_the_run(
    memory: VisualMemory, server: GeminiServer, ready: Callable[..., LoadedModel]
) -> None:
    server.fault_for = lambda call: "400"
    pictures = (noise(n) for n in range(1000))
    with pytest.raises(
        EveryRequestFails, match="answered none of the first 1[0-2] requests, the last: the service refuses"
    ):
        list(classify_batch(pictures, memory, model=ready(), k=3, concurrency=2, progress=False))
    assert len(server.generate_calls()) <= 12
