"""What a run costs beside its work, and how a large log becomes a report.

    python benchmarks/evaluation.py --images FOLDER       # <label>/<image>, some thousand pictures

1. A run that votes only, beside embedding and searching the same pictures with nothing around it: limit 1.05. Both
   alternate; no feature is taken from the cache.
2. A log of 200,000 queries with 50 neighbours each, to figures, plots and page: limits 60 s and 2 GB, in a process of
   its own.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from eval.datasets.trees import read_folder
from eval.report.page import write_pages
from eval.runs.finished import summarise
from eval.runs.log import read_run
from eval.runs.runner import run_evaluation
from eval.types import Dataset, Sample
from retrieval import VisualMemory
from retrieval.sources import Item

TOGETHER = 256  # queries a search, as in a run


def overhead(images: Path, folder: Path, rounds: int, queries: int) -> None:
    """Print the time of a run as a multiple of embedding and searching."""
    samples = read_folder(images)
    memory = VisualMemory.create(folder / "memory", embedder="efficientnet-lite0", cache=False)
    remembered, asked = samples[::2], samples[1::2][:queries]
    memory.add(Item(sample.id, next(iter(sample.labels)), sample.picture()) for sample in remembered)
    memory.build_index()
    bare_seconds, run_seconds = [], []
    bare(memory, asked)  # warms up
    for number in range(2 * rounds):
        started = time.perf_counter()
        if number % 4 in (0, 3):  # each is first in every other round
            bare(memory, asked)
            bare_seconds.append(time.perf_counter() - started)
        else:
            run_evaluation(memory, {"q": Dataset(asked)}, folder / f"run{number}", progress=False)
            run_seconds.append(time.perf_counter() - started)
    ratios = [ran / plain for ran, plain in zip(run_seconds, bare_seconds, strict=True)]
    print(f"{len(asked):,} queries against {len(remembered):,}: bare {statistics.median(bare_seconds):.2f} s,", end=" ")
    print(f"run {statistics.median(run_seconds):.2f} s; ratio {statistics.median(ratios):.3f}", end=" ")
    print(f"({min(ratios):.3f} to {max(ratios):.3f}), limit 1.05")


def bare(memory: VisualMemory, samples: list[Sample]) -> None:
    """Embed and search, and throw the neighbours away."""
    waiting: list[np.ndarray] = []
    for batch in memory.embed_stream(samples, image_of=Sample.picture):
        waiting.append(batch.vectors)
        if sum(map(len, waiting)) >= TOGETHER:
            memory.search_vectors(np.concatenate(waiting))
            waiting = []
    if waiting:
        memory.search_vectors(np.concatenate(waiting))


def write_log(folder: Path, queries: int, k: int, *, rerank: bool) -> None:
    """Write a log as a run leaves it: 1,000 classes, file names of ImageNet's length."""
    draw = np.random.default_rng(0)
    classes = [f"n{number:08}" for number in range(1000)]
    header = {"format": 2, "memory": {"id": "m", "version": 1, "items": 1_281_167}, "embedder": "e", "index": "scann"}
    header |= {"k": k} | ({"rerank": {"model": "scripted", "prompt": "rerank_v1", "when": "always"}} if rerank else {})
    header["about"] = {"embedder": "e", "memory": "", "classes": 1000, "subsets": {}, "excluded": {}, "absent": {}}
    header["about"] |= {"datasets": {"imagenet-val": ""}, "queries": {"imagenet-val": queries}}
    folder.mkdir()
    with (folder / "log.jsonl").open("w") as log:
        log.write(json.dumps(header) + "\n")
        for query in range(queries):
            truth = classes[query % 1000]
            near = np.where(draw.random(k) < 0.6, query % 1000, draw.integers(1000, size=k))
            items = draw.integers(1300, size=k)
            labels = [classes[number] for number in near]
            line = {
                "dataset": "imagenet-val",
                "id": f"{truth}/ILSVRC2012_val_{query:08}.JPEG",
                "picture": f"{110_000 + query}:1700000000000000000",
                "truth": [truth],
                "ids": [f"{label}/{label}_{item}.JPEG" for label, item in zip(labels, items, strict=True)],
                "labels": labels,
                "distances": [float(f"{d:.9g}") for d in np.sort(draw.random(k).astype(np.float32)).tolist()],
            }
            if rerank:
                line["rerank"] = second_look(labels)
            log.write(json.dumps(line) + "\n")


def second_look(labels: list[str]) -> dict[str, object]:
    """Return what the second stage leaves in a line."""
    reply = {"text": '{"ranking": ["A"], "confidence": 0.9}', "served_by": "", "from_cache": False, "seconds": 1.0}
    spent = {"prompt_tokens": 13000, "reply_tokens": 30, "thought_tokens": 0, "cached_tokens": 0}
    said = {"reason": "reranked: scripted chose among 9 candidates", "confidence": 0.9, "source": "rerank"}
    figures = {"cost": 0.001, "full_cost": 0.001, "spent": spent, "replies": [reply], "orders": [], "evidence": []}
    return {"label": labels[0], "ranking": labels[:2]} | said | figures


def report(folder: Path) -> None:
    """Read a log and make everything of it, as `vmem eval report` does; print time and memory."""
    started = time.perf_counter()
    run = read_run(folder)
    read = time.perf_counter()
    summary = summarise(run, folder)
    measured = time.perf_counter()
    write_pages(run, summary, folder, memory=None, datasets={})
    written = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    log, page = ((folder / name).stat().st_size / 1e6 for name in ("log.jsonl", "report.html"))
    print(f"  log of {log:,.0f} MB: read {read - started:.1f} s, figures {measured - read:.1f} s,", end=" ")
    print(f"plots and page of {page:.1f} MB {written - measured:.1f} s;", end=" ")
    print(f"{written - started:.1f} s in all (limit 60), {peak:.2f} GB at most (limit 2)")


def main() -> None:
    """Print everything, or one half."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="left out: only the log")
    parser.add_argument("--rounds", type=int, default=8, help="an even number")
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--log", type=int, default=200_000, help="queries in the log")
    parser.add_argument("--report-of", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.report_of:
        report(chosen.report_of)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["VMEM_CACHE"] = str(folder / "cache")
        if chosen.images:
            overhead(chosen.images, folder, chosen.rounds, chosen.queries)
        for rerank in (False, True):
            run = folder / f"log-{rerank}"
            write_log(run, chosen.log, 50, rerank=rerank)
            print(f"{chosen.log:,} queries, {'reranked' if rerank else 'vote only'}:", flush=True)
            subprocess.run([sys.executable, __file__, "--report-of", str(run)], check=True)


if __name__ == "__main__":
    main()
