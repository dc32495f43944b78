"""Every fault of a service has its outcome, with the number of attempts that the service sees."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent import classify_with_rerank
from agent.calls.ready import LoadedModel
from agent.errors import EveryRequestFails, ModelError
from retrieval import VisualMemory
from tests.agent.conftest import KINDS
from tests.gemini_server import GeminiServer

Ask = Callable[..., tuple[str, int]]
PASSING = {
    "429": "rate_limited",
    "500": "overloaded",
    "503": "overloaded",
    "504": "overloaded",
    "502-html": "overloaded",
    "timeout": "timed_out",
    "drip": "timed_out",
    "reset": "connection_broken",
    "truncated": "connection_broken",
    "disconnect": "connection_broken",
    "malformed": "garbled_response",
    "nested": "garbled_response",
}
ONCE_MORE = {
    "empty": "empty_reply",
    "no-text": "empty_reply",
    "max-tokens": "cut_off",
    "not-json": "unusable_reply",
    "unknown-label": "unusable_reply",
}
FINAL = {
    "400": "request_refused",
    "bad-key": "key_refused",
    "401": "key_refused",
    "403": "key_refused",
    "404": "unknown_model",
    "429-day": "quota_spent",
    "prompt-blocked": "blocked",
    "safety": "blocked",
    "recitation": "blocked",
}
NOT_OPENAI = ("bad-key", "429-day", "prompt-blocked")  # a bad key is 401, a day's quota any 429, a block one filter


@pytest.fixture
def ask(memory: VisualMemory, pictures: Path, ready: Callable[..., LoadedModel], server: GeminiServer) -> Ask:
    """Return a function that classifies a picture by a kind of model while the server follows a script."""

    def asked(kind: str, script: list[str], **options: object) -> tuple[str, int]:
        server.script = script
        server.stall_seconds, server.retry_delay = 1.0, "0.01s"
        model = ready(kind, timeout_seconds=0.4 if script[0] in ("timeout", "drip") else 10.0)
        picture = pictures / "red" / "3.png"
        prediction = classify_with_rerank(picture, memory, model=model, k=6, **options)  # type: ignore[arg-type]
        assert prediction.label == "red" and prediction.source == (
            "rerank" if prediction.code == "reranked" else "vote"
        )
        return prediction.code, len(server.generate_calls())

    return asked


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", PASSING)
def test_a_fault_that_passes_costs_one_more_attempt(ask: Ask, kind: str, fault: str) -> None:
    assert ask(kind, [fault, "ok"]) == ("reranked", 2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", PASSING)
def test_a_fault_that_stays_leaves_the_vote_after_every_attempt(ask: Ask, kind: str, fault: str) -> None:
    assert ask(kind, [fault] * 9) == (PASSING[fault], 3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", ONCE_MORE)
def test_a_reply_that_says_nothing_is_asked_for_once_more(
    ask: Ask, server: GeminiServer, kind: str, fault: str
) -> None:
    server.tokens_needed = 2000  # more than the limit at first, less than the larger one
    assert ask(kind, [fault, "ok"]) == ("reranked", 2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", ONCE_MORE)
def test_a_reply_that_says_nothing_twice_leaves_the_vote(ask: Ask, kind: str, fault: str) -> None:
    assert ask(kind, [fault] * 9) == (ONCE_MORE[fault], 2)


@pytest.mark.parametrize(
    ("kind", "fault"),
    [(kind, fault) for kind in KINDS for fault in FINAL if kind != "openai" or fault not in NOT_OPENAI],
)
def test_a_fault_that_is_final_is_not_repeated(ask: Ask, kind: str, fault: str) -> None:
    # google-auth, beneath the older SDK, renews what it takes for a stale token, and sends a 401 three times.
    attempts = 3 if (kind, fault) == ("generativeai", "401") else 1
    assert ask(kind, [fault] * 9) == (FINAL[fault], attempts)


def test_a_caller_may_want_the_failure_instead_of_the_vote(ask: Ask) -> None:
    with pytest.raises(ModelError, match="the service blocked the reply"):
        ask("gemini", ["safety"], on_error="raise")
    with pytest.raises(EveryRequestFails, match="there is no such model .*choose another --model"):
        ask("gemini", ["404"], on_error="raise")


@pytest.mark.parametrize("kind", KINDS)
def test_the_services_own_word_on_how_long_to_wait_is_kept(
    memory: VisualMemory, pictures: Path, ready: Callable[..., LoadedModel], server: GeminiServer, kind: str
) -> None:
    server.script, server.retry_delay = ["429", "ok"], "1s"
    began = time.monotonic()
    prediction = classify_with_rerank(pictures / "red" / "3.png", memory, model=ready(kind), k=6)
    assert prediction.code == "reranked" and time.monotonic() - began >= 1.0


def test_a_call_ends_at_its_deadline_however_many_attempts_are_left(
    memory: VisualMemory, pictures: Path, ready: Callable[..., LoadedModel], server: GeminiServer
) -> None:
    server.script, server.retry_delay = ["429"] * 99, "0.4s"
    model = ready(attempts=99, deadline_seconds=1.0)
    prediction = classify_with_rerank(pictures / "red" / "3.png", memory, model=model, k=6)
    assert prediction.code == "rate_limited" and 2 <= len(server.generate_calls()) <= 3
