"""Raw ScaNN and FAISS as others use them, for benchmarks/search.py: how each is built, opened and searched."""

import math
from pathlib import Path

import numpy as np

K = 50
SCANN_SETTINGS = [
    (share, each)
    for share in (0.001, 0.0015, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.08, 0.1, 0.13, 0.17, 0.25, 0.35, 0.5, 1.0)
    for each in (3, 4, 4.5, 5, 6, 8, 10, 20)
]
"""Share of the leaves searched, and candidates for each neighbour."""


def build_scann(factor, vectors, folder):
    """Build and write a tree with so many times √n leaves, and 2 dimensions a word: with 2 × √n the best we know of."""
    from scann import scann_ops_pybind

    leaves = round(float(factor) * math.sqrt(len(vectors)))
    tree = scann_ops_pybind.builder(vectors, K, "dot_product").tree(
        num_leaves=leaves, num_leaves_to_search=leaves // 10, training_sample_size=min(len(vectors), 250_000)
    )
    searcher = tree.score_ah(2).reorder(6 * K).build()
    searcher.serialize(str(folder), relative_path=True)


def open_scann(factor, folder, items):
    """Return searches by setting."""
    from scann import scann_ops_pybind

    searcher, leaves = scann_ops_pybind.load_searcher(str(folder)), round(float(factor) * math.sqrt(items))

    def at(share, each):
        inside, reordered = max(1, round(share * leaves)), round(each * K)

        def search(queries):
            if len(queries) == 1:
                return searcher.search(queries[0], K, reordered, inside)[0][None].astype(np.int64)
            return searcher.search_batched_parallel(queries, K, reordered, inside)[0].astype(np.int64)

        return search

    return {f"{share:.1%} of the leaves, {each * K:.0f} reordered": at(share, each) for share, each in SCANN_SETTINGS}


def faiss_factories(items, dimension):
    """Return FAISS's index factory strings by name, and the parameter that each is searched by, with its values."""
    lists = 2 ** round(math.log2(4 * math.sqrt(items)))
    probes = tuple(
        sorted({max(1, round(share * lists)) for share in (0.0012, 0.0025, 0.005, 0.01, 0.03, 0.06, 0.12, 0.25, 0.5)})
    )
    return {
        "flat": ("Flat", "", (0,)),
        "hnsw": ("HNSW32", "efSearch", (64, 128, 256, 512, 1024)),
        "ivf": (f"IVF{lists},Flat", "nprobe", probes),
        "pq": (f"PQ{dimension // 2}x4fs,RFlat", "k_factor_rf", (2, 3, 4, 6, 10, 20)),
        "ivfpq": (f"IVF{lists},PQ{dimension // 2}x4fs,RFlat", "nprobe", probes),
    }


def build_faiss(name, vectors, folder):
    """Train, fill and write an index."""
    import faiss

    factory, _, _ = faiss_factories(*vectors.shape)[name]
    index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors[:: max(1, len(vectors) // 250_000)])
    index.add(vectors)
    faiss.write_index(index, str(Path(folder) / "index.faiss"))


def open_faiss(name, folder, items, dimension):
    """Return searches by setting."""
    import faiss

    factory, parameter, values = faiss_factories(items, dimension)[name]
    index = faiss.read_index(str(Path(folder) / "index.faiss"))
    space = faiss.ParameterSpace()

    def at(value):
        def search(queries):
            if name == "ivfpq":
                space.set_index_parameter(index, "k_factor_rf", 6)
            if parameter:
                space.set_index_parameter(index, parameter, value)
            return index.search(queries, K)[1]

        return search

    return {f"{factory} {parameter} {value}" if parameter else factory: at(value) for value in values}
