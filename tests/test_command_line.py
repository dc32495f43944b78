"""The command line as a user meets it: whole processes, their output, their exit codes."""

import functools
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from eval.cli.vmem import app
from tests import commands
from tests.conftest import draw, save_dinov2

Vmem = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def vmem(tmp_path_factory: pytest.TempPathFactory) -> Vmem:
    """Return a runner of vmem in a folder of its own, offline, without a key."""
    folder = tmp_path_factory.mktemp("work")
    alone = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(folder / "hub"), "COLUMNS": "120"}
    alone |= {"GEMINI_API_KEY": "", "GOOGLE_API_KEY": ""}
    return lambda *arguments, **extra: commands.vmem(*arguments, cwd=folder, variables=alone | extra)


def test_a_memory_is_built_searched_and_measured_from_the_command_line(
    vmem: Vmem, pictures: Path, checkpoint: Path, tmp_path: Path
) -> None:
    memory, run = tmp_path / "memory", tmp_path / "run"
    built = vmem("memory", "build", memory, pictures, "--embedder", checkpoint, "--index", "exact")
    assert built.returncode == 0 and "added 18; 18 pictures in all" in built.stdout

    classified = vmem(
        "classify", "--memory", memory, pictures / "red" / "0.png", "--k", 5, "--voting", "plurality", "--json"
    )
    answer = json.loads(classified.stdout)
    assert (answer["label"], answer["source"], answer["image"]) == ("red", "vote", str(pictures / "red" / "0.png"))
    assert answer["reason"].startswith("no_model: ") and answer["votes"][0][0] == "red"
    assert sum(weight for _, weight in answer["votes"]) == 5
    assert len(answer["neighbors"]) == 5 and set(answer["neighbors"][0]) == {"id", "label", "distance"}

    measured = vmem("eval", "run", "--memory", memory, "--dataset", f"same={pictures}", "--out", run, "--k", 5)
    assert measured.returncode == 0 and "Top-1 accuracy" in measured.stdout
    figures = json.loads((run / "metrics.json").read_text())["datasets"]["same"]
    assert figures["count"] == 18 and set(figures["top1"]) == {"rank", "plurality", "distance", "softmax"}
    assert (run / "report.html").exists()


def test_added_pictures_are_counted(vmem: Vmem, built: Path, tmp_path: Path) -> None:
    memory = shutil.copytree(built, tmp_path / "memory")
    (tmp_path / "more" / "pink").mkdir(parents=True)
    draw((250, 150, 150), 1).save(tmp_path / "more" / "pink" / "1.png")
    for expected in ("added 1; 19 pictures", "added 0, passed over 1 whose ids were there already; 19 pictures"):
        assert expected in vmem("memory", "add", memory, tmp_path / "more").stdout
    assert "added 1; 20 pictures" in vmem("memory", "add", memory, tmp_path / "more", "--id-prefix", "march/").stdout
    stats = json.loads(vmem("memory", "stats", memory, "--json").stdout)
    assert stats["labels"] == {"blue": 6, "green": 6, "red": 6, "pink": 2}


def test_a_search_prints_neighbours_as_table_and_as_json(vmem: Vmem, built: Path, pictures: Path) -> None:
    query = pictures / "green" / "1.png"
    assert "green/1.png" in vmem("memory", "search", built, query, "--k", 2).stdout
    found = json.loads(vmem("memory", "search", built, query, "--k", 2, "--json").stdout)
    assert [n["label"] for n in found] == ["green", "green"]


