"""The Python of the README and of each page of docs/ runs as it stands there, from top to bottom."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import draw, save_dinov2

ROOT = Path(__file__).parents[1]
EXAMPLE = re.compile(r"```python\n(.*?)```", re.DOTALL)
PAGES = {
    str(page.relative_to(ROOT)): EXAMPLE.findall(page.read_text(encoding="utf-8"))
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if "reference" not in page.parts
}
# What a page's examples take as there, and what must be true when they have run.
SETTING = """
import numpy as np
from agent import classify_with_rerank
from retrieval import VisualMemory
ids, labels = [f"item {n}" for n in range(60)], ["a", "b", "c"] * 20
vectors, queries = np.random.default_rng(0).normal(size=(60, 512)), np.random.default_rng(1).normal(size=(4, 512))
"""
# Where the page before it made one.
ZOO = """
zoo = VisualMemory.create("zoo/", embedder="dinov2-vits14")
zoo.add([("id-1", "cat", "a.jpg"), ("id-2", "dog", "b.jpg")])
"""
SPOILT = 'open("b.jpg", "wb").write(b"no picture")\n'  # one bad file ends no batch
VERDICTS = {
    "README.md": 'assert prediction.source == "rerank" and len(memory) == 6',
    "docs/guide/memory.md": 'assert prediction.source == "vote" and len(memory) == 8 and len(features) == 60',
    "docs/guide/editing.md": 'assert len(memory) == 2 and explain(memory, "query.jpg", k=50)',
    "docs/guide/second-look.md": "assert prediction.label == prediction.votes.labels[0] and model.prompts",
    "docs/guide/prompts.md": 'assert load_preset("cheap").k == 20',
    "docs/guide/evaluation.md": 'assert summary.metrics["held-out"].count == 6',
}
RUNNER = """
import json, os, shutil, sys, traceback
home = os.getcwd()
for name, program in json.load(sys.stdin).items():
    shutil.copytree("start", name)
    os.chdir(name)
    try:
        exec(compile(program, name, "exec"), {"__name__": name})
        print(f"{name}: all examples ran")
    except BaseException:
        print(f"{name}: {traceback.format_exc()}")
    os.chdir(home)
"""


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return what all examples print, each page in a folder of its own, all in one process."""
    folder = tmp_path_factory.mktemp("examples")
    # A small model with random weights in the place where the hub's cache keeps DINOv2.
    repository = folder / "hub" / "models--facebook--dinov2-small"
    save_dinov2(repository / "snapshots" / "0", seed=1)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0")
    for pictures in (folder / "start" / "photos", folder / "start" / "test-photos"):
        for label, red in (("cat", 200), ("dog", 20)):
            (pictures / label).mkdir(parents=True)
            for number in range(3):
                draw((red, 60, 60), number).save(pictures / label / f"{number}.jpg")
    for name in ("query.jpg", "a.jpg", "b.jpg"):
        draw((100, 60, 60), 4).save(folder / "start" / name)
    pets = 'from retrieval import build_memory\nbuild_memory("pets/", "photos/", embedder="dinov2-vits14")\n'
    programs = {
        name: SETTING
        + pets
        + (ZOO if name == "docs/guide/editing.md" else "")
        + "\n".join(SPOILT + one if "classify_batch" in one else one for one in examples)
        + f"\n{VERDICTS.get(name, '')}"
        for name, examples in PAGES.items()
        if examples
    }
    environment = os.environ | {
        "HF_HUB_CACHE": str(folder / "hub"),
        "HF_HUB_OFFLINE": "1",
        "VMEM_PRESETS": str(folder / "presets"),
    }
    return subprocess.run(
        [sys.executable, "-c", RUNNER],
        cwd=folder,
        env=environment,
        input=json.dumps(programs),
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_a_batch_goes_on_after_a_picture_that_cannot_be_read(printed: str) -> None:
    assert re.search(r"(cat|dog) \w+: .*\nNone unreadable: b.jpg", printed), printed


@pytest.mark.parametrize("page", [page for page, examples in PAGES.items() if examples])
def test_every_python_example_of_a_page_runs(page: str, printed: str) -> None:
    assert f"{page}: all examples ran" in printed, printed
