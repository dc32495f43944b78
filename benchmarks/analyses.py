"""Analyses of one neighbour file: reading, voting, corruption, and all together.

    python benchmarks/analyses.py [--queries 50000] [--k 100] [--folder FOLDER]

Makes a file in the reference release's form, reads it, and runs every analysis that needs neighbours alone. Voting
stands beside plain Python that counts each query's votes anew for every k, as notebooks do, on a sample of the queries
and scaled up; accuracies are compared. Prints seconds against their limits, ratios, and the highest memory use.
"""

import argparse
import math
import resource
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from eval.experiments import CATALOGUE
from eval.experiments.base import BY_METHOD, accuracy_every_k, write_analysis
from eval.experiments.inputs import Inputs
from eval.metrics.votes import truth_codes
from eval.neighbors import Origin, read_neighbors, write_neighbors
from eval.types import Names, Neighborhoods, QueryResults

ITEMS, CLASSES = 1_281_000, 1000  # about ImageNet's training set
SAMPLE = 100  # queries for plain Python
WEIGHTS = {
    "rank": lambda rank, distance: 1 / (2 + rank),
    "plurality": lambda rank, distance: 1.0,
    "distance": lambda rank, distance: math.exp(-distance),
    "softmax": lambda rank, distance: math.exp((1 - distance) / 0.07),
}


def make(queries, k):
    """Return neighbours of which the nearer ones more often have the right label."""
    draw = np.random.default_rng(0)
    truths = draw.integers(0, CLASSES, queries)
    near = (truths[:, None] + draw.integers(0, 10, (queries, k))) % CLASSES
    near = np.where(draw.random((queries, k)) < 1 / (1.2 + 0.02 * np.arange(k)), truths[:, None], near)
    items = near + CLASSES * draw.integers(0, ITEMS // CLASSES, (queries, k))
    return Neighborhoods(
        "imagenet-val",
        "dinov2-vitl14",
        QueryResults(
            ids=[f"ILSVRC2012_val_{query:08}.JPEG" for query in range(queries)],
            truths=[frozenset([str(truth)]) for truth in truths],
            neighbor_ids=Names(items, [f"n{item % CLASSES:08}_{item}.JPEG" for item in range(ITEMS)]),
            neighbor_labels=Names(near, [str(number) for number in range(CLASSES)]),
            neighbor_distances=np.sort(draw.random((queries, k)), axis=1),
            unreadable={},
        ),
    )


def afresh(results, method, queries):
    """Count the votes of each query anew for every k; return accuracies."""
    weight = WEIGHTS[method]
    right = [0] * results.k
    for query in range(queries):
        labels, distances = results.neighbor_labels.of(query), results.neighbor_distances[query].tolist()
        for k in range(1, results.k + 1):
            gathered, winner = {}, None
            for rank in range(k):
                label = labels[rank]
                gathered[label] = gathered.get(label, 0.0) + weight(rank, distances[rank])
                if winner is None or gathered[label] > gathered[winner]:
                    winner = label
            right[k - 1] += winner in results.truths[query]
    return [100 * count / queries for count in right]


@contextmanager
def timed(what, limit=None):
    """Print the seconds that something takes, and give a list that holds them afterwards."""
    taken, started = [], time.perf_counter()
    yield taken
    taken.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)
    bound = f" (limit {limit} s)" if limit else ""
    print(f"{what}: {taken[0]:.2f} s{bound}; {peak:.2f} GB at most so far", flush=True)


def vote(found):
    """Time voting by four methods at every k, and plain Python beside it."""
    results, weighings = found.results, list(BY_METHOD.values())
    truths = truth_codes(results)
    with timed("voting, four methods, every k", 10) as ours:
        accuracy_every_k(found, weighings, truths=truths)
    some = min(SAMPLE, len(results))
    ids, labels = (Names(names.codes[:some], names.names) for names in (results.neighbor_ids, results.neighbor_labels))
    cut = QueryResults(results.ids[:some], results.truths[:some], ids, labels, results.neighbor_distances[:some], {})
    few = accuracy_every_k(replace(found, results=cut), weighings)
    started = time.perf_counter()
    plain = [afresh(results, method, some) for method in BY_METHOD]
    seconds = (time.perf_counter() - started) * len(results) / some
    off = float(np.abs(few - np.array(plain)).max())
    print(f"plain Python: {seconds:.0f} s, ratio {seconds / ours[0]:.0f}, accuracies differ by {off:g} points at most")


def main():
    """Make, read, analyse."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=50_000)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--folder", type=Path, help="Keep the file here, and take it from here if it is there already.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        path = folder / Origin(memory="made", queries=f"made{options.queries}x{options.k}", model="none").file_name
        if not path.exists():
            with timed("writing the file"):
                write_neighbors(make(options.queries, options.k), path)
            print("Run again with --folder for memory use without that of making the file" * (not options.folder))
        with timed(f"reading {path.stat().st_size / 1e6:.0f} MB of JSON", 30):
            found = read_neighbors(path)
        vote(found)
        inputs = Inputs(found, unknown=found)
        with timed("all analyses of neighbours, written", 300):
            for entry in CATALOGUE.values():
                if not inputs.missing(entry):
                    with timed(f"  {entry.name}", 30 if entry.name == "label_noise" else None):
                        write_analysis(inputs.analyse(entry), Path(temporary) / "analyses")


if __name__ == "__main__":
    main()