def test_a_bad_picture_among_good_ones_costs_one_line(vmem: Vmem, built: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("words")
    mixed = vmem("classify", "--memory", built, tmp_path / "bad.png", pictures / "red" / "1.png", "--k", 3, "--json")
    assert mixed.returncode == 2
    bad, good = map(json.loads, mixed.stdout.splitlines())
    assert (bad["label"], bad["source"], good["label"]) == (None, "none", "red")
    assert bad["reason"].startswith("unreadable: ") and "bad.png is not a picture" in bad["reason"]
    assert "bad.png is not a picture: JPEG, PNG, WebP, BMP, GIF or TIFF expected\n" in mixed.stderr


def test_k_above_the_size_of_the_memory_is_said(vmem: Vmem, built: Path, pictures: Path) -> None:
    answered = vmem("classify", "--memory", built, pictures / "red" / "1.png", "--k", 99)
    assert answered.returncode == 0
    assert "Note: k=99 is more than the 18 items in the memory: all 18 are used" in answered.stderr


def test_a_prompt_is_shown_and_previewed(vmem: Vmem, built: Path, pictures: Path, tmp_path: Path) -> None:
    assert "{% for neighbor in neighbors %}" in vmem("prompt", "show").stdout
    query, page = pictures / "red" / "1.png", tmp_path / "prompt.html"
    previewed = vmem("prompt", "preview", query, "--memory", built, "--k", 3)
    assert "[picture 4]" in previewed.stdout and 'A = "red"' in previewed.stdout
    assert vmem("prompt", "preview", query, "--memory", built, "--k", 3, "--html", page).returncode == 0
    assert page.read_text().count("<img ") == 4


def test_the_doctor_names_what_is_there_and_the_cure_for_what_is_not(vmem: Vmem, built: Path) -> None:
    found = vmem("doctor", "--memory", built, GEMINI_API_KEY="a-secret-key")
    assert found.returncode == 0, found.stdout
    for expected in ("torch", "weights efficientnet-lite0", "here, ready offline", "up to date", "18 pictures"):
        assert expected in found.stdout
    assert "hf download facebook/dinov2-small" in found.stdout
    assert "present: yes (GEMINI_API_KEY)" in found.stdout and "a-secret-key" not in found.stdout + found.stderr
    broken = vmem("doctor", "--memory", built / "absent")
    assert broken.returncode == 1 and "present: no" in broken.stdout and "✗ memory" in broken.stdout


def test_a_demo_on_ones_own_folder_goes_from_pictures_to_a_report(
    vmem: Vmem, pictures: Path, checkpoint: Path, tmp_path: Path
) -> None:
    command = ("demo", "--images", pictures, "--out", tmp_path / "demo", "--embedder", checkpoint, "--queries", 6)
    for _ in range(2):  # the second time it finds everything done
        made = vmem(*command)
        assert made.returncode == 0, made.stderr
        assert all(name in made.stdout for name in ("original", "rotated", "inverted", "noisy", "blurred", "edges"))
    assert (tmp_path / "demo" / "run" / "report.html").stat().st_size > 10_000
    figures = json.loads((tmp_path / "demo" / "run" / "metrics.json").read_text())["datasets"]
    assert len(figures) == 6 and figures["original"]["count"] == 6
    other = vmem(*command[:-1], 3)
    assert other.returncode == 2 and "holds other files, or a demo of other pictures or settings" in other.stderr


def test_features_are_written_and_a_memory_built_from_them(
    vmem: Vmem, pictures: Path, checkpoint: Path, tmp_path: Path
) -> None:
    out, memory = tmp_path / "features.parquet", tmp_path / "memory"
    (tmp_path / "more" / "pink").mkdir(parents=True)
    draw((250, 150, 150), 1).save(tmp_path / "more" / "pink" / "1.png")
    (tmp_path / "more" / "pink" / "2.png").write_text("words")
    embedded = vmem("embed", tmp_path / "more", "--out", out, "--embedder", checkpoint, "--precision", "float32")
    assert "1 features of 32 dimensions" in embedded.stdout and "1 files could not be used" in embedded.stdout
    assert "float32 by openvino on cpu (as asked for)" in embedded.stderr
    assert "pink/2.png" in (tmp_path / "features.parquet.unreadable.tsv").read_text()
    assert "18 features" in vmem("embed", pictures, "--out", out, "--embedder", checkpoint).stdout
    assert not (tmp_path / "features.parquet.unreadable.tsv").exists()
    assert "added 18; 18 pictures" in vmem("memory", "build", memory, out).stdout
    answer = json.loads(vmem("classify", "--memory", memory, pictures / "red" / "0.png", "--k", 5, "--json").stdout)
    assert answer["label"] == "red"


def test_what_is_kept_is_shown_and_cleared(vmem: Vmem, pictures: Path, checkpoint: Path, tmp_path: Path) -> None:
    own = {"VMEM_CACHE": str(tmp_path / "cache")}
    vmem("embed", pictures, "--out", tmp_path / "f.parquet", "--embedder", checkpoint, **own)
    shown = vmem("cache", "stats", **own).stdout
    assert "features" in shown and "small-dinov2 (32-d" in shown and " 18 " in shown
    assert "Freed" in vmem("cache", "clear", "features", **own).stdout
    assert " 18 " not in (left := vmem("cache", "stats", **own).stdout) and "model" in left
    vmem("cache", "clear", **own)
    assert ": 0.0 MB" in vmem("cache", "stats", **own).stdout


def test_the_doctor_times_a_first_answer(vmem: Vmem, built: Path) -> None:
    timed = vmem("doctor", "--memory", built, "--time")
    assert timed.returncode == 0 and "First answer after" in timed.stdout
    assert all(step in timed.stdout for step in ("open the memory", "load the embedder", "search, the first time"))


@pytest.mark.parametrize(
    "command",
    [(), ("memory",), ("prompt",), ("eval",), ("cache",), ("embed",), ("classify",), ("demo",), ("doctor",)],
)
def test_every_command_has_help(vmem: Vmem, command: tuple[str, ...]) -> None:
    shown = vmem(*command, "--help")
    assert shown.returncode == 0 and "Usage:" in shown.stdout


def test_help_says_of_each_command_what_the_command_says_of_itself() -> None:
    group: Any = get_command(app)
    listed = typer.Context(group)
    for name in ("classify", "doctor", "demo", "embed", "serve"):
        known = group.get_command(listed, name)
        _, loaded, _ = group.resolve_command(listed, [name])
        assert loaded.help.partition("\n\n")[0] == known.help


def test_help_is_there_at_once() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "eval.cli.vmem", "--help"], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.6  # 0.16 s on a quiet machine


