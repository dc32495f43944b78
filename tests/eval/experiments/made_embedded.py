"""A memory and queries made of random numbers: clusters in a tree, so that classes are near their siblings."""

from dataclasses import replace

import numpy as np

from eval.experiments.embedded import Embedded


def made_embedded(
    *, classes: int = 8, each: int = 30, queries: int = 6, noise: float = 0.6, dimension: int = 16, seed: int = 0
) -> Embedded:
    """Return classes "a0", "a1", "b0", …, each letter a group of two whose centres lie close together."""
    draw = np.random.default_rng(seed)
    names = [f"{chr(ord('a') + number // 2)}{number % 2}" for number in range(classes)]
    groups = draw.normal(size=(classes // 2 + 1, dimension))
    centres = np.array([groups[number // 2] + 0.5 * draw.normal(size=dimension) for number in range(classes)])
    labels, asked = np.repeat(np.arange(classes), each), np.repeat(np.arange(classes), queries)
    return Embedded(
        name="made",
        embedder="none",
        item_ids=[f"item {row}" for row in range(len(labels))],
        vectors=unit(centres[labels] + noise * draw.normal(size=(len(labels), dimension))),
        labels=labels,
        label_names=names,
        query_ids=[f"query {row}" for row in range(len(asked))],
        queries=unit(centres[asked] + noise * draw.normal(size=(len(asked), dimension))),
        truths=[frozenset([names[code]]) for code in asked],
    )


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return vectors of length 1, float32."""
    scaled: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled.astype(np.float32)


def rebuilt(embedded: Embedded, kept: np.ndarray) -> Embedded:
    """Return a memory made anew of some items."""
    rows = np.flatnonzero(kept)
    ids = [embedded.item_ids[row] for row in rows]
    return replace(
        embedded, item_ids=ids, vectors=embedded.vectors[rows], labels=embedded.labels[rows], _found={}, _index=[]
    )
