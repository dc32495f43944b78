"""Lines of JSON with checksums."""

import json
from pathlib import Path

import pytest

from retrieval.support.parsing import JsonLines, read_lines, say_lines, sealed, unsealed

RECORD = {"key": "k1", "usage": {"prompt_tokens": 12, "text": 'a "quoted" café'}}


def test_a_record_comes_back_without_its_sum() -> None:
    assert unsealed(sealed(RECORD)) == RECORD
    assert json.loads(sealed(RECORD))["key"] == "k1"  # still a line of JSON to everybody else


def test_every_flipped_bit_of_a_line_is_noticed() -> None:
    line = sealed(RECORD).rstrip()
    for place in range(len(line)):
        for bit in range(8):
            changed = bytearray(line)
            changed[place] ^= 1 << bit
            assert unsealed(bytes(changed), required=True) is None, (place, bit)


def test_after_a_line_with_a_sum_one_without_is_damaged() -> None:
    old, new = json.dumps(RECORD).encode() + b"\n", sealed(RECORD)
    assert [record is None for record in read_lines([old, new, old, new])] == [False, False, True, False]


@pytest.mark.parametrize(
    "line", [b"", b"\n", b"[1]", b"words", b"[" * 100_000, b"\xff", b'{"a": 1, "crc32": "00000000"}']
)
def test_what_is_no_record_is_none(line: bytes) -> None:
    assert unsealed(line) is None


def test_a_file_says_which_lines_are_damaged_and_goes_on(tmp_path: Path) -> None:
    file = JsonLines(tmp_path / "deep" / "l.jsonl")
    file.append({"n": 1}, {"n": 2})
    file.append({"n": 3})
    path = tmp_path / "deep" / "l.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"n": 2', b'"n": 7') + b'{"n": 4, "crc')
    again = JsonLines(path)
    assert ([record["n"] for record in again.records], again.damaged) == ([1, 3], [2])
    again.append({"n": 5})
    assert [record["n"] for record in JsonLines(path).records] == [1, 3, 5]
    assert say_lines(Path("l.jsonl"), [2]) == "l.jsonl is damaged in line 2"
    assert say_lines(Path("l.jsonl"), [2, 4, 9]) == "l.jsonl is damaged in lines 2, 4 and 9"


def test_a_file_of_an_earlier_version_whose_last_line_has_no_end_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "spent.jsonl"
    path.write_text('\n{"calls": 1}\n{"calls": 2}')
    JsonLines(path).append({"calls": 3})
    found = JsonLines(path)
    assert ([record["calls"] for record in found.records], found.damaged) == ([1, 2, 3], [])
