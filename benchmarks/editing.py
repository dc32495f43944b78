"""What edits of a memory cost, at two sizes side by side: whether that grows with the memory.

    python benchmarks/editing.py [--items 100000 1000000] [--dimension 64] [--repeat 5] [--counts 1 100 10000]

Clustered unit vectors, a ScaNN index. Prints for each edit the median time at each size and the ratio of the two;
that of the first edit and the first erasure in a fresh process, which opens the memory and reads what is read once; the
search after an edit, which finds what the edit left; and what the plain ways cost: building the index anew, and Lance's
own `delete` and `merge_insert` by id on a copy of the table. Erasing comes last, each time from a copy of what the
edits left, with all its versions.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
from clustered import draw

from retrieval import VisualMemory
from retrieval.embedders.base import foreign_vectors
from retrieval.indexes.base import ArrayBlocks
from retrieval.indexes.exact import ExactIndex

AT_A_TIME = 100_000  # items added in a call
FIRST_EDIT = """
import sys, time
from retrieval import VisualMemory
path, deed, id_ = sys.argv[1:]
started = time.perf_counter()
memory = VisualMemory.open(path)
memory.forget(ids=[id_]) if deed == "forget" else memory.erase(ids=[id_], traces=[], prove=False)
print(time.perf_counter() - started)
"""


def timed(deed, *arguments, **options):
    """Return how long a call takes."""
    started = time.perf_counter()
    deed(*arguments, **options)
    return time.perf_counter() - started


class Edits:
    """Edits of one memory, of items that were not edited before."""

    def __init__(self, path, vectors):
        self.vectors = vectors
        self.memory = VisualMemory.create(path, embedder=foreign_vectors("made", vectors.shape[1]), index="scann")
        for start in range(0, len(vectors), AT_A_TIME):
            some = range(start, min(start + AT_A_TIME, len(vectors)))
            labels = [f"class {number % 1000}" for number in some]
            self.memory.add_vectors([f"item {number}" for number in some], labels, vectors[some.start : some.stop])
        self._left = np.random.default_rng(0).permutation(len(vectors)).tolist()
        self._added = 0

    def some(self, count):
        """Return ids of items that are there."""
        ids = [f"item {number}" for number in self._left[-count:]]
        del self._left[-count:]
        return ids

    def forget(self, count):
        """Forget some items."""
        return timed(self.memory.forget, ids=self.some(count))

    def relabel(self, count):
        """Give some items another label."""
        return timed(self.memory.relabel, "another", ids=self.some(count))

    def add(self, count):
        """Add items."""
        first, self._added = self._added, self._added + count
        ids = [f"new {number}" for number in range(first, self._added)]
        return timed(self.memory.add_vectors, ids, ["new"] * count, self.vectors[:count])

    def replace(self, count):
        """Put other vectors under the ids of some items."""
        ids = self.some(count)
        return timed(self.memory.add_vectors, ids, ["put"] * count, self.vectors[:count], on_duplicate="replace")

    def erase(self, count, prove):
        """Erase some items of a copy, and all versions that held them; search every file for what is left, or not."""
        copy = self.memory.path.with_name("copy")
        shutil.copytree(self.memory.path, copy)
        os.sync()  # else the erasure would wait for all of the copy to reach the disk
        memory = VisualMemory.open(copy)
        memory.erase(ids=self.some(1), traces=[], prove=False)  # what is read once
        seconds = timed(memory.erase, ids=self.some(count), traces=[], prove=prove, progress=False)
        shutil.rmtree(copy)
        return seconds

    def prune(self):
        """Write down a reliability for each item."""
        return timed(self.memory.set_reliability, np.linspace(0.5, 1, len(self.memory)))

    def search(self):
        """Ask one query."""
        return timed(self.memory.search_vectors, self.vectors[:1], k=50)

    def first(self, deed):
        """Forget or erase in a fresh process."""
        command = [sys.executable, "-c", FIRST_EDIT, str(self.memory.path), deed, *self.some(1)]
        return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def plain_ways(edits, count):
    """Return how long Lance's own ways take on a copy of the table, by id."""
    uri = str(edits.memory.path / "copy.lance")
    shutil.copytree(edits.memory.path / "items.lance", uri)
    dataset = lance.dataset(uri)
    ids = edits.some(2 * count)
    named = ", ".join(f"'{id_}'" for id_ in ids[:count])
    deleted = timed(dataset.delete, f"id in ({named})")
    rows = pa.table({"id": ids[count:], "label": ["another"] * count})
    merge = lance.dataset(uri).merge_insert("id").when_matched_update_all()
    merged = timed(merge.execute, rows)
    shutil.rmtree(uri)
    return deleted, merged


def measure(vectors, counts, repeat):
    """Return seconds by what was done."""
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        edits = Edits(Path(folder) / "memory", vectors)
        seconds["build the index: scann"] = timed(edits.memory.build_index)
        seconds["build the index: exact"] = timed(ExactIndex.build, ArrayBlocks(edits.memory.snapshot().vectors()))
        edits.forget(1), edits.add(1), edits.search()  # what is read once
        for name in ("forget", "relabel", "add", "replace"):
            for count in counts:
                taken, after = [], []
                for _ in range(max(1, min(repeat, len(vectors) // (5 * count)))):  # so that there are items left
                    taken.append(getattr(edits, name)(count))
                    after.append(edits.search())
                seconds[f"{name} {count:,}"] = statistics.median(taken)
                seconds[f"  search after {name} {count:,}"] = statistics.median(after)
        seconds["prune"] = edits.prune()
        seconds["first forget of a process"] = statistics.median(edits.first("forget") for _ in range(repeat))
        edits.memory.refresh()
        for count in counts:
            deleted, merged = plain_ways(edits, count)
            seconds[f"Lance's delete by id {count:,}"] = deleted
            seconds[f"Lance's merge_insert by id {count:,}"] = merged
        edits.memory.set_reliability(None)
        seconds["first erasure of a process"] = edits.first("erase")
        for count in counts:
            seconds[f"erase {count:,}, to be proven later"] = edits.erase(count, prove=False)
            seconds[f"erase {count:,}"] = edits.erase(count, prove=True)
    return seconds


def main():
    """Measure at each size, and print the times and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs=2, default=[100_000, 1_000_000])
    parser.add_argument("--dimension", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 100, 10_000])
    options = parser.parse_args()
    small, large = (
        measure(draw(items, options.dimension, queries=1)[0], options.counts, options.repeat) for items in options.items
    )
    print(f"{'milliseconds':40s} {options.items[0]:>12,} {options.items[1]:>12,} {'ratio':>7s}")
    for name in small:
        print(f"{name:40s} {1000 * small[name]:12.1f} {1000 * large[name]:12.1f} {large[name] / small[name]:7.2f}")


if __name__ == "__main__":
    main()
