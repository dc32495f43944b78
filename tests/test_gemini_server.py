"""The server that stands in for Google's and OpenAI's, met through the real SDK and through plain HTTP."""

import asyncio
import base64
import http.client
import io
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.conftest import draw
from tests.gemini_protocol import ANSWER, ERRORS
from tests.gemini_server import GeminiServer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from google import genai

SCHEMA = {"type": "object", "properties": {"ranking": {"type": "array", "items": {"type": "string", "enum": ["A"]}}}}
CONFIG = {"response_mime_type": "application/json", "response_json_schema": SCHEMA, "max_output_tokens": 100}
MODEL = "some-model"


def png() -> bytes:
    stream = io.BytesIO()
    draw((200, 30, 30), 1).save(stream, "PNG")
    return stream.getvalue()


def client_of(
    server: GeminiServer, key: str = "test-key", seconds: float = 5, http: httpx2.AsyncClient | None = None
) -> Any:
    options: Any = {
        "base_url": server.url,
        "api_version": "v1beta",
        "timeout": int(1000 * seconds),
        "retry_options": {"attempts": 1},
        "httpx_async_client": http,
    }
    return genai.Client(api_key=key, vertexai=False, http_options=options | {"client_args": {"trust_env": False}})


def http_client() -> "httpx2.AsyncClient":
    return httpx2.AsyncClient(trust_env=False)  # the SDK would take aiohttp, where that is installed


def ask(client: Any, *parts: Any, **config: Any) -> Any:
    return client.models.generate_content(model=MODEL, contents=list(parts) or ["which?"], config=CONFIG | config)


def post(server: GeminiServer, path: str, body: Any, key: str = "test-key") -> tuple[int, Any, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    headers = {"x-goog-api-key": key, "Authorization": f"Bearer {key}"}
    connection.request("POST", path, json.dumps(body), headers)
    response = connection.getresponse()
    result = response.status, dict(response.getheaders()), json.loads(response.read())
    connection.close()
    return result


@pytest.fixture
def server() -> Iterator[GeminiServer]:
    with GeminiServer(models={MODEL}) as running:
        yield running


def test_the_sdk_gets_an_answer_and_the_server_sees_what_was_sent(server: GeminiServer) -> None:
    client = client_of(server)
    response = ask(
        client, "which?", genai.types.Part.from_bytes(data=png(), mime_type="image/png"), system_instruction="look"
    )
    assert response.text == ANSWER and response.model_version == "served-001"
    assert response.usage_metadata.prompt_token_count == 258 + 2
    seen = server.calls[0]
    assert (seen.text, seen.images, seen.model, seen.fault, seen.in_flight) == ("look\nwhich?", [png()], MODEL, None, 1)
    assert client.models.count_tokens(model=MODEL, contents="a" * 40).total_tokens == 10
    assert len(server.calls) == 2 and server.generate_calls() == [seen] and not server.wrong


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"contents": []}, "contents must be"),
        ({"contents": [{"parts": [{"text": "a", "inlineData": {}}]}]}, "exactly one"),
        ({"contents": [{"parts": [{"inline_data": {"mime_type": "image/png", "data": "a*b"}}]}]}, "Base64"),
        ({"contents": [{"parts": [{"inlineData": {"mimeType": "image/gif", "data": ""}}]}]}, "Unsupported MIME"),
        ({"contents": [{"parts": [{"inlineData": {"mimeType": "image/png", "data": "YWI="}}]}]}, "Unable to process"),
        ({"contents": [{"parts": [{"inlineData": {"mimeType": "image/jpeg", "data": "PNG"}}]}]}, "MIME type says"),
        ({"generationConfig": {"temperature": 3}}, "temperature"),
        ({"generation_config": {"max_output_tokens": 0}}, "maxOutputTokens"),
        ({"generationConfig": {"respnseSchema": {}}}, "Unknown name"),
        ({"generationConfig": {"responseJsonSchema": SCHEMA}}, "responseMimeType"),
    ],
)
def test_invalid_requests_are_refused_by_name(server: GeminiServer, body: Any, problem: str) -> None:
    text = json.dumps({"contents": [{"parts": [{"text": "a"}]}]} | body)
    body = json.loads(text.replace('"PNG"', json.dumps(base64.b64encode(png()).decode())))
    server.script = ["500"]
    status, _, reply = post(server, f"/v1beta/models/{MODEL}:generateContent", body)
    assert (status, reply["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert problem in reply["error"]["message"] and server.wrong == [reply["error"]["message"]]
    assert server.script == ["500"] and server.generate_calls()[0].fault is None


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"type": "string", "enum": []}, "enum must be"),
        ({"type": "string", "enum": [str(number) for number in range(101)]}, "too many"),
        ({"type": "string", "enum": ["a" * 101]}, "too long"),
        ({"type": "object", "properties": {}}, "non-empty"),
        ({"type": "array"}, "items: missing"),
        ({"type": "text"}, "unknown type"),
    ],
)
def test_schemas_that_the_service_cannot_compile_are_refused(server: GeminiServer, schema: Any, problem: str) -> None:
    with pytest.raises(genai.errors.ClientError, match=problem):
        ask(client_of(server), response_json_schema={"type": "object", "properties": {"inner": schema}})
    shape = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    body = {"model": MODEL, "messages": [{"role": "user", "content": "which?"}], "response_format": shape}
    assert problem in post(server, "/v1/chat/completions", body)[2]["error"]["message"]


