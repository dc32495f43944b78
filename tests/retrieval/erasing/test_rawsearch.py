"""Bytes are found wherever they are, by digests that do not hold them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from retrieval.erasing.secrets import LONGEST_WINDOW, Secrets
from retrieval.support.cachedir import open_store

SALT = bytes(32)
DRAW = np.random.default_rng(0)
SECRETS = [DRAW.normal(size=384).astype(np.float16).tobytes() for _ in range(20)]


def found(secrets: Secrets, content: bytes) -> set[str]:
    return secrets.in_bytes([np.frombuffer(content, np.uint8)])


@pytest.mark.parametrize("offset", [0, 1, 2, 3, 5, 8, 63, 4_094])
def test_a_secret_is_found_at_any_offset(offset: int) -> None:
    secrets = Secrets.of([SECRETS[0]], SALT)
    assert found(secrets, DRAW.bytes(offset) + SECRETS[0] + DRAW.bytes(100)) == secrets.windows.keys()


def test_a_secret_that_a_page_boundary_cuts_is_found() -> None:
    secrets = Secrets.of([SECRETS[0]], SALT)
    assert found(secrets, SECRETS[0][:384] + DRAW.bytes(50) + SECRETS[0][384:])


def test_other_bytes_are_no_secrets() -> None:
    secrets = Secrets.of(SECRETS[1:], SALT)
    assert found(secrets, DRAW.bytes(1_000_000) + SECRETS[0] + bytes(10_000)) == set()


def test_every_secret_has_a_window_however_short_it_is() -> None:
    for length in (8, 9, 16, 63, 64, 65, 127):
        short = [DRAW.bytes(length) for _ in range(200)]
        secrets = Secrets.of(short, SALT)
        assert all(found(secrets, DRAW.bytes(7) + one + bytes(9)) for one in short)


def test_secrets_of_different_lengths_are_searched_for_together() -> None:
    secrets = Secrets.of([DRAW.bytes(3_000), b"twenty-byte-secrets!", SECRETS[0]], SALT)
    assert found(secrets, b"x" + b"twenty-byte-secrets!") and found(secrets, SECRETS[0])


def test_secrets_too_short_to_tell_are_not_searched_for() -> None:
    assert Secrets.of([b"1234567", b""], SALT).windows == {}
    assert found(Secrets.of([], SALT), b"anything at all") == set()


def test_files_are_searched_across_the_pieces_they_are_read_in(tmp_path: Path) -> None:
    secrets = Secrets.of(SECRETS, SALT)
    content = bytearray(DRAW.bytes(2**22 * 2 + 1000))
    for place in (2**18 - 300, 2**22 - 300, 2**23 - 10):
        content[place : place + 768] = SECRETS[0]
    (tmp_path / "found").write_bytes(content[: 2**22 + 500])
    (tmp_path / "at the seam").write_bytes(bytes(2**22 - 300) + SECRETS[1] + bytes(5))
    (tmp_path / "empty").write_bytes(b"")
    hits = secrets.in_files([*tmp_path.iterdir(), tmp_path / "gone"])
    assert {path.name for path in hits} == {"found", "at the seam"}
    assert hits[tmp_path / "at the seam"] == Secrets.of([SECRETS[1]], SALT).windows.keys() & secrets.windows.keys()


def test_what_is_written_down_finds_the_same_and_holds_no_byte_of_a_secret() -> None:
    secrets = Secrets.of(SECRETS, SALT)
    text = json.dumps(secrets.to_dict())
    again = Secrets.from_dict(json.loads(text), SALT)
    assert found(again, SECRETS[3]) == found(secrets, SECRETS[3]) != set()
    assert secrets.window == LONGEST_WINDOW and len(secrets.windows) <= 4 * len(SECRETS)
    assert not any(secret[start : start + 4].hex() in text for secret in SECRETS for start in range(0, 768, 4))


def test_another_salt_makes_other_digests() -> None:
    assert not Secrets.of(SECRETS, SALT).windows.keys() & Secrets.of(SECRETS, b"other").windows.keys()


def test_windows_that_are_given_up_are_not_found() -> None:
    secrets = Secrets.of(SECRETS, SALT)
    kept = secrets.without(Secrets.of(SECRETS, SALT).windows.keys() - found(secrets, SECRETS[0]))
    assert found(kept, b"".join(SECRETS)) == found(secrets, SECRETS[0])


@pytest.mark.parametrize("damage", [{"window": 0}, {"sparsity": 40}, {"windows": 3}])
def test_what_was_never_written_down_is_refused(damage: dict[str, int]) -> None:
    with pytest.raises((ValueError, TypeError, AttributeError), match="."):
        Secrets.from_dict(Secrets.of(SECRETS, SALT).to_dict() | damage, SALT)


def test_searching_a_database_leaves_this_process_its_locks_on_it(tmp_path: Path) -> None:
    kept = bytes(range(256))
    with open_store(tmp_path, size_limit=2**20) as store:
        store.set("a", kept)
        found = Secrets.of([kept], b"salt").in_files(sorted(tmp_path.iterdir()))
        assert set(found) & {tmp_path / "cache.db", tmp_path / "cache.db-wal"}
        script = (
            "import sys, pathlib; from retrieval.support.cachedir import open_store\n"
            "with open_store(pathlib.Path(sys.argv[1]), size_limit=2**20) as store: store.set('b', b'theirs')"
        )
        command = [sys.executable, "-c", script, str(tmp_path)]
        subprocess.run(command, cwd=Path(__file__).parents[3], check=True, timeout=60)
        store.set("c", b"ours")
        with open_store(tmp_path, size_limit=2**20) as again:
            assert (again.get("b"), again.get("c")) == (b"theirs", b"ours")
