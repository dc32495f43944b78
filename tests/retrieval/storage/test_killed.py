"""Embedding that is killed again and again: nothing committed is lost, nothing finished is computed twice."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from retrieval import VisualMemory
from retrieval.embedders import load_embedder
from retrieval.embedding import FeatureCache, content_digest
from retrieval.errors import NotAMemory
from retrieval.images import decode

KILLS = int(os.environ.get("VMEM_TEST_KILLS", "6"))
PICTURES = 200 * KILLS  # so that every kill finds work under way
START_SECONDS = 60.0

# Adds a folder and writes down each picture that its model has seen.
PROGRAM = """
import hashlib, os, sys
from retrieval import VisualMemory
from retrieval.embedders import load_embedder

class Logged:
    def __init__(self, embedder, log):
        self.identity, self.execution, self.batch_size = embedder.identity, embedder.execution, embedder.batch_size
        self.prepare, self._embedder, self._log = embedder.prepare, embedder, os.open(log, os.O_APPEND | os.O_WRONLY)

    def embed(self, pixels):
        lines = "".join(hashlib.sha256(some.tobytes()).hexdigest() + "\\n" for some in pixels)
        os.write(self._log, lines.encode())
        return self._embedder.embed(pixels)

memory, folder, model, log = sys.argv[1:]
embedder = Logged(load_embedder(model), log)
opened = (VisualMemory.open if os.path.isdir(memory) else VisualMemory.create)(memory, embedder=embedder)
opened.add_folder(folder)
"""


def test_a_build_killed_at_random_points_loses_and_repeats_nothing(tmp_path: Path, checkpoint: Path) -> None:
    folder, log, path = tmp_path / "folder", tmp_path / "log", tmp_path / "memory"
    (folder / "noise").mkdir(parents=True)
    draw_from = np.random.default_rng()
    for number in range(PICTURES):
        pixels = draw_from.integers(0, 256, (24, 24, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "noise" / f"{number:04d}.png")
    log.touch()
    embedder = load_embedder(str(checkpoint))
    files = sorted(folder.glob("noise/*.png"))
    seen_as = {hashlib.sha256(embedder.prepare(decode(file)).tobytes()).hexdigest(): file for file in files}
    assert len(seen_as) == PICTURES
    features = FeatureCache(embedder.identity, embedder.execution)
    digests = {file: str(content_digest(file)) for file in files}
    command = [sys.executable, "-c", PROGRAM, *map(str, (path, folder, checkpoint, log))]
    committed: set[str] = set()
    for kill in range(KILLS + 1):
        finished = {file for file, digest in digests.items() if features.get(digest) is not None}
        read = log.stat().st_size
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        if kill < KILLS:
            deadline = time.monotonic() + START_SECONDS
            while process.poll() is None and log.stat().st_size == read and time.monotonic() < deadline:
                time.sleep(0.005)  # until it has begun to embed
            time.sleep(random.uniform(0, 0.4))
            process.send_signal(signal.SIGKILL)
        _, errors = process.communicate()
        assert kill < KILLS or process.returncode == 0, errors.decode()
        now = _ids(path)
        assert committed <= now
        committed = now
        again = {seen_as[line] for line in log.read_text()[read:].split()} & finished
        assert not again
    assert len(committed) == PICTURES
    # What was on its way to the cache when the process died, two batches at most, is all that was done again.
    assert len(log.read_text().split()) <= PICTURES + KILLS * 2 * embedder.batch_size


def _ids(path: Path) -> set[str]:
    try:
        ids = VisualMemory.open(path).snapshot().ids.tolist()
    except NotAMemory:
        return set()
    assert len(ids) == len(set(ids))
    return set(ids)
