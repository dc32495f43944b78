"""A memory of made vectors, for benchmarks/search.py: how it is built, opened, searched, edited, and voted with."""

import shutil
import time

import numpy as np
from clustered import recall

K = 50
RECALLS = (0.99, 0.999)
ASKED_FOR = (0.97, 0.98, 0.985, 0.988, 0.989, 0.99, 0.991, 0.992, 0.995, 0.998, 0.999, 0.9995)
AT_A_TIME = 100_000  # vectors added in a call


def load(folder, *names, mapped=False):
    """Return arrays of the data."""
    return [np.load(folder / f"{name}.npy", mmap_mode="r" if mapped else None) for name in names]


def remember(path, vectors, classes, rows):
    """Add vectors, named by their rows, to the memory at a path, which is made where it is not there."""
    from retrieval.embedders.base import foreign_vectors
    from retrieval.memory import VisualMemory

    made = foreign_vectors("made", vectors.shape[1])
    memory = open_memory(path) if path.exists() else VisualMemory.create(path, embedder=made, index="scann")
    for start in range(0, len(rows), AT_A_TIME):
        some = slice(start, start + AT_A_TIME)
        labels = [f"class {number}" for number in classes[some].tolist()]
        memory.add_vectors([str(row) for row in rows[some].tolist()], labels, vectors[some])


def open_memory(path):
    """Open a memory."""
    from retrieval.memory import VisualMemory

    return VisualMemory.open(path)


def ours(folder):
    """Return the memory's search at some of the recalls that it can be asked for."""
    memory = open_memory(folder / "memory")

    def at(least):
        return lambda some: memory.search_vectors(some, k=K, recall=least).rows

    return {f"recall={least}": at(least) for least in ASKED_FOR}


def opening(folder):
    """Return seconds to open the memory in this fresh process, and until its first answer."""
    (queries,) = load(folder, "queries")
    started = time.perf_counter()
    memory = open_memory(folder / "memory")
    opened = time.perf_counter() - started
    memory.search_vectors(queries[:1], k=K)
    return {"opened in s": opened, "first answer after s": time.perf_counter() - started}


def voting(folder):
    """Return how often votes from the memory are those from the exact neighbours of float32 vectors."""
    from retrieval.voting import METHODS, encode_labels, predict_every_k

    vectors, queries, classes, truth = load(folder, "vectors", "queries", "classes", "truth", mapped=True)
    exact = 1 - np.stack([vectors[rows] @ query for rows, query in zip(truth, queries, strict=True)])
    order = np.argsort(exact, axis=1, kind="stable")
    near = np.take_along_axis(truth, order, axis=1)
    names = np.array([f"class {number}" for number in range(int(classes.max()) + 1)], object)
    memory, same = open_memory(folder / "memory"), {}
    for share in RECALLS:
        found = memory.search_vectors(np.array(queries), k=K, recall=share)
        codes, _ = encode_labels(np.concatenate([np.asarray(found.labels, object), names[classes[near]]]))
        distances = np.concatenate([found.distances, np.take_along_axis(exact, order, axis=1)]).astype(np.float32)
        for method in METHODS:
            winners = predict_every_k(codes, distances, method=method)[:, -1]
            same[f"same vote by {method} at {share}"] = float(np.mean(np.equal(*np.split(winners, 2))))
    return same


def churn(folder):
    """Forget some items and add others; return recall, and that of a memory built afresh of what is left."""
    new, classes, gone, queries, truth = load(folder, "new", "classes", "gone", "queries", "churned_truth")
    shutil.rmtree(folder / "churned", ignore_errors=True)
    shutil.copytree(folder / "memory", folder / "churned")
    started = time.perf_counter()
    open_memory(folder / "churned").forget(ids=[str(row) for row in gone.tolist()])
    items = len(classes) - len(new)
    remember(folder / "churned", new, classes[items:], np.arange(items, len(classes)))
    seconds = time.perf_counter() - started
    found = {}
    for name in ("churned", "fresh"):
        neighbors = open_memory(folder / name).search_vectors(queries, k=K)
        found[f"recall, {name}"] = recall(neighbors.ids.astype(np.int64), truth)
    shutil.rmtree(folder / "churned")
    return found | {"churn took s": seconds}
