"""A key shows itself nowhere: the bytes of everything that is written, logged or raised are searched for it."""

import io
import logging
import pickle
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent import classify_with_rerank
from agent.calls.cached import ReplyStore
from agent.calls.ready import LoadedModel, load_model, make_ready
from agent.classify import prepare
from agent.errors import EveryRequestFails
from agent.keys import GEMINI_VARIABLES, Secret, find_key
from agent.models.openai_compatible import OpenAICompatible
from eval.types import Sample
from prompts.cost import estimate_prompt
from prompts.types import Prompt
from retrieval import VisualMemory
from retrieval.errors import InvalidArgument
from tests.agent.conftest import KEY, KINDS
from tests.conftest import draw
from tests.gemini_server import GeminiServer
from tests.runs import evaluate, page_of

# Both repeat the key in their errors, in the message or in the details.
ECHOING = ("403", "bad-key", "401", "400", "500", "reset", "truncated", "disconnect", "malformed", "timeout", "safety")


@pytest.fixture
def everything_logged() -> Iterator[io.StringIO]:
    """Return what every logger says, at the level at which they say most."""
    stream, root = io.StringIO(), logging.getLogger()
    handler, level = logging.StreamHandler(stream), root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield stream
    root.removeHandler(handler)
    root.setLevel(level)


@pytest.mark.parametrize(
    ("kind", "fault"),
    [(kind, fault) for kind in KINDS for fault in ECHOING if (kind, fault) != ("openai", "bad-key")],
)  # OpenAI's protocol has no such reply
def test_no_error_holds_the_key(
    memory: VisualMemory,
    server: GeminiServer,
    ready: Callable[..., LoadedModel],
    everything_logged: io.StringIO,
    kind: str,
    fault: str,
) -> None:
    server.script, server.stall_seconds = [fault] * 5, 0.5
    model = ready(kind, attempts=2, timeout_seconds=0.3 if fault == "timeout" else 10.0)
    picture = draw((200, 30, 30), 3)
    with pytest.raises(Exception, match=".") as raised:
        classify_with_rerank(picture, memory, model=model, k=6, on_error="raise")
    whole = traceback.TracebackException.from_exception(raised.value, capture_locals=True)
    assert KEY not in "".join(whole.format())
    assert KEY.encode() not in pickle.dumps(raised.value)
    assert KEY not in everything_logged.getvalue()
    links = (raised.value.__cause__, raised.value.__context__)
    assert all(link is None or type(link).__module__.startswith(("agent", "prompts")) for link in links)


@pytest.mark.parametrize("kind", KINDS)
def test_no_file_and_no_log_holds_the_key(
    memory: VisualMemory,
    server: GeminiServer,
    ready: Callable[..., LoadedModel],
    everything_logged: io.StringIO,
    tmp_path: Path,
    kind: str,
) -> None:
    server.script = ["ok", "403", "ok"] if kind == "never" else ["ok", "500", "ok", "safety", "400", "ok"]
    stages = prepare(memory, model=ready(kind, store=ReplyStore(tmp_path / "replies")), k=6)
    samples = {"q": [Sample(str(number), draw((200, 30, 30), number), frozenset(["red"])) for number in range(5)]}
    summary, run = evaluate(memory, samples, tmp_path / "run", k=6, stages=stages)
    page_of(summary, run, memory, samples, tmp_path / "run")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 4
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
    assert KEY not in everything_logged.getvalue()


def test_a_secret_is_neither_printed_nor_pickled() -> None:
    secret = Secret(KEY)
    assert KEY not in f"{secret!r} {secret} {[secret]}" and secret.reveal() == KEY
    assert secret.hide_in(f"the key {KEY}.") == "the key [key]."
    with pytest.raises(TypeError, match="never pickled"):
        pickle.dumps(secret)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_cannot_be_pickled_with_its_key(ready: Callable[..., LoadedModel], kind: str) -> None:
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        pickle.dumps(ready(kind))


def test_a_key_comes_from_a_file_of_one_word(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    found = find_key(GEMINI_VARIABLES, file=file)
    assert found and found.reveal() == KEY
    for content in ("", "two words"):
        file.write_text(content)
        with pytest.raises(InvalidArgument, match="words: a single API key expected"):
            find_key(GEMINI_VARIABLES, file=file)
    with pytest.raises(InvalidArgument, match="cannot be read .*: a file with an API key expected"):
        find_key(GEMINI_VARIABLES, file=tmp_path / "none")


def test_without_a_key_a_gemini_model_cannot_be_had() -> None:
    with pytest.raises(EveryRequestFails, match="no API key is set: put one into GEMINI_API_KEY or GOOGLE_API_KEY"):
        load_model("gemini-3.5-flash-lite")


def test_a_key_file_of_another_editor_is_read_and_one_of_other_letters_refused(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_bytes(b"\xef\xbb\xbf" + KEY.encode() + b"\r\n")
    found = find_key((), file=file)
    assert found and found.reveal() == KEY
    file.write_text("schlüssel")
    with pytest.raises(InvalidArgument, match="is no API key: letters, digits and signs of ASCII expected"):
        find_key((), file=file)


@pytest.mark.parametrize(
    "url", ["me:hush@127.0.0.1/v1", "hush@h/v1", "h/v1?api_key=hush", "h/v1?hush", "h/v1#hush", "h:hush/v1", "[hush/v1"]
)
def test_a_secret_in_a_servers_address_is_refused_without_saying_it(url: str) -> None:
    for take in (lambda: load_model(f"openai:x@http://{url}"), lambda: OpenAICompatible("x", f"http://{url}")):
        with pytest.raises(InvalidArgument, match="the address of the model's server (at|is none)") as raised:
            take()
        assert "hush" not in str(raised.value)


@pytest.mark.parametrize("name", ["opnai:x@http://me:hush@h/v1", "http://me:hush@h", "openai:x@me:hush@h", "x//hush"])
def test_a_name_of_no_model_is_refused_without_its_address(name: str) -> None:
    with pytest.raises(InvalidArgument, match="^no model '[^@/]*': gemini-MODEL, ") as raised:
        load_model(name)
    assert "hush" not in str(raised.value)
    assert "hush" not in str(estimate_prompt(Prompt("", (), {}), model=name))


def test_a_version_in_a_servers_address_which_azure_wants_is_sent(
    memory: VisualMemory, server: GeminiServer, everything_logged: io.StringIO
) -> None:
    bare = OpenAICompatible("qwen3-vl", f"{server.url}/v1/?api-version=2026-11-01", Secret(KEY))
    found = classify_with_rerank(draw((200, 30, 30), 3), memory, model=make_ready(bare), k=6)
    assert found.code == "reranked" and bare.name == f"openai:qwen3-vl@{server.url}/v1/?api-version=2026-11-01"
    assert "/v1/chat/completions?api-version=2026-11-01" in everything_logged.getvalue()


def test_a_key_given_in_place_of_its_file_is_not_repeated() -> None:
    with pytest.raises(InvalidArgument, match=r"the key file cannot be read \(No such file or directory\)") as raised:
        find_key(GEMINI_VARIABLES, file=Path(KEY))
    whole = traceback.TracebackException.from_exception(raised.value)
    assert KEY not in "".join(whole.format())
