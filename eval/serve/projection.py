"""A memory's embeddings as a map: a sample laid out in the plane, and in words which classes lie beside each other."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float, Int, Shaped

from retrieval.errors import InvalidArgument
from retrieval.snapshot import Snapshot
from retrieval.voting import encode_labels

MOST_ITEMS: Final = 2000  # t-SNE's time grows faster than their number: 2,000 take some 7 s
LEAST_ITEMS: Final = 3
_COMPONENTS: Final = 50  # to which t-SNE's own authors reduce before it (van der Maaten and Hinton, 2008, section 4.2)
_PERPLEXITY: Final = 30.0  # the middle of the 5 to 50 that they recommend (section 2)
_SEED: Final = 0


@dataclass(frozen=True, slots=True)
class NearClass:
    """A class and the one that lies nearest to it."""

    label: str
    items: int
    other: str
    distance: float  # cosine distance between the means of both
    astray: int  # items of the class that lie nearer to another class's mean than to their own


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """A map of a memory."""

    ids: list[str]  # of the items on it
    labels: list[str]
    places: Float[np.ndarray, "items two"]  # 0 to 1 in both directions; only who lies beside whom means anything
    left_out: int  # items that the sample lacks
    near: list[NearClass]  # of every class, the nearest pair first; empty where there is one class only
    seconds: float  # that it took


def project(snapshot: Snapshot, *, most: int = MOST_ITEMS, seed: int = _SEED) -> Projection:
    """Return a map of a version of a memory: the same one for the same version.

    Principal components, then t-SNE (van der Maaten and Hinton, 2008). Classes are compared by all their items, the
    map shows a sample of ``most``.

    Raises:
        InvalidArgument: fewer than three items, of which there is no map.
    """
    began = time.monotonic()
    ids, labels = snapshot.ids, snapshot.labels
    if len(ids) < LEAST_ITEMS:
        raise InvalidArgument(f"a map of {len(ids)} items says nothing: add pictures until there are {LEAST_ITEMS}")
    vectors = snapshot.vectors()
    rows = draw_sample(len(ids), most, seed=seed)
    near = nearest_classes(vectors, labels)
    places = lay_out(vectors[rows], seed=seed)
    seconds = time.monotonic() - began
    return Projection(ids[rows].tolist(), labels[rows].tolist(), places, len(ids) - len(rows), near, seconds)


def draw_sample(items: int, most: int, *, seed: int = _SEED) -> Int[np.ndarray, " rows"]:
    """Return the rows of a sample, in order: all where there are no more."""
    if items <= most:
        return np.arange(items)
    return np.sort(np.random.default_rng(seed).choice(items, most, replace=False))


def lay_out(vectors: Float[np.ndarray, "items dimension"], *, seed: int = _SEED) -> Float[np.ndarray, "items two"]:
    """Return places in the unit square; vectors that are alike lie beside each other."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    if not np.ptp(vectors, axis=0).any():  # the same picture again and again: nothing to lay out
        return np.full((len(vectors), 2), 0.5)
    components = min(_COMPONENTS, *vectors.shape)
    reduced = PCA(components, random_state=seed).fit_transform(vectors)
    perplexity = min(_PERPLEXITY, (len(vectors) - 1) / 3)  # it must stay below the number of the others
    start = "pca" if components > 1 else "random"
    with threadpool_limits(1):  # several threads wait for each other: 1,034 items take 17 s with two, 5 s with one
        places = TSNE(perplexity=perplexity, init=start, random_state=seed).fit_transform(reduced)
    low, high = places.min(axis=0), places.max(axis=0)
    square: np.ndarray = (places - low) / np.maximum(high - low, np.finfo(np.float32).tiny)
    return square


def nearest_classes(
    vectors: Float[np.ndarray, "items dimension"], labels: Shaped[np.ndarray, " items"]
) -> list[NearClass]:
    """Return of every class the one whose mean lies nearest, the nearest first; nothing where there is one class only.

    Args:
        vectors: of length 1.
        labels: of the items.
    """
    codes, names = encode_labels(labels[:, None])
    own = codes[:, 0]
    if len(names) < 2:
        return []
    means = _means(vectors, own, len(names))
    other, distances = _nearest_means(means)
    told = zip(names, np.bincount(own), other, distances, _astray(vectors, own, means), strict=True)
    near = [
        NearClass(str(name), int(count), str(names[beside]), float(distance), int(astray))
        for name, count, beside, distance, astray in told
    ]
    return sorted(near, key=lambda one: one.distance)


def _means(
    vectors: Float[np.ndarray, "items dimension"], own: Int[np.ndarray, " items"], classes: int
) -> Float[np.ndarray, "classes dimension"]:
    """Return each class's mean, of length 1."""
    from scipy.sparse import csr_matrix

    members = csr_matrix((np.ones(len(own), np.float32), (own, np.arange(len(own)))), shape=(classes, len(own)))
    sums = members @ vectors
    means: np.ndarray = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return means


def _nearest_means(means: Float[np.ndarray, "classes dimension"]) -> tuple[np.ndarray, np.ndarray]:
    """Return which other mean lies nearest to each, and how far it is."""
    found = [np.empty((2, 0))]
    for some in _blocks(len(means), width=len(means)):
        alike = means[some] @ means.T
        alike[np.arange(len(alike)), np.arange(len(means))[some]] = -np.inf
        nearest = alike.argmax(axis=1)
        found.append(np.stack([nearest, 1.0 - alike[np.arange(len(alike)), nearest]]))
    other, distances = np.concatenate(found, axis=1)
    return other.astype(np.int64), np.maximum(distances, 0.0)


def _astray(
    vectors: Float[np.ndarray, "items dimension"],
    own: Int[np.ndarray, " items"],
    means: Float[np.ndarray, "classes dimension"],
) -> Int[np.ndarray, " classes"]:
    """Return how many items of each class lie nearer to another class's mean."""
    blocks = _blocks(len(vectors), width=len(means))
    nearest = np.concatenate([(vectors[some] @ means.T).argmax(axis=1) for some in blocks])
    return np.bincount(own[nearest != own], minlength=len(means))


def _blocks(rows: int, *, width: int) -> Iterator[slice]:
    """Yield parts of a table whose products with so many columns take 40 MB at a time."""
    block = max(1, 10_000_000 // width)
    return (slice(start, start + block) for start in range(0, rows, block))


def colour_classes(labels: Sequence[str], *, most: int) -> dict[str, list[int]]:
    """Return the places of items by class, the largest first; those of classes beyond ``most`` together under ""."""
    places: dict[str, list[int]] = {}
    for place, label in enumerate(labels):
        places.setdefault(label, []).append(place)
    ranked = sorted(places, key=lambda label: (-len(places[label]), label))
    shown = {label: places[label] for label in ranked[:most]}
    rest = sorted(place for label in ranked[most:] for place in places[label])
    return shown | ({"": rest} if rest else {})
