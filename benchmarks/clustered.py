"""Made vectors like those of pictures: clusters around the centres of classes. Not a benchmark; others import it."""

import numpy as np

CLASSES = 1000
NOISE = 2.0  # of a vector's distance to its class's centre, in lengths of the centre: neighbours mix classes


def draw(items, dimension, *, queries, noise=NOISE, seed=0):
    """Return float32 vectors of length 1 with their classes, and queries from the same clusters with theirs."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((CLASSES, dimension), dtype=np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    return *_around(centres, items, noise, random), *_around(centres, queries, noise, random)


def _around(centres, number, noise, random):
    classes = random.integers(0, CLASSES, number)
    vectors = np.empty((number, centres.shape[1]), np.float32)
    for start in range(0, number, 65_536):
        block = vectors[start : start + 65_536]
        block[:] = random.standard_normal(block.shape, dtype=np.float32)
        block *= noise / np.sqrt(centres.shape[1])
        block += centres[classes[start : start + 65_536]]
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return vectors, classes


def nearest_exactly(vectors, queries, k):
    """Return the positions of the k most similar vectors of each query, in any order."""
    import torch

    matrix = torch.from_numpy(vectors)
    parts = torch.from_numpy(queries).split(100)
    return torch.cat([torch.topk(part @ matrix.T, k, sorted=False).indices for part in parts]).numpy()


def recall(found, truth):
    """Return the share of the true neighbours that were found."""
    rows = zip(found, truth, strict=True)
    return float(np.mean([len(np.intersect1d(row, true)) / len(true) for row, true in rows]))
