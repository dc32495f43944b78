"""Kept replies: what makes a request itself, and what keeps them whole."""

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from agent import GenerationConfig
from agent.calls.background import run
from agent.calls.cached import Cached, ReplyStore, key_of
from agent.calls.ready import LoadedModel
from agent.errors import ModelError, ReplyCacheError
from agent.models.scripted import ScriptedModel
from agent.settings import TransportConfig
from agent.types import Reply, Request, Usage
from prompts.types import ImagePart, Prompt, TextPart
from tests.agent.queries import PROMPT
from tests.gemini_server import GeminiServer

ONE, TWO, QUERY = (ImagePart(name.encode()) for name in ("one", "two", "query"))
ASKED = Request(Prompt("t", (TextPart("1:"), ONE, TextPart("2:"), TWO, QUERY), {"A": "cat"}, "digest"))
REPLY = Reply('{"ranking": ["A"]}', "m", Usage(10, 5), served_by="m-001")


def with_parts(*parts: TextPart | ImagePart, **changes: object) -> Request:
    return replace(ASKED, prompt=replace(ASKED.prompt, parts=parts, **changes))  # type: ignore[arg-type]


CHANGED = {
    "model": ("other", ASKED),
    "generation temperature": ("m", replace(ASKED, generation=GenerationConfig(temperature=0.1))),
    "generation seed": ("m", replace(ASKED, generation=GenerationConfig(seed=1))),
    "generation max_reply_tokens": ("m", replace(ASKED, generation=GenerationConfig(max_reply_tokens=9))),
    "template": ("m", with_parts(*ASKED.prompt.parts, template_digest="another")),
    "texts": ("m", with_parts(TextPart("one:"), *ASKED.prompt.parts[1:])),
    "query picture": ("m", with_parts(*ASKED.prompt.parts[:4], ImagePart(b"other"))),
    "order of pictures": ("m", with_parts(TextPart("1:"), TWO, TextPart("2:"), ONE, QUERY)),
    "order of parts": ("m", with_parts(TextPart("1:"), TextPart("2:"), ONE, TWO, QUERY)),
    "candidates": ("m", with_parts(*ASKED.prompt.parts, candidates={"A": "dog"})),
    "replicate": ("m", replace(ASKED, replicate=1)),
}


@pytest.mark.parametrize("part", CHANGED)
def test_whatever_can_change_an_answer_makes_another_request_and_is_named(fresh_store: ReplyStore, part: str) -> None:
    fresh_store.put(key_of("m", ASKED), ASKED, REPLY)
    key = key_of(*CHANGED[part])
    assert fresh_store.get(key) is None
    nearest = fresh_store.nearest(key)
    assert nearest is not None and nearest[1] == [part]


def test_a_reply_is_kept_with_its_version_and_its_tokens(fresh_store: ReplyStore) -> None:
    assert fresh_store.get(key_of("m", ASKED)) is None and fresh_store.nearest(key_of("m", ASKED)) is None
    fresh_store.put(key_of("m", ASKED), ASKED, REPLY)
    assert fresh_store.get(key_of("m", ASKED)) == replace(REPLY, from_cache=True)


def test_what_a_stand_in_said_is_not_taken_for_google_s_answer() -> None:
    google = ("gemini:gemini-3.5-flash-lite", "generativeai:gemini-3.5-flash-lite")
    servers = {model: key_of(model, ASKED).parts.get("server") for model in (*google, "openai:m@http://host/v1")}
    assert set(servers.values()) == {None}
    os.environ["GOOGLE_GEMINI_BASE_URL"] = "http://127.0.0.1:9/"
    try:
        servers = {model: key_of(model, ASKED).parts.get("server") for model in servers}
    finally:
        del os.environ["GOOGLE_GEMINI_BASE_URL"]
    assert servers == {**dict.fromkeys(google, "http://127.0.0.1:9"), "openai:m@http://host/v1": None}


def test_time_limits_and_concurrency_make_no_other_request(
    server: GeminiServer, ready: Callable[..., LoadedModel], fresh_store: ReplyStore
) -> None:
    first, second = ready(store=fresh_store), ready(store=fresh_store, concurrency=1, timeout_seconds=3.0)
    assert not run(first.generate(Request(PROMPT))).from_cache
    assert run(second.generate(Request(PROMPT))).from_cache and len(server.calls) == 1
    assert TransportConfig.__name__ not in str(key_of("m", ASKED).parts)


def test_pictures_are_kept_once_by_content(fresh_store: ReplyStore) -> None:
    for number in range(5):
        asked = with_parts(ONE, TWO, ImagePart(f"query {number}".encode()))
        fresh_store.put(key_of("m", asked), asked, REPLY)
    assert fresh_store.counts() == (5, 7)


