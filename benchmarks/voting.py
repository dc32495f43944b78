"""Voting for every k at once, beside plain loops over rows.

    python benchmarks/voting.py [--queries 50000] [--k 100]

All give the winner for every k from 1 to K by four methods; the loops run on a sample of the rows and are scaled up.
Prints seconds, ratios, and the share of equal answers (`afresh` breaks ties by who came first, not by who led first).
"""

import argparse
import math
import time

import numpy as np

from retrieval.voting import METHODS, encode_labels, predict_every_k

WEIGHTS = {
    "rank": lambda rank, distance: 1 / (2 + rank),
    "plurality": lambda rank, distance: 1.0,
    "distance": lambda rank, distance: math.exp(-distance),
    "softmax": lambda rank, distance: math.exp((1 - distance) / 0.07),
}


def outwards(labels, distances, method):
    """Walk along each row once, the running leader at hand: the best that a plain loop can do."""
    winners = []
    for row_labels, row_distances in zip(labels, distances, strict=True):
        gathered, winner, row = {}, None, []
        for rank, (label, distance) in enumerate(zip(row_labels, row_distances, strict=True)):
            gathered[label] = gathered.get(label, 0.0) + WEIGHTS[method](rank, distance)
            if winner is None or gathered[label] > gathered[winner]:
                winner = label
            row.append(winner)
        winners.append(row)
    return winners


def afresh(labels, distances, method):
    """Count the votes of each row anew for every k, as notebooks do."""
    winners = []
    for row_labels, row_distances in zip(labels, distances, strict=True):
        row = []
        for k in range(1, len(row_labels) + 1):
            gathered = {}
            for rank, (label, distance) in enumerate(zip(row_labels[:k], row_distances[:k], strict=True)):
                gathered[label] = gathered.get(label, 0.0) + WEIGHTS[method](rank, distance)
            row.append(max(gathered, key=gathered.get))
        winners.append(row)
    return winners


def main():
    """Time both and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=50_000)
    parser.add_argument("--k", type=int, default=100)
    options = parser.parse_args()
    draw = np.random.default_rng(0)
    names = np.array([f"class {number:04d}" for number in range(1000)], object)
    # Labels as they come: a query's neighbours share about ten classes.
    near = draw.integers(0, 10, (options.queries, options.k))
    labels = names[(draw.integers(0, 1000, (options.queries, 1)) + near) % 1000]
    distances = np.sort(draw.random((options.queries, options.k)), axis=1)

    started = time.perf_counter()
    codes, vocabulary = encode_labels(labels)
    ours = {method: predict_every_k(codes, distances, method=method) for method in METHODS}
    our_seconds = time.perf_counter() - started
    print(f"{options.queries} queries × k = 1..{options.k} × {len(METHODS)} methods: {our_seconds:.2f} s")

    for peer, rows in ((outwards, 2000), (afresh, 100)):
        sample = slice(0, min(rows, options.queries))
        arguments = labels[sample].tolist(), distances[sample].tolist()
        started = time.perf_counter()
        theirs = {method: peer(*arguments, method) for method in METHODS}
        seconds = (time.perf_counter() - started) * options.queries / len(arguments[0])
        same = np.mean([np.array(vocabulary, object)[ours[m][sample]] == np.array(theirs[m], object) for m in METHODS])
        print(f"loop {peer.__name__}: {seconds:.1f} s, ratio {seconds / our_seconds:.1f}, same answers {same:.2%}")


if __name__ == "__main__":
    main()