def test_the_version_is_told(vmem: Vmem) -> None:
    told = vmem("--version")
    assert told.returncode == 0 and re.fullmatch(r"vmem \d+\.\d+\.\d+\n", told.stdout)


@pytest.mark.parametrize("columns", [80, 120])
def test_help_names_flags_without_a_value(vmem: Vmem, columns: int) -> None:
    shown = vmem("memory", "forget", "--help", COLUMNS=str(columns)).stdout
    assert "--erase" in shown and "<bool>" not in shown and "--id" in shown and "<str>" in shown


def test_paragraphs_of_help_fill_their_lines(vmem: Vmem) -> None:
    shown = vmem("memory", "prune", "--help", COLUMNS="80").stdout
    lines = shown[shown.index("Every item is") : shown.index("Example:")].strip().splitlines()
    assert len(lines) > 3 and all(len(line.rstrip()) > 60 for line in lines[:-1])


def test_a_demo_of_pictures_that_changed_is_not_gone_on_with(
    vmem: Vmem, pictures: Path, checkpoint: Path, tmp_path: Path
) -> None:
    mine = shutil.copytree(pictures, tmp_path / "mine")
    command = ("demo", "--images", mine, "--out", tmp_path / "demo", "--embedder", checkpoint, "--queries", 6)
    assert vmem(*command).returncode == 0
    draw((9, 9, 9), 1).save(mine / "red" / "one-more.png")
    before = (tmp_path / "demo" / "run" / "metrics.json").read_bytes()
    changed = vmem(*command)
    assert changed.returncode == 2 and "a demo of other pictures or settings" in changed.stderr
    assert (tmp_path / "demo" / "run" / "metrics.json").read_bytes() == before


