"""Queries put into a memory beside its items, and each asked about without itself."""

from dataclasses import replace

import numpy as np
from jaxtyping import Int

from eval.experiments.material import Material
from eval.types import Names, QueryResults
from retrieval.curation.pruning import other_places
from retrieval.errors import InvalidArgument


def insert_queries(material: Material, unknown: Material) -> tuple[Material, Int[np.ndarray, " queries"]]:
    """Return a memory with another's queries among its items and its own queries, and each query's row; -1 for none.

    Queries with several right labels, or none, are left out: an item has one.

    Raises:
        InvalidArgument: other embedders, a label or an id that is there already, or nothing to insert.
    """
    if material.embedder != unknown.embedder:
        raise InvalidArgument(f"vectors of {material.embedder} and of {unknown.embedder} cannot be compared: use one")
    inserted = [query for query, truth in enumerate(unknown.truths) if len(truth) == 1]
    labels = [min(unknown.truths[query]) for query in inserted]
    ids = [f"{unknown.name}/{unknown.query_ids[query]}" for query in inserted]
    _check(material, labels, ids)
    new_names = sorted(set(labels))
    codes = {name: len(material.label_names) + place for place, name in enumerate(new_names)}
    vectors = unknown.queries[inserted]
    joined = Material(
        name=f"{material.name} with {unknown.name}",
        embedder=material.embedder,
        item_ids=material.item_ids + ids,
        vectors=np.concatenate([material.vectors, vectors]),
        labels=np.concatenate([material.labels, [codes[label] for label in labels]]),
        label_names=material.label_names + new_names,
        query_ids=material.query_ids + ids,
        queries=np.concatenate([material.queries, vectors]),
        truths=material.truths + [frozenset([label]) for label in labels],
    )
    rows = np.arange(len(ids)) + len(material.item_ids)
    return joined, np.concatenate([np.full(len(material.query_ids), -1), rows])


def _check(material: Material, labels: list[str], ids: list[str]) -> None:
    if not labels:
        raise InvalidArgument("no query has exactly one right label: there is nothing to insert")
    for kind, there, new in (("label", material.label_names, labels), ("id", material.item_ids, ids)):
        if both := set(there) & set(new):
            raise InvalidArgument(f"{kind} {min(both)!r} is in the memory already: insert what is new to it")


def without_own(results: QueryResults, own: Int[np.ndarray, " queries"]) -> QueryResults:
    """Return one neighbour fewer of each query: without its own item, else without the farthest."""
    others = other_places(results.neighbor_ids.codes, own)
    shape = (len(results), max(results.k - 1, 0))
    ids, labels = results.neighbor_ids, results.neighbor_labels
    return replace(
        results,
        neighbor_ids=Names(ids.codes[others].reshape(shape), ids.names),
        neighbor_labels=Names(labels.codes[others].reshape(shape), labels.names),
        neighbor_distances=results.neighbor_distances[others].reshape(shape),
    )