@pytest.mark.parametrize("fault", sorted(ERRORS))
def test_error_faults_reach_the_sdk_as_errors_with_their_code(server: GeminiServer, fault: str) -> None:
    server.script = [fault, "ok"]
    client = client_of(server)
    with pytest.raises(genai.errors.APIError) as caught:
        ask(client)
    assert caught.value.code == (400 if fault == "bad-key" else int(fault[:3]))
    details = json.dumps(caught.value.details)
    assert ("retryDelay" in details) == ("429" in fault) and ("PerDay" in details) == (fault == "429-day")
    assert ask(client).text == ANSWER and [call.fault for call in server.calls] == [fault, None] and not server.wrong


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("502-html", genai.errors.ServerError),
        ("timeout", httpx2.ReadTimeout),
        ("reset", httpx2.ReadError),
        ("truncated", httpx2.RemoteProtocolError),
        ("disconnect", httpx2.RemoteProtocolError),
        ("malformed", json.JSONDecodeError),
    ],
)
def test_faults_on_the_wire_raise_what_was_measured(
    server: GeminiServer, fault: str, error: type[Exception], capfd: pytest.CaptureFixture[str]
) -> None:
    server.fault_for = lambda call: fault if len(server.calls) == 1 else None
    client = client_of(server, seconds=0.3)
    with pytest.raises(error):
        ask(client)
    assert ask(client).text == ANSWER and capfd.readouterr().err == ""


def test_a_drip_outlasts_a_timeout_per_read_and_ends_with_its_client(server: GeminiServer) -> None:
    server.script, server.drip_seconds = ["drip"], 0.05

    async def hurried() -> None:
        async with http_client() as http:
            client = client_of(server, seconds=0.3, http=http)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.aio.models.generate_content(model=MODEL, contents="which?"), 1)

    asyncio.run(hurried())
    assert server.calls[0].fault == "drip"


def test_replies_without_a_usable_answer_are_no_errors(server: GeminiServer) -> None:
    server.script = ["empty", "no-text", "prompt-blocked", "safety", "recitation", "max-tokens", "not-json"]
    client, server.tokens_needed = client_of(server), 50
    empty, silent, blocked, unsafe, recited, whole, prose = (ask(client) for _ in range(7))
    assert not empty.candidates and silent.text is None and blocked.prompt_feedback.block_reason.name == "SAFETY"
    assert [reply.candidates[0].finish_reason.name for reply in (unsafe, recited)] == ["SAFETY", "RECITATION"]
    assert whole.text == ANSWER and "picture" in prose.text
    server.script = ["max-tokens", "unknown-label"]
    cut = ask(client, max_output_tokens=50)
    assert cut.candidates[0].finish_reason.name == "MAX_TOKENS" and ANSWER.startswith(cut.text) and cut.text != ANSWER
    assert "ZZZZ" in ask(client).text and not server.wrong


def test_keys_and_models_are_checked(server: GeminiServer) -> None:
    with pytest.raises(genai.errors.ClientError, match="API key not valid") as caught:
        ask(client_of(server, key="bad-secret"))
    assert "bad-secret" in str(caught.value.details) and "bad-secret" not in str(caught.value.message)
    client = client_of(server)
    with pytest.raises(genai.errors.ClientError, match="404"):
        client.models.generate_content(model="other", contents="which?")
    assert len(server.generate_calls()) == 2 and not server.wrong


