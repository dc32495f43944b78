"""Search in a Milvus collection around vectors that are not to be found."""

from typing import Final

import numpy as np

from retrieval.errors import IndexUnavailable
from retrieval.indexes.milvus_collection import FARTHEST, Collection, Found, among

_SPARE: Final = 8  # neighbours asked for beyond k, so that equal ones around the k-th come in order
_WIDER: Final = 4  # times as many are asked for where too many of them were skipped


def search_around(collection: Collection, queries: np.ndarray, k: int, skip: np.ndarray) -> list[Found]:
    """Return the k nearest vectors of each query that are not skipped.

    The search is repeated, ever wider, for those queries of which too many neighbours were skipped.
    """
    found: dict[int, Found] = {}
    widest = min(FARTHEST, len(skip) + _SPARE)
    share = max(1 / _WIDER, 1 - np.count_nonzero(skip) / len(skip))
    limit = min(widest, round(k / share) + _SPARE)
    while True:
        short = [row for row in range(len(queries)) if row not in found]
        for row, answer in zip(short, collection.search(queries[short], limit), strict=True):
            if kept := _nearest(answer, k, skip):
                found[row] = kept
        if len(found) == len(queries) or limit == widest:
            break
        limit = min(widest, limit * _WIDER)
    return [
        found[row] if row in found else _search_past(collection, queries[row], k, skip) for row in range(len(queries))
    ]


def _search_past(collection: Collection, query: np.ndarray, k: int, skip: np.ndarray) -> Found:
    """Search for one query whose nearest are all skipped, again and again without those that were found."""
    seen = np.empty(0, np.int64)
    kept: Found = (np.empty(0, np.int64), np.empty(0, np.float32))
    while len(kept[0]) < k:
        unseen = f"position < {len(skip)}" + (f" and not ({among(seen)})" if seen.size else "")
        ((positions, distances),) = collection.search(query[None], FARTHEST, among=unseen)
        if not positions.size:
            raise IndexUnavailable(f"{collection.server.where} finds {len(kept[0])} neighbours, not {k}: build it anew")
        good = ~skip[positions]
        kept = (np.append(kept[0], positions[good]), np.append(kept[1], distances[good]))
        seen = np.append(seen, positions)
    return _first(kept, k)


def _nearest(found: Found, k: int, skip: np.ndarray) -> Found | None:
    """Return the k nearest that are not skipped; None where there are fewer."""
    positions, distances = found
    good = positions < len(skip)  # an index that extends this one may have gone on in the same collection
    good[good] = ~skip[positions[good]]
    return _first((positions[good], distances[good]), k) if np.count_nonzero(good) >= k else None


def _first(found: Found, k: int) -> Found:
    order = np.lexsort(found)[:k]  # by distance, then by position
    return found[0][order], np.clip(found[1][order], 0.0, 2.0)