def test_the_store_stays_below_its_size(tmp_path: Path) -> None:
    store = ReplyStore(tmp_path / "small", size_limit=2_000_000)
    for number in range(200):
        asked = with_parts(ImagePart(os.urandom(50_000)))
        store.put(key_of("m", asked), asked, replace(REPLY, text=f'{{"ranking": ["A"], "n": {number}}}'))
    assert store.counts()[1] < 80


def test_many_threads_and_processes_share_a_store(tmp_path: Path) -> None:
    _in_processes(3, FILL, tmp_path)
    store = ReplyStore(tmp_path)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda n: store.get(key_of("m", _numbered(n))), range(150)))
    assert [reply.text for reply in found if reply] == [f'{{"ranking": ["A"], "n": {n}}}' for n in range(150)]


def test_equal_requests_of_several_processes_make_one_call(tmp_path: Path, server: GeminiServer) -> None:
    server.latency_seconds = 2.0
    said = _in_processes(3, ASK, tmp_path, server.url)
    assert len(set(said)) == 1 and len(server.generate_calls()) == 1


def test_a_claim_of_a_process_that_died_is_taken_over(tmp_path: Path) -> None:
    _in_processes(1, CLAIM, tmp_path)
    began = time.monotonic()
    assert run(Cached(ScriptedModel("A"), ReplyStore(tmp_path)).generate(ASKED)).text == "A"
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("reply", ["I think it is a cat", '{"ranking": ["Z"]}', ""])
def test_a_reply_that_is_no_answer_is_not_kept(fresh_store: ReplyStore, reply: str) -> None:
    assert run(Cached(ScriptedModel(reply), fresh_store).generate(ASKED)).text == reply
    assert list(fresh_store.entries()) == []


def test_a_failure_is_not_kept_and_does_not_hold_up_the_next(fresh_store: ReplyStore) -> None:
    model = Cached(ScriptedModel([]), fresh_store)
    for _ in range(2):
        with pytest.raises(ModelError, match="no replies left"):
            run(model.generate(ASKED))
    assert run(Cached(ScriptedModel("A"), fresh_store).generate(ASKED)).text == "A"


def test_a_damaged_store_is_named_with_its_cure(tmp_path: Path) -> None:
    folder = tmp_path / "replies"
    ReplyStore(folder)
    (folder / "cache.db").write_bytes(b"no database" * 1000)
    for aside in ("cache.db-wal", "cache.db-shm"):
        (folder / aside).unlink(missing_ok=True)
    with pytest.raises(ReplyCacheError, match="`vmem cache clear replies`"):
        ReplyStore(folder).put(key_of("m", ASKED), ASKED, REPLY)


def test_an_entry_that_somebody_changed_is_no_answer(fresh_store: ReplyStore, tmp_path: Path) -> None:
    key = key_of("m", ASKED)
    fresh_store.put(key, ASKED, REPLY)
    with sqlite3.connect(tmp_path / "replies" / "cache.db") as database:
        database.execute("UPDATE Cache SET value = ? WHERE key LIKE 'reply:%'", (sqlite3.Binary(b'{"reply": 1}'),))
    assert fresh_store.get(key) is None and list(fresh_store.entries()) == []


def _numbered(number: int) -> Request:
    return with_parts(ONE, TextPart(f"text {number}"), QUERY)


def _in_processes(count: int, program: str, *arguments: object) -> list[str]:
    """Run a program several times at once, each with its number, and return what they print."""
    root = Path(__file__).parents[2]
    commands = [[sys.executable, "-c", program, str(number), *map(str, arguments)] for number in range(count)]
    running = [subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) for command in commands]
    return [process.communicate(timeout=60)[0] for process in running]


FILL = """
import sys
from dataclasses import replace
from agent.calls.cached import key_of
from agent.calls.cached import ReplyStore
from tests.agent.test_reply_store import REPLY, _numbered

store, start = ReplyStore(sys.argv[2]), 50 * int(sys.argv[1])
for number in range(start, start + 50):
    asked = _numbered(number)
    store.put(key_of("m", asked), asked, replace(REPLY, text=f'{{"ranking": ["A"], "n": {number}}}'))
"""
ASK = """
import sys
from agent.calls.background import run
from agent.keys import Secret
from agent.calls.ready import make_ready
from agent.models.openai_compatible import OpenAICompatible
from agent.calls.cached import ReplyStore
from agent.types import Request
from tests.agent.conftest import KEY
from tests.agent.queries import PROMPT

bare = OpenAICompatible("m", sys.argv[3] + "/v1", Secret(KEY))
print(run(make_ready(bare, store=ReplyStore(sys.argv[2])).generate(Request(PROMPT))).text)
"""
CLAIM = """
import os, sys
from agent.calls.cached import key_of
from agent.calls.cached import ReplyStore
from tests.agent.test_reply_store import ASKED

assert ReplyStore(sys.argv[2]).claim(key_of("scripted", ASKED), seconds=600)
os._exit(9)
"""
