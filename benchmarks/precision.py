"""What a lower precision does to decisions: votes that change, and top-1, beside the first way, float32 by torch.

    python benchmarks/precision.py [--data ../shared/data] [--sets pacs tiny-imagenet] [--ways "openvino float32" …]

EfficientNet-Lite0 with its real weights. PACS: the photographs are the memory; paintings, cartoons and sketches ask.
Tiny-ImageNet: the training pictures are the memory, the validation pictures ask. RankVoting over 50 neighbours, exact
search. int8 takes its ranges from the memory's own pictures.

Columns: smallest and mean cosine of the queries' vectors to those of float32; share of votes that differ from
float32's where memory and queries are embedded this way, and where the queries alone are; top-1 with its 95 % Wilson
interval, memory and queries embedded this way.
"""

import argparse
import time
import warnings
from pathlib import Path

import numpy as np

from eval.metrics.intervals import wilson_interval
from retrieval.embedders import load_embedder
from retrieval.embedders.base import Calibration, pick
from retrieval.embedding import embed_images
from retrieval.sources import list_labelled_files
from retrieval.voting import encode_labels, predict_every_k

WAYS = {
    "torch float32": {"backend": "torch", "precision": "float32"},
    "torch bfloat16": {"backend": "torch", "precision": "bfloat16"},
    "openvino float32": {"backend": "openvino", "precision": "float32"},
    "openvino bfloat16": {"backend": "openvino", "precision": "bfloat16"},
    "openvino int8": {"backend": "openvino", "precision": "int8"},
}
K = 50


def sets(name, data):
    """Return the memory's files and the queries' files by the name of their set."""
    if name == "pacs":
        domains = ("art_painting", "cartoon", "sketch")
        return list_labelled_files(data / "pacs" / "photo"), {
            domain: list_labelled_files(data / "pacs" / domain) for domain in domains
        }
    return list_labelled_files(data / name / "train"), {name: list_labelled_files(data / name / "val")}


def embed(files, embedder):
    """Return the files' vectors."""
    return np.concatenate([batch.vectors for batch in embed_images(files, embedder, image_of=lambda file: file.path)])


def vote(memory, labels, queries):
    """Return RankVoting's answer for each query."""
    nearest = np.empty((len(queries), K), np.int64)
    for start in range(0, len(queries), 512):
        similar = queries[start : start + 512] @ memory.T
        some = np.argpartition(-similar, K, axis=1)[:, :K]
        order = np.argsort(-np.take_along_axis(similar, some, 1), axis=1, kind="stable")
        nearest[start : start + 512] = np.take_along_axis(some, order, 1)
    codes, names = encode_labels(labels[nearest])
    distances = np.broadcast_to(np.arange(K, dtype=np.float64), nearest.shape)  # RankVoting looks at ranks alone
    return np.array(names, object)[predict_every_k(codes, distances, method="rank")[:, -1]]


def main():
    """Embed every set every way, and print the table."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--sets", nargs="+", default=["pacs", "tiny-imagenet"])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    options = parser.parse_args()
    for name in options.sets:
        remembered, asked = sets(name, options.data)
        labels = np.array([file.label for file in remembered], object)
        expected = {}
        for way in options.ways:
            calibration = Calibration([file.path for file in pick(remembered)])
            embedder = load_embedder("efficientnet-lite0", device="cpu", calibration=calibration, **WAYS[way])
            started = time.perf_counter()
            memory = embed(remembered, embedder)
            queries = {query_set: embed(files, embedder) for query_set, files in asked.items()}
            rate = (len(memory) + sum(map(len, queries.values()))) / (time.perf_counter() - started)
            for query_set, vectors in queries.items():
                votes = vote(memory, labels, vectors)
                reference = expected.setdefault(query_set, (memory, vectors, votes))
                alone = vote(reference[0], labels, vectors)
                cosines = (vectors * reference[1]).sum(axis=1)
                right = votes == np.array([file.label for file in asked[query_set]], object)
                low, high = wilson_interval(int(right.sum()), len(right))
                print(
                    f"{query_set:14}{way:19}{rate:6.0f}/s  cosine {cosines.min():.4f} {cosines.mean():.5f}"
                    f"  votes changed {np.mean(votes != reference[2]):6.2%}, by the queries alone"
                    f" {np.mean(alone != reference[2]):6.2%}  top-1 {100 * right.mean():.1f} ({low:.1f}–{high:.1f})",
                    flush=True,
                )


if __name__ == "__main__":
    main()
