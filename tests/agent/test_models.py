"""Models by name, and what reaches the service."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from agent import GenerationConfig, TransportConfig, classify_with_rerank, load_model
from agent.calls.background import run
from agent.calls.ready import LoadedModel, parse_name
from agent.errors import EveryRequestFails
from agent.types import Reply, Request, VisionModel
from retrieval import VisualMemory
from retrieval.errors import InvalidArgument
from tests.agent.conftest import KINDS, connect
from tests.agent.queries import PICTURE, PROMPT
from tests.conftest import draw
from tests.gemini_server import GeminiServer


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_gives_its_words_its_version_and_its_tokens(server: GeminiServer, kind: str) -> None:
    model = connect(kind, server)
    reply = run(model.generate(Request(PROMPT)))
    assert isinstance(model, VisionModel) and isinstance(reply, Reply)
    assert '"ranking": ["A"]' in reply.text and reply.model == model.name and reply.served_by == "served-001"
    assert reply.usage.prompt_tokens and reply.usage.reply_tokens
    (call,) = server.calls
    assert call.images == [PICTURE.encoded] * 2 and call.text == "Neighbour 1:\nquery:"


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_but_the_candidates_codes_may_be_answered(server: GeminiServer, kind: str) -> None:
    run(connect(kind, server).generate(Request(PROMPT)))
    assert '"enum": ["A", "B", "NONE"]' in json.dumps(server.calls[0].body)
    run(connect(kind, server).generate(Request(PROMPT, GenerationConfig(enforce_schema=False))))
    assert "enum" not in json.dumps(server.calls[1].body)


def test_every_setting_reaches_gemini(server: GeminiServer) -> None:
    settings = GenerationConfig(
        temperature=0.5, max_reply_tokens=77, thinking="low", media_resolution="medium", seed=10
    )
    run(connect("gemini", server).generate(Request(PROMPT, settings, replicate=1)))
    sent = server.calls[0].body["generationConfig"]
    assert (sent["temperature"], sent["maxOutputTokens"], sent["seed"]) == (0.5, 77, 11)
    assert sent["mediaResolution"] == "MEDIA_RESOLUTION_MEDIUM"
    assert sent["thinkingConfig"] == {"thinkingLevel": "LOW"}


def test_every_setting_reaches_a_compatible_server(server: GeminiServer) -> None:
    settings = GenerationConfig(temperature=0.5, max_reply_tokens=77, thinking="low", media_resolution="low", seed=10)
    run(connect("openai", server).generate(Request(PROMPT, settings)))
    sent = server.calls[0].body
    assert (sent["temperature"], sent["max_tokens"], sent["seed"], sent["reasoning_effort"]) == (0.5, 77, 10, "low")
    assert sent["messages"][0]["content"][1]["image_url"]["detail"] == "low"


def test_the_older_sdk_refuses_settings_that_it_does_not_know(server: GeminiServer) -> None:
    settings = GenerationConfig(thinking="low", seed=1)
    with pytest.raises(EveryRequestFails, match="knows no thinking and no seed: leave that out, or use gemini:"):
        run(connect("generativeai", server).generate(Request(PROMPT, settings)))


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("gemini-3.5-flash-lite", "gemini:gemini-3.5-flash-lite"),
        ("gemini:tuned", "gemini:tuned"),
        ("generativeai:gemini-2.5-flash", "generativeai:gemini-2.5-flash"),
        ("openai:qwen3-vl@http://127.0.0.1:8000/v1/", "openai:qwen3-vl@http://127.0.0.1:8000/v1"),
        ("scripted", "scripted"),
    ],
)
def test_a_model_is_named_by_its_maker(name: str, whole: str) -> None:
    assert str(parse_name(name)) == whole


@pytest.mark.parametrize("name", ["", "gpt-5", "openai:x", "openai:x@127.0.0.1", "gemini:", "claude:x"])
def test_another_name_is_refused_with_the_forms(name: str) -> None:
    with pytest.raises(
        InvalidArgument, match="gemini-MODEL, generativeai:MODEL, openai:MODEL@URL or scripted expected"
    ):
        load_model(name)


def test_a_local_server_needs_no_key(server: GeminiServer, memory: VisualMemory) -> None:
    server.key = ""
    model = load_model(f"openai:qwen3-vl@{server.url}/v1", cache=False, transport=TransportConfig(attempts=1))
    prediction = classify_with_rerank(draw((200, 30, 30), 3), memory, model=model, k=6)
    assert prediction.code in ("reranked", "key_refused")
    assert len(server.generate_calls()) == 1


def test_a_scripted_model_by_name_agrees_with_the_vote(memory: VisualMemory) -> None:
    model = load_model("scripted")
    prediction = classify_with_rerank(draw((200, 30, 30), 3), memory, model=model, k=6)
    assert (prediction.source, prediction.label) == ("rerank", "red") and model.store is None


@pytest.mark.parametrize(
    "settings",
    [{"temperature": 3.0}, {"max_reply_tokens": 0}, {"thinking": "deep"}, {"media_resolution": "4k"}],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match="expected"):
        GenerationConfig(**settings)


@pytest.mark.parametrize("name", ["timeout_seconds", "attempts", "concurrency", "requests_per_minute"])
def test_transport_out_of_range_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match=f"{name}=0: a number above 0 expected"):
        TransportConfig(**{name: 0})


def test_gemini_counts_tokens_without_an_answer(server: GeminiServer, ready: Callable[..., LoadedModel]) -> None:
    counted = run(ready().bare.count_tokens(Request(PROMPT)))  # type: ignore[attr-defined]
    assert counted == 258 * 2 + len("Neighbour 1:\nquery:") // 4 and server.generate_calls() == []
