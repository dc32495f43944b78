"""Several processes that make one memory at the same time."""

import subprocess
import sys
from pathlib import Path

import pytest

from retrieval import VisualMemory
from retrieval.parquet import FeatureFile
from tests.conftest import draw

WORKERS = 2


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 60 pictures and two files that are none."""
    folder = tmp_path_factory.mktemp("many")
    for label, colour in (("red", (200, 30, 30)), ("blue", (40, 60, 200))):
        (folder / label).mkdir()
        for number in range(30):
            draw(colour, number % 20, size=(64 + number, 48)).save(folder / label / f"{number:02}.png")
        (folder / label / "broken.png").write_text("no picture")
    return folder


def at_once(*command: object) -> list[str]:
    """Run a command as each of the workers, all at the same time; return what each of them printed."""
    vmem = [sys.executable, "-m", "eval.cli.vmem", *map(str, command)]
    started = [
        subprocess.Popen(
            [*vmem, "--shard", f"{number}/{WORKERS}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for number in range(1, WORKERS + 1)
    ]
    ended = [worker.communicate(timeout=120) for worker in started]
    assert [worker.returncode for worker in started] == [0] * WORKERS, ended
    return [stdout for stdout, _ in ended]


def test_workers_that_build_one_memory_at_once_lose_nothing(many: Path, checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "memory"
    at_once("memory", "build", path, many, "--embedder", checkpoint)
    memory = VisualMemory.open(path)
    assert sorted(memory.snapshot().ids.tolist()) == sorted(
        f"{label}/{number:02}.png" for label in ("red", "blue") for number in range(30)
    )
    listed = "".join(listing.read_text() for listing in path.glob("unreadable*.tsv"))
    assert "red/broken.png" in listed and "blue/broken.png" in listed
    assert memory.search(many / "red" / "07.png", k=1)[0][0].id == "red/07.png"
    at_once("memory", "add", path, many)
    assert len(VisualMemory.open(path)) == 60


def test_workers_write_features_side_by_side(many: Path, checkpoint: Path, tmp_path: Path) -> None:
    at_once("embed", many, "--out", tmp_path / "features.parquet", "--embedder", checkpoint)
    parts = [FeatureFile.open(part) for part in sorted(tmp_path.glob("features-*-of-2.parquet"))]
    assert len(parts) == WORKERS and sum(map(len, parts)) == 60