def test_chat_completions_answer_and_fail_in_openais_shapes(server: GeminiServer) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(png()).decode()}}
    body = {"model": MODEL, "messages": [{"role": "user", "content": [{"type": "text", "text": "which?"}, picture]}]}
    server.script = ["ok", "max-tokens", "safety", "429", "429-day"]
    replies = [post(server, "/v1/chat/completions", body) for _ in range(5)]
    assert replies[0][2]["choices"][0]["message"]["content"] == ANSWER and server.calls[0].images == [png()]
    assert [reply[2]["choices"][0]["finish_reason"] for reply in replies[:3]] == ["stop", "length", "content_filter"]
    assert (replies[3][0], replies[3][1]["Retry-After"]) == (429, "0.05")
    assert replies[4][2]["error"]["code"] == "insufficient_quota" and "Retry-After" not in replies[4][1]
    assert post(server, "/v1/chat/completions", body, key="bad")[0] == 401 and not server.wrong


def test_many_clients_wait_at_the_same_time(server: GeminiServer) -> None:
    server.latency_seconds = 0.3
    client = client_of(server)
    start = time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda _: ask(client), range(16)))
    assert server.peak_in_flight == 16 and time.monotonic() - start < 3


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_batch_goes_through_the_sdk_and_outlives_the_server(tmp_path: Path, asynchronous: bool) -> None:
    faults = {"k1": "missing", "k2": "error", "k3": "blocked", "k4": "not_json"}
    request = {"contents": [{"parts": [{"text": "which?"}]}], "generation_config": {"temperature": 0}}
    lines = [json.dumps({"key": f"k{number}", "request": request}) for number in range(20)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))

    async def call(method: Any, **arguments: Any) -> Any:
        result = method(**arguments)
        return await result if asynchronous else result

    async def submit(whole: Any) -> None:
        client = whole.aio if asynchronous else whole
        upload = {"mime_type": "jsonl", "display_name": "in"}
        file = await call(client.files.upload, file=tmp_path / "in.jsonl", config=upload)
        for name in ("first", "second", "third"):
            config = {"display_name": name}
            job = await call(client.batches.create, model=MODEL, src=file.name, config=config)
            assert job.state.name == "JOB_STATE_PENDING" and not job.done
        await call(client.batches.cancel, name=job.name)

    async def collect(whole: Any) -> list[Any]:
        client = whole.aio if asynchronous else whole
        pages = await call(client.batches.list, config={"page_size": 2})
        jobs = [job async for job in pages] if asynchronous else list(pages)
        states = [(job.display_name, job.state.name.removeprefix("JOB_STATE_")) for job in jobs]
        assert states == [("third", "CANCELLED"), ("second", "EXPIRED"), ("first", "SUCCEEDED")]
        first = await call(client.batches.get, name=jobs[-1].name)
        content = await call(client.files.download, file=first.dest.file_name)
        await call(client.files.delete, name=first.dest.file_name)
        with pytest.raises(genai.errors.ClientError, match="404"):
            await call(client.files.get, name=first.dest.file_name)
        return [json.loads(line) for line in content.splitlines()]

    async def connected(server: GeminiServer, work: Any) -> Any:
        async with http_client() as http:
            return await work(client_of(server, http=http))

    with GeminiServer(state_folder=tmp_path / "cloud", batch_seconds=60) as server:
        server.batch_job_fault = ["ok", "expired"]
        asyncio.run(connected(server, submit))
        assert server.batch_jobs == ["first", "second", "third"] and server.batch_items == []
    with GeminiServer(state_folder=tmp_path / "cloud", batch_seconds=0) as server:
        server.batch_item_fault = lambda key, call: faults.get(key)
        found = asyncio.run(connected(server, collect))
        assert server.batch_items == [f"k{number}" for number in range(20) if number not in (1, 2)]
    keys = [line["key"] for line in found]
    assert keys != sorted(keys) and {*keys} == {f"k{number}" for number in range(20)} - {"k1"}
    by_key = {line["key"]: line for line in found}
    assert by_key["k2"]["error"]["code"] == 500 and "promptFeedback" in by_key["k3"]["response"]


def test_the_server_runs_as_a_process_of_its_own(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.gemini_server", "--port-file", str(tmp_path / "port"), "--latency", "0.1"]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[1], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while not (tmp_path / "port").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        connection = http.client.HTTPConnection("127.0.0.1", int((tmp_path / "port").read_text()), timeout=5)
        connection.request("GET", "/v1beta/batches?key=test-key")
        assert json.loads(connection.getresponse().read()) == {"operations": []}
        connection.close()
    finally:
        process.terminate()
        process.wait()
