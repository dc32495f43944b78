"""Layouts of a ScaNN tree and efforts of a search, side by side: what retrieval/indexes/plans.py goes by.

    python benchmarks/tuning.py [--items 1000000] [--dimension 384] [--k 50] [--leaves 0.5 1 1.4 2 4] [--blocks 2 4] \
        [--noise 2]

Clustered unit vectors of 1,000 classes. For each number of leaves (as a multiple of the root of the items) and of
dimensions to a code word, a tree is trained and filled once. Then come searches of falling effort: queries a second in
batches, the median of one query alone, and recall@k. Shown are the fastest at each recall.
"""

import argparse
import math
import time

import numpy as np
from clustered import NOISE, draw, nearest_exactly, recall

from retrieval.indexes import scann
from retrieval.indexes.base import ArrayBlocks, unranked
from retrieval.indexes.fixed_point import FixedPointRows
from retrieval.indexes.plans import Effort, Layout

SHARES = (0.003, 0.005, 0.01, 0.02, 0.035, 0.05, 0.07, 0.1, 0.14, 0.2, 0.3)  # of the leaves
CANDIDATES = (3, 4, 6, 8, 12)  # for each neighbour
RECALLS = (0.99, 0.995, 0.999)
SAMPLE_A_LEAF = 125


def searched(searcher, items, queries, k, effort):
    """Search as `ScannIndex` does, with an effort of one's own."""
    numbers = items.ranked(queries, *scann.ask(searcher, queries, effort), None)
    numbers.sort(axis=1)
    return unranked(numbers[:, :k])[0]


def fastest(search, rounds=3):
    """Return the seconds of the fastest round."""
    seconds = math.inf
    for _ in range(rounds):
        started = time.perf_counter()
        search()
        seconds = min(seconds, time.perf_counter() - started)
    return seconds


def measure(items, queries, truth, layout):
    """Train a tree, search it with every effort, and return a row for each."""
    started = time.perf_counter()
    searcher = scann.train(items.sample(layout.sample), layout)
    trained = time.perf_counter() - started
    scann.fill(searcher, items, items=len(items))
    print(
        f"{layout.leaves} leaves, {layout.dimensions_per_word} dimensions a word: trained in {trained:.1f} s, "
        f"filled in {time.perf_counter() - started - trained:.1f} s",
        flush=True,
    )
    rows, k = [], truth.shape[1]
    for share in SHARES:
        for each in CANDIDATES:
            effort = Effort(max(1, round(share * layout.leaves)), each * k)

            def search(some, effort=effort):
                return searched(searcher, items, some, k, effort)

            found = recall(search(queries), truth)
            rate = len(queries) / fastest(lambda search=search: search(queries))
            ones = np.split(queries[:200], 200)
            alone = np.median([fastest(lambda one=one, search=search: search(one), rounds=1) for one in ones])
            rows.append((layout, effort, rate, float(alone), found))
    return rows


def main():
    """Measure every layout and print the fastest at each recall."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--k", type=int, default=50)
    parser.add_argument("--leaves", type=float, nargs="+", default=(0.5, 1.0, 1.4, 2.0, 4.0))
    parser.add_argument("--blocks", type=int, nargs="+", default=(2, 4))
    parser.add_argument("--noise", type=float, default=NOISE)
    parser.add_argument("--all", action="store_true", help="Print every effort, not only the fastest.")
    options = parser.parse_args()
    vectors, _, queries, _ = draw(options.items, options.dimension, queries=options.queries, noise=options.noise)
    truth = nearest_exactly(vectors, queries, options.k)
    items = FixedPointRows.write(ArrayBlocks(vectors), None)
    del vectors
    rows = []
    for factor in options.leaves:
        leaves = round(factor * math.sqrt(options.items))
        for block in options.blocks:
            layout = Layout(leaves, block, min(options.items, SAMPLE_A_LEAF * leaves))
            rows += measure(items, queries, truth, layout)
            show(rows[-len(SHARES) * len(CANDIDATES) :], options.all)
    print("\nOf all:")
    show(rows, False)


def show(rows, everything):
    """Print rows: all, or the fastest at each recall."""
    best = [max((row for row in rows if row[4] >= least), key=lambda row: row[2], default=None) for least in RECALLS]
    for layout, effort, rate, alone, found in rows if everything else filter(None, best):
        print(
            f"  {layout.leaves:5} leaves / {layout.dimensions_per_word}: {effort.leaves:4} searched "
            f"({effort.leaves / layout.leaves:.3f}), {effort.candidates:4} compared: {rate:7.0f} queries/s, "
            f"alone {1000 * alone:6.3f} ms, recall {found:.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
