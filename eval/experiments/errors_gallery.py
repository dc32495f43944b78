"""Errors in pictures: what they were voted by (Geirhos et al., Figures 5, 6 and 16), and items that decide them."""

from typing import TYPE_CHECKING, Final

import numpy as np

from eval.drawing import BLUE, INK, ORANGE, readable
from eval.experiments.base import Neighborhoods
from eval.experiments.gallery import Pictures, Section, Tile, draw_gallery, fetch
from eval.experiments.ledger import VoteLedger
from eval.wording import counted
from retrieval.labels import display_name
from retrieval.voting import neighbor_weights

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ERRORS: Final = 4  # queries, as in Figures 6 and 16
_NEIGHBORS: Final = 5  # beside each, as there
_ITEMS: Final = 3
_DECIDED: Final = 5  # queries beside an item


def draw_errors(
    found: Neighborhoods, ledger: VoteLedger, pictures: Pictures | None, query_pictures: Pictures | None, *, seed: int
) -> "Figure":
    """Draw a few errors, chosen at random, with their neighbours, and the items that decide most errors."""
    wrong = np.flatnonzero(~ledger.right)
    chosen = np.sort(np.random.default_rng(seed).choice(wrong, min(_ERRORS, len(wrong)), replace=False)).tolist()
    decided = {item: ledger.queries_decided_by(item)[:_DECIDED] for item in ledger.deciders(_ITEMS)}
    near = found.results.neighbor_ids.codes[:, : min(_NEIGHBORS, ledger.k)]
    queries = fetch(query_pictures, [ledger.query_ids[q] for q in [*chosen, *sum(decided.values(), [])]])
    items = fetch(pictures, [ledger.item_names[item] for item in [*decided, *near[chosen].ravel().tolist()]])
    ranks = [f"neighbour {rank}" for rank in range(1, near.shape[1] + 1)]
    errors = [
        [_query(ledger, query, queries, f"taken for {display_name(ledger.label_names[ledger.winners[query]])}"),
         *_neighbors(found, ledger, query, items)]
        for query in chosen
    ]  # fmt: skip
    worst = [
        [_item(ledger, item, items), *(_query(ledger, query, queries) for query in some)]
        for item, some in decided.items()
    ]
    sections = [Section(["error", *ranks], errors), Section(["item", "right without it"], worst)]
    return draw_gallery(*sections, title=f"{readable(found.name)}: errors, and items that decide most")


def _query(ledger: VoteLedger, query: int, pictures: dict[str, bytes], *said: str) -> Tile:
    name = ledger.query_ids[query]
    return Tile(name, (", ".join(map(display_name, sorted(ledger.truths[query]))), *said), pictures.get(name), INK)


def _neighbors(found: Neighborhoods, ledger: VoteLedger, query: int, pictures: dict[str, bytes]) -> list[Tile]:
    """Return the nearest neighbours with their part of the vote, in blue where their label is right."""
    results, tiles = found.results, []
    near = np.s_[query : query + 1, : ledger.k]
    weights = neighbor_weights(results.neighbor_distances[near], ledger.method, factors=results.factors(near))[0]
    names, labels = results.neighbor_ids.of(query), results.neighbor_labels.of(query)
    for rank in range(min(_NEIGHBORS, ledger.k)):
        edge = BLUE if labels[rank] in ledger.truths[query] else ORANGE
        lines = (display_name(labels[rank]), f"{100 * weights[rank] / weights.sum():.0f} % of the vote")
        tiles.append(Tile(names[rank], lines, pictures.get(names[rank]), edge))
    return tiles


def _item(ledger: VoteLedger, item: int, pictures: dict[str, bytes]) -> Tile:
    name = ledger.item_names[item]
    lines = (display_name(ledger.label_of(item)), f"decides {counted(int(ledger.caused[item]), 'error')}")
    return Tile(name, lines, pictures.get(name), ORANGE)
