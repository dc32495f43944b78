"""Building a memory from a folder: where it may be made, what it passes over, how it goes on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from eval.datasets.trees import read_folder
from retrieval import VisualMemory
from retrieval.building import build_memory
from retrieval.cli.memory_cli import build
from retrieval.errors import (
    FolderError,
    MemoryExists,
    NotAMemory,
    StorageError,
)
from tests.commands import runner
from tests.conftest import draw
from tests.runs import evaluate


def test_a_memory_can_be_made_in_the_folder_one_stands_in(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / ".new-left-over").mkdir()  # as a killed run leaves it
    program = f"from retrieval import VisualMemory; print(len(VisualMemory.create('.', embedder={str(checkpoint)!r})))"
    made = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert made.stdout == "0\n"
    assert {entry.name for entry in tmp_path.iterdir()} == {"items.lance", ".writer.lock"}


@pytest.mark.parametrize("name", ["x" * 300, os.fsdecode(b"caf\xe9")])
def test_a_path_that_no_memory_can_have_is_refused(tmp_path: Path, checkpoint: Path, name: str) -> None:
    with pytest.raises(NotAMemory, match="is no memory"):
        VisualMemory.open(tmp_path / name)
    with pytest.raises(StorageError, match="cannot be written"):
        VisualMemory.create(tmp_path / name, embedder=str(checkpoint))


@pytest.mark.parametrize(("option", "value"), [("index", "scann"), ("thumbnail_pixels", 99)])
def test_a_memory_that_was_begun_otherwise_is_not_gone_on_with(
    built: Path, pictures: Path, checkpoint: Path, option: str, value: object
) -> None:
    with pytest.raises(MemoryExists, match=f"was begun with {option} .*, not {value}: leave that out"):
        build_memory(built, pictures, embedder=str(checkpoint), **{option: value})  # type: ignore[arg-type]


def test_a_memory_is_never_made_over_something_else(built: Path, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("dear diary")
    for path in (built, tmp_path / "mine"):
        with pytest.raises(MemoryExists, match="not an empty folder: choose another path"):
            VisualMemory.create(path, embedder=str(checkpoint))


def test_a_path_that_cannot_be_written_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written: .*file is not a folder"):
        VisualMemory.create(tmp_path / "file" / "memory", embedder=str(checkpoint))
    with pytest.raises(StorageError, match="cannot be written"):
        VisualMemory.create("/proc/memory", embedder=str(checkpoint))


def test_building_passes_over_bad_files_and_lists_them(tmp_path: Path, pictures: Path, checkpoint: Path) -> None:
    folder = shutil.copytree(pictures, tmp_path / "folder")
    (folder / "red" / "notes.txt").write_text("not a picture")
    whole = (folder / "red" / "1.png").read_bytes()
    (folder / "blue" / "torn\n.png").write_bytes(whole[: len(whole) // 2])
    (folder / "green" / ".hidden").write_text("passed over in silence")
    memory, report = build_memory(tmp_path / "memory", folder, embedder=str(checkpoint))
    assert (report.added, len(report.unreadable)) == (18, 2)
    lines = (memory.path / "unreadable.tsv").read_text().splitlines()
    assert [json.loads(line.split("\t")[0]) for line in lines] == ["blue/torn\n.png", "red/notes.txt"]


def test_file_names_of_any_bytes_can_be_built_from_and_measured(tmp_path: Path, checkpoint: Path) -> None:
    label = os.fsdecode(os.fsencode(tmp_path) + b"/folder/caf\xe9")
    os.makedirs(label)
    for number in range(3):
        draw((200, 0, 0), number).save(Path(label, f"{number}.png"))
    Path(label, os.fsdecode(b"\xff.txt")).write_text("words")
    memory, report = build_memory(tmp_path / "memory", tmp_path / "folder", embedder=str(checkpoint))
    assert report.added == 3 and memory.stats().labels == {"caf\\xe9": 3}
    summary, _ = evaluate(memory, {"q": read_folder(tmp_path / "folder")}, tmp_path / "run", k=3)
    assert (summary.metrics["q"].count, summary.metrics["q"].unreadable) == (3, 1)


def test_building_again_adds_only_what_is_new(tmp_path: Path, pictures: Path, checkpoint: Path) -> None:
    folder = shutil.copytree(pictures, tmp_path / "folder")
    build_memory(tmp_path / "memory", folder, embedder=str(checkpoint))
    (folder / "pink").mkdir()
    draw((250, 150, 150), 1).save(folder / "pink" / "new.png")
    memory, report = build_memory(tmp_path / "memory", folder, embedder=str(checkpoint))
    assert (report.added, report.skipped, len(memory)) == (1, 18, 19)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_memory_is_built_from_a_manifest_and_goes_on_with_it(
    tmp_path: Path, pictures: Path, checkpoint: Path, ending: str
) -> None:
    rows = [{"label": label, "path": str(pictures / label / "0.png")} for label in ("red", "blue")]
    manifest = tmp_path / f"m.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), manifest)
    elif ending == "jsonl":
        manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        manifest.write_text("label,path\n" + "".join(f"{row['label']},{row['path']}\n" for row in rows))
    said = runner(build)(tmp_path / "memory", manifest, "--embedder", checkpoint)
    assert "added 2; 2 pictures in all" in said
    assert VisualMemory.open(tmp_path / "memory").stats().labels == {"blue": 1, "red": 1}
    _, report = build_memory(tmp_path / "memory", manifest, embedder=str(checkpoint))
    assert (report.added, report.skipped) == (0, 2)


def test_a_manifest_of_pictures_that_are_not_there_makes_no_memory(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "m.csv").write_text("label,path\na,1.png\nb,2.png\n")
    with pytest.raises(FolderError, match="no usable picture among 2 files; the first: no such file"):
        build_memory(tmp_path / "memory", tmp_path / "m.csv", embedder=str(checkpoint))
    assert not (tmp_path / "memory").exists()


def test_building_from_another_folder_into_a_memory_is_refused(built: Path, tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "other" / "x").mkdir(parents=True)
    draw((0, 0, 0), 1).save(tmp_path / "other" / "x" / "1.png")
    with pytest.raises(MemoryExists, match="holds a memory built from .*: use `vmem memory add"):
        build_memory(built, tmp_path / "other", embedder=str(checkpoint))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "holds nothing: <label>/<image> expected"),
        (["1.png"], "holds only files, no label folders"),
        (["a/notes.txt"], "holds no usable picture among 1 files; the first: .*notes.txt is not a picture"),
    ],
)
def test_a_folder_without_labelled_pictures_makes_no_memory(
    tmp_path: Path, files: list[str], message: str, checkpoint: Path
) -> None:
    (tmp_path / "folder" / "a").mkdir(parents=True)
    for file in files:
        (tmp_path / "folder" / file).write_text("text")
    if not files or "/" not in files[0]:
        (tmp_path / "folder" / "a").rmdir()
    with pytest.raises(FolderError, match=message):
        build_memory(tmp_path / "memory", tmp_path / "folder", embedder=str(checkpoint))
    assert not (tmp_path / "memory").exists()


def _size(path: Path) -> int:
    try:
        return len(VisualMemory.open(path))
    except NotAMemory:
        return 0


def test_a_killed_build_goes_on_where_it_stopped(tmp_path: Path, checkpoint: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "noise").mkdir(parents=True)
    draw_from = np.random.default_rng(0)
    for number in range(1100):  # more than one commit
        Image.fromarray(draw_from.integers(0, 255, (16, 16, 3), np.uint8)).save(folder / "noise" / f"{number:04d}.png")
    program = (
        "import sys; from retrieval.building import build_memory; build_memory(*sys.argv[1:3], embedder=sys.argv[3])"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "memory"), str(folder), str(checkpoint)]
    committed = 0
    for wanted in (1024, None):  # items to wait for before the kill, of the first commit; None: to the end
        process = subprocess.Popen(command, stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"})
        while wanted and process.poll() is None and _size(tmp_path / "memory") < wanted:
            time.sleep(0.02)
        if wanted:
            process.send_signal(signal.SIGKILL)
        process.communicate()
        memory = VisualMemory.open(tmp_path / "memory")
        assert len(memory) >= committed
        assert committed > 0 or 0 < len(memory) < 1100  # the first kill leaves a part
        committed = len(memory)
    ids = memory.snapshot().ids.tolist()
    assert len(ids) == len(set(ids)) == 1100
    assert memory.index_is_ready()
    assert [entry.name for entry in tmp_path.iterdir() if ".new" in entry.name] == []
