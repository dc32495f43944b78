"""Kept things: under keys of all that made them, whole or not there, and never twice the death of a process."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from retrieval.support.cachedir import cache_key, drop_unused, is_of_this_layout, loading, make_whole, start_afresh

LOAD = """
import os, pathlib, signal, sys
from retrieval.support.cachedir import loading
with loading(pathlib.Path(sys.argv[1])):
    print("loading", flush=True)
    {then}
"""


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    folder = tmp_path / "kept"
    make_whole(folder, lambda aside: (aside / "file").touch(), is_whole=Path.is_dir)
    return folder


@contextmanager
def process_that_loads(kept: Path, then: str) -> Iterator[subprocess.Popen[str]]:
    """Give a process that is loading a kept thing, and has said so."""
    program = [sys.executable, "-c", LOAD.format(then=then), str(kept)]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "loading\n"
        yield process


def files(kept: Path) -> list[str]:
    return sorted(path.name for path in kept.parent.glob("*"))


def test_a_key_is_of_everything_that_made_a_thing_whatever_the_order() -> None:
    made_by = {"precision": "bf16", "processor": {"name": "AMD EPYC", "cores": 2}}
    assert cache_key(**made_by) == cache_key(**dict(reversed(made_by.items())))
    assert cache_key(**made_by) != cache_key(**made_by | {"precision": "f32"})
    assert is_of_this_layout(Path(cache_key())) and not is_of_this_layout(Path("9d72ce079eb8a94a4838784b25c44d0b"))


@pytest.mark.parametrize("death", ["SIGSEGV", "SIGKILL", "SIGABRT"])
def test_a_thing_that_a_process_died_of_is_dropped(kept: Path, death: str) -> None:
    with process_that_loads(kept, f"os.kill(os.getpid(), signal.{death})") as process:
        assert process.wait() == -getattr(signal, death)
    assert kept.exists() and start_afresh(kept)
    assert files(kept) == []
    assert not start_afresh(kept)


def test_a_thing_that_another_process_is_loading_stays(kept: Path) -> None:
    with process_that_loads(kept, "sys.stdin.read()") as process:
        assert not start_afresh(kept) and kept.exists()
        process.communicate("")
    assert not start_afresh(kept)
    assert files(kept) == ["kept"]


def test_a_thing_that_one_of_two_died_of_is_dropped_while_the_other_loads_on(kept: Path) -> None:
    with process_that_loads(kept, "sys.stdin.read()") as alive:
        with process_that_loads(kept, "os.abort()") as dead:
            dead.wait()
        assert start_afresh(kept) and not kept.exists()
        assert not start_afresh(kept)
        alive.communicate("")
        assert alive.returncode == 0
    assert files(kept) == []


def test_the_marks_of_another_thing_are_left_alone(kept: Path) -> None:
    for other in ("kept-otherwise", "also-kept"):
        with process_that_loads(kept.with_name(other), "os.abort()") as process:
            process.wait()
    assert not start_afresh(kept) and kept.exists()


def test_a_thing_that_raises_while_it_is_loaded_is_dropped(kept: Path) -> None:
    with pytest.raises(RuntimeError, match="damaged"), loading(kept):
        raise RuntimeError("damaged")
    assert files(kept) == []


def test_a_thing_stays_where_its_loading_is_only_interrupted(kept: Path) -> None:
    with pytest.raises(KeyboardInterrupt), loading(kept):
        raise KeyboardInterrupt
    assert files(kept) == ["kept"] and not start_afresh(kept)


def test_what_cannot_be_marked_is_loaded_all_the_same() -> None:
    with loading(Path("/proc/nowhere/kept")):
        assert not start_afresh(Path("/proc/nowhere/kept"))


def test_what_nobody_used_for_90_days_goes_and_the_rest_stays(tmp_path: Path) -> None:
    for name, days in {"used": 80, "unused": 100, "unused-int8-a": 100}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
        os.utime(tmp_path / name, (then := time.time() - days * 86400, then))
    drop_unused(tmp_path, besides="*-int8-*")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["unused-int8-a", "used"]


def test_what_is_made_whole_is_for_whom_the_umask_names(tmp_path: Path) -> None:
    program = """
import os, pathlib, sys
from retrieval.support.cachedir import make_whole
os.umask(int(sys.argv[2], 8))
def fill(aside):
    (aside / "inner").mkdir()
    (aside / "inner" / "file").touch(mode=0o400)
made = pathlib.Path(sys.argv[1]) / "made"
make_whole(made, fill, is_whole=pathlib.Path.is_dir)
print(*(oct(path.stat().st_mode & 0o777) for path in (made, made / "inner", made / "inner" / "file")))
"""
    for umask, expected in {"002": "0o775 0o775 0o664", "077": "0o700 0o700 0o600"}.items():
        (tmp_path / umask).mkdir()
        ran = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / umask), umask], capture_output=True, text=True, check=True
        )
        assert ran.stdout.strip() == expected


BUILD_AND_ERASE = """
import os, sys
import numpy as np
from agent.calls.cached import ReplyStore
from retrieval.building import build_memory
os.umask(0o002)
memory, _ = build_memory(sys.argv[1], sys.argv[2], embedder=sys.argv[3], index="scann")
memory.search(np.zeros((8, 8, 3), np.uint8), k=1)
memory.tag("first")
memory.erase(ids=["red/0.png"])
ReplyStore()
"""


def test_two_users_of_one_group_share_whatever_is_kept_and_a_memory(
    tmp_path: Path, pictures: Path, checkpoint: Path
) -> None:
    subprocess.run(
        [sys.executable, "-c", BUILD_AND_ERASE, str(tmp_path / "memory"), str(pictures), str(checkpoint)],
        env=os.environ | {"VMEM_CACHE": str(tmp_path / "cache")},
        check=True,
    )
    paths = [path for place in ("memory", "cache") for path in (tmp_path / place).rglob("*")]
    kinds = {path.relative_to(tmp_path / "cache").parts[0] for path in paths if path.is_relative_to(tmp_path / "cache")}
    assert kinds >= {"features", "models", "replies"}
    shared = {path: 0o770 if path.is_dir() else 0o660 for path in paths}
    assert [path for path, bits in shared.items() if path.stat().st_mode & bits != bits] == []
