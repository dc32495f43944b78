"""The README's Python runs as it stands there, from top to bottom."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import draw, save_dinov2

README = Path(__file__).parents[1] / "README.md"
SETTING = """
import numpy as np
ids, labels = [f"item {n}" for n in range(60)], ["a", "b", "c"] * 20
vectors, queries = np.random.default_rng(0).normal(size=(60, 512)), np.random.default_rng(1).normal(size=(4, 512))
from retrieval.building import build_memory
build_memory("pets/", "photos/", embedder="dinov2-vits14")
"""
VERDICT = """
assert prediction.source == "rerank" and prediction.label == prediction.votes.labels[0]
assert model.prompts and len(memory) == 8
assert summary.metrics["held-out"].count == 6
"""


def test_every_python_example_runs(tmp_path: Path) -> None:
    # A small model with random weights in the place where the hub's cache keeps DINOv2.
    repository = tmp_path / "hub" / "models--facebook--dinov2-small"
    save_dinov2(repository / "snapshots" / "0", seed=1)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0")
    for folder in (tmp_path / "photos", tmp_path / "test-photos"):
        for label, red in (("cat", 200), ("dog", 20)):
            (folder / label).mkdir(parents=True)
            for number in range(3):
                draw((red, 60, 60), number).save(folder / label / f"{number}.jpg")
    for name in ("query.jpg", "a.jpg", "b.jpg"):
        draw((100, 60, 60), 4).save(tmp_path / name)
    examples = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(examples) == 7
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    spoilt = 'open("b.jpg", "wb").write(b"no picture")'  # one bad file ends no batch
    program = "\n".join(
        [SETTING, *(f"{spoilt}\n{one}" if "classify_batch" in one else one for one in examples), VERDICT]
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert re.search(r"(cat|dog) \w+: .*\nNone unreadable: b.jpg", ran.stdout), ran.stdout
