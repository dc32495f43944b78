"""How many of its own items a memory answers rightly, measured with searches alone."""

import numpy as np

from retrieval.memory import VisualMemory
from retrieval.voting import count_votes


def own_accuracy(memory: VisualMemory) -> float:
    """Return leave-one-out accuracy in percent, by the rank vote of each item's 50 nearest others."""
    snapshot = memory.snapshot()
    found = memory.search_vectors(snapshot.vectors(), k=51)
    factors = np.ones(found.labels.shape) if found.reliabilities is None else found.reliabilities
    others = found.ids != snapshot.ids[:, None]
    others[others.all(axis=1), -1] = False
    labels, distances, factors = (part[others].reshape(-1, 50) for part in (found.labels, found.distances, factors))
    votes = count_votes(labels, distances, factors=factors)
    return 100 * float(np.mean([vote.labels[0] == label for vote, label in zip(votes, snapshot.labels, strict=True)]))