BAD_INPUT = {
    "memory inside the pictures": ("memory build {pictures}/m {pictures}", "lies inside"),
    "run inside the pictures": ("eval run --memory {built} --dataset a={pictures} --out {pictures}/r", "lies inside"),
    "no such folder": ("memory build m {tmp}/absent", "is not there"),
    "empty folder": ("memory build m {tmp}/empty", "holds nothing: <label>/<image> expected"),
    "folder of text files": ("memory build m {tmp}/texts", "holds no usable picture among 1 files"),
    "unknown embedder": ("memory build m {pictures} --embedder resnet", "no embedder 'resnet': one of dinov2-vits14"),
    "missing weights": ("memory build m {pictures} --embedder dinov2-vitb14", "run `hf download facebook/dinov2-base`"),
    "unknown index": ("memory build m {pictures} --index tree", "no index 'tree': choose one of auto, exact, scann"),
    "unknown backend": (
        "classify --memory {built} {query} --backend onnx",
        "no backend 'onnx': choose one of auto, torch",
    ),
    "unknown precision": ("memory build m {pictures} --precision double", "no precision 'double': choose one of auto"),
    "int8 by torch": (
        "memory build m {pictures} --backend torch --precision int8",
        "int8 runs on cpu by openvino alone",
    ),
    "timing nothing": ("doctor --time", "--time needs a memory to ask: add --memory MEMORY"),
    "unknown kind to clear": ("cache clear everything", "nothing kept is called 'everything'"),
    "file of no features": ("memory build m {tmp}/file", "cannot be read as a Parquet file of features"),
    "features inside the pictures": ("embed {pictures} --out {pictures}/f.parquet", "lies inside"),
    "features that cannot be written": (
        "embed {pictures} --out /proc/f.parquet --embedder {model}",
        "/proc/f.parquet cannot be written",
    ),
    "features onto a pipe": (
        "embed {pictures} --out {tmp}/pipe --embedder {model}",
        "pipe cannot be written: it is neither a file nor a folder",
    ),
    "no features, and an option for pictures": (
        "memory build m {tmp}/file --embedder {model}",
        "cannot be read as a Parquet file of features",
    ),
    "a file where a folder goes": (
        "eval run --memory {built} --dataset a={pictures} --out {tmp}/file",
        "cannot be written: a file is in the way, where a folder is expected",
    ),
    "read-only target": ("memory build /proc/m {pictures} --embedder {model}", "/proc/m cannot be written"),
    "target is a file": ("memory build {tmp}/file/m {pictures} --embedder {model}", "is not a folder"),
    "another embedder to build with": ("memory build {built} {pictures} --embedder {other}", "was built by"),
    "no memory": ("classify --memory {tmp}/empty {query}", "is no memory (it holds no memory): make one with"),
    "no such memory": ("memory stats {tmp}/absent", "is no memory (there is nothing)"),
    "another embedder to ask with": ("classify --memory {built} {query} --embedder {other}", "not by other"),
    "k beyond every model": ("prompt cost rerank_v1 --k 1000000000", "at most 100,000 of each expected"),
    "unknown resolution": (
        "prompt cost rerank_v1 --media-resolution x",
        "media_resolution='x': one of low, medium, high expected",
    ),
    "no finite offset": ("memory prune {built} --dry-run --offset inf", "both must be finite and above 0"),
    "k = 0": ("classify --memory {built} {query} --k 0", "k=0: a whole number of neighbours, 1 or more, expected"),
    "query is no picture": ("classify --memory {built} {tmp}/file", "file is not a picture"),
    "no such query": ("memory search {built} {tmp}/absent.png", "no such file"),
    "unknown voting": (
        "classify --memory {built} {query} --voting loud",
        "no voting method 'loud': choose one of rank",
    ),
    "unknown prompt": ("prompt show v9", "no prompt 'v9': one of describe_then_decide_v1"),
    "data set without a name": ("eval run --memory {built} --dataset {pictures} --out r", "NAME=PATH expected"),
    "data set twice": ("eval run --memory {built} --dataset a=x --dataset a=y --out r", "a is given twice"),
    "no such data set": ("eval run --memory {built} --dataset a={tmp}/absent --out r", "is not there"),
    "run folder not to be written": (
        "eval run --memory {built} --dataset a={pictures} --out /proc/r",
        "cannot be written",
    ),
    "no run to look into": ("serve {built} --run {pictures} --port 0", "holds no run: give the folder"),
    "a folder for a receipt": ("memory verify-forgotten {tmp}/empty", "empty: Is a directory"),
    "k = 0 in a run": ("eval run --memory {built} --dataset a={pictures} --out r --k 0", "k=0: a whole number"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_gets_one_sentence_and_exit_code_2(
    vmem: Vmem, case: str, built: Path, pictures: Path, checkpoint: Path, tmp_path: Path
) -> None:
    command, expected = BAD_INPUT[case]
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts" / "a").mkdir(parents=True)
    (tmp_path / "texts" / "a" / "notes.txt").write_text("words")
    (tmp_path / "file").write_text("words")
    os.mkfifo(tmp_path / "pipe")
    other = save_dinov2(tmp_path / "other", seed=9) if "{other}" in command else ""
    filled = command.format(
        tmp=tmp_path, built=built, pictures=pictures, model=checkpoint, other=other, query=pictures / "red" / "1.png"
    )
    refused = vmem(*filled.split())
    assert refused.returncode == 2 and refused.stdout == ""
    *steps, line = refused.stderr.strip().splitlines()
    assert line.startswith("Error: ") and expected in line
    assert all(re.match("Converting |Measuring |.* by openvino on cpu ", step) for step in steps)


FAULTY = """
import sys, eval.cli.vmem
from agent.keys import Secret

@eval.cli.vmem.app.command()
def fail() -> None:
    raise ZeroDivisionError("no\\nshare of " + Secret("a-secret-key-0123456789").reveal())

sys.argv = ["vmem", "fail"]
eval.cli.vmem.main()
"""


@pytest.mark.parametrize("debug", ["", "1"])
def test_a_fault_of_the_program_is_one_sentence_without_a_key(debug: str) -> None:
    failed = subprocess.run(
        [sys.executable, "-c", FAULTY], env=os.environ | {"VMEM_DEBUG": debug}, capture_output=True, text=True
    )
    *before, line = failed.stderr.strip().splitlines()
    assert (failed.returncode, failed.stdout) == (70, "")
    assert line.startswith("Error: a fault in vmem, not in your input: ZeroDivisionError: no�share of [key]. Run")
    assert "a-secret-key" not in failed.stderr and bool(before) == bool(debug)


def test_ctrl_c_ends_with_130_and_no_traceback(built: Path) -> None:
    command = [sys.executable, "-m", "eval.cli.vmem", "serve", str(built), "--port", "0"]
    # A shell's background jobs ignore the signal, and so would their children.
    reset = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=reset
    ) as serving:
        assert serving.stdout and "Serving" in serving.stdout.readline()
        serving.send_signal(signal.SIGINT)
        _, told = serving.communicate(timeout=60)
    assert serving.returncode == 130 and "Traceback" not in told
