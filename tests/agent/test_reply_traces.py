"""Kept replies lose every entry that shows a forgotten thumbnail, and keep all others."""

import json
from pathlib import Path

import diskcache
import numpy as np
import pytest

from agent.calls.cached import ReplyStore, key_of, sha256
from agent.types import Reply, Request, Usage
from prompts.types import ImagePart, Prompt, TextPart
from retrieval.erasing.secrets import Forgotten, Marks
from retrieval.erasing.traces import ReplyTraces, every_trace
from retrieval.errors import StorageError

DRAW = np.random.default_rng(0)
ONE, TWO, QUERY = (ImagePart(DRAW.bytes(6_000)) for _ in range(3))
REPLY = Reply('{"ranking": ["A"], "words": "of the forgotten picture"}', "m", Usage(10, 5))
FORGOTTEN = Forgotten(frozenset({"a"}), frozenset(), frozenset({sha256(ONE.encoded)}))
MARKS = Marks.of(FORGOTTEN, b"salt")


def asked(*parts: ImagePart) -> Request:
    return Request(Prompt("t", (TextPart("Which one?"), *parts), {"A": "cat"}, "digest"))


def everything(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir())


@pytest.fixture
def filled(fresh_store: ReplyStore) -> ReplyStore:
    """Return a store with two replies, one of them to a prompt that shows ONE, and a request that shows it."""
    for request in (asked(ONE, TWO, QUERY), asked(TWO, QUERY)):
        fresh_store.put(key_of("m", request), request, REPLY)
    fresh_store.keep_request(key_of("m", asked(ONE, QUERY)), asked(ONE, QUERY))
    return fresh_store


def test_entries_that_show_it_go_without_a_byte_left(filled: ReplyStore, tmp_path: Path) -> None:
    traces = ReplyTraces(tmp_path / "replies")
    assert ONE.encoded[:1_000] in everything(tmp_path / "replies")
    assert traces.remains(MARKS) == [f"3 pictures, requests and replies in {tmp_path / 'replies'}"]
    assert traces.drop(FORGOTTEN) == 3  # the picture, a reply and a request
    assert traces.remains(MARKS) == []
    rest = everything(tmp_path / "replies")
    assert not any(ONE.encoded[start : start + 100] in rest for start in range(0, 5_900, 100))
    assert sha256(ONE.encoded).encode() not in rest


def test_replies_that_do_not_show_it_stay(filled: ReplyStore, tmp_path: Path) -> None:
    ReplyTraces(tmp_path / "replies").drop(FORGOTTEN)
    assert filled.get(key_of("m", asked(ONE, TWO, QUERY))) is None
    kept = filled.get(key_of("m", asked(TWO, QUERY)))
    assert kept is not None and kept.text == REPLY.text and TWO.encoded[:1_000] in everything(tmp_path / "replies")


def test_a_sheet_that_holds_it_goes_with_what_shows_the_sheet(fresh_store: ReplyStore, tmp_path: Path) -> None:
    drawn = tuple(sha256(part.encoded) for part in (ONE, TWO))
    sheet, other = ImagePart(DRAW.bytes(9_000), drawn=drawn), ImagePart(DRAW.bytes(9_000), drawn=drawn[1:])
    for request in (asked(sheet, QUERY), asked(other, QUERY)):
        fresh_store.put(key_of("m", request), request, REPLY)
    traces = ReplyTraces(tmp_path / "replies")
    assert traces.remains(MARKS) == [f"2 pictures, requests and replies in {tmp_path / 'replies'}"]
    assert traces.drop(FORGOTTEN) == 2 and traces.remains(MARKS) == []
    rest = everything(tmp_path / "replies")
    assert sheet.encoded[:100] not in rest and drawn[0].encode() not in rest
    assert other.encoded[:100] in rest and fresh_store.get(key_of("m", asked(other, QUERY))) is not None


def test_what_is_kept_again_later_is_found(filled: ReplyStore, tmp_path: Path) -> None:
    traces = ReplyTraces(tmp_path / "replies")
    traces.drop(FORGOTTEN)
    request = asked(QUERY, ONE)
    ReplyStore(tmp_path / "replies").put(key_of("m", request), request, REPLY)
    assert traces.remains(MARKS) != []


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    traces = ReplyTraces(tmp_path / "none")
    assert (traces.folders(), traces.drop(FORGOTTEN), traces.remains(MARKS)) == ([], 0, [])
    assert not (tmp_path / "none").exists()


def test_entries_that_this_program_did_not_write_stop_nothing(filled: ReplyStore, tmp_path: Path) -> None:
    for number, value in enumerate((b"[]", b"{", b'{"parts": 3}', json.dumps({"parts": [{}]}).encode())):
        filled._store.set(f"reply:{number}", value)
    assert ReplyTraces(tmp_path / "replies").drop(FORGOTTEN) == 3


def test_entries_that_nobody_can_read_stop_nothing_and_go(filled: ReplyStore, tmp_path: Path) -> None:
    with diskcache.Cache(str(tmp_path / "replies"), disk=diskcache.Disk) as ordinary:
        ordinary.set(("no", "text"), b"1")
        ordinary.set("reply:foreign", {"a": "pickle"})
    traces = ReplyTraces(tmp_path / "replies")
    assert traces.remains(MARKS) == [f"3 pictures, requests and replies in {tmp_path / 'replies'}"]
    assert traces.drop(FORGOTTEN) == 5 and traces.remains(MARKS) == []
    assert filled.get(key_of("m", asked(TWO, QUERY))) is not None


def test_a_store_that_cannot_be_used_is_said_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "cache.db").write_bytes(b"no database, and not empty" * 100)
    with pytest.raises(StorageError, match="is still there; mend it, or `vmem cache clear`; .*--resume"):
        ReplyTraces(tmp_path).drop(FORGOTTEN)


def test_the_places_beside_a_memory_are_features_and_replies() -> None:
    assert [place.name for place in every_trace()] == ["features", "replies"]
