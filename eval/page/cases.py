"""What a page shows of some queries beside their columns, in the manner of the paper's Figures 5 and 6."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Int

from eval.log_reader import lines_at
from eval.page.listing import FIRST_RIGHT, SECOND_RIGHT, Words
from eval.page.pictures import Pictures
from eval.page.prompting import Recomposer
from eval.page.text import one_line, some_lines
from eval.types import QueryResults
from retrieval.memory import VisualMemory
from retrieval.types import Neighbor, Votes
from retrieval.voting import count_votes

SHOWN_NEIGHBORS: Final = 10
SHOWN_VOTES: Final = 5
_TOGETHER: Final = 20  # queries whose neighbours' pictures are read at once
_FLIPS, _ERRORS, _RIGHT = 0.4, 0.4, 0.2  # parts of the pictured queries, where there are enough of each
SAME_LABEL: Final = 1  # bits of a neighbour's flags
EVIDENCE: Final = 2


@dataclass(frozen=True, slots=True)
class Source:
    """Where a run's texts and pictures are found again; whatever is missing is left out of the page."""

    folder: Path  # of the run
    memory: VisualMemory | None
    recomposer: Recomposer | None
    words: Words
    pictures: Pictures

    def neighbor_picture(self, item: str, stored: Mapping[str, bytes | None]) -> int:
        """Return the number of a neighbour's picture."""
        return self.pictures.neighbor(stored.get(item), (self.memory.path if self.memory else None, item))


def share_out(pictured: int, groups: int) -> list[int]:
    """Return how many pictured queries each of some groups gets; what is left over goes to the first ones."""
    return [pictured // groups + (place < pictured % groups) for place in range(groups)]


def choose_pictured(flags: Int[np.ndarray, " queries"], count: int, *, second_look: bool) -> list[int]:
    """Return the rows of some queries, in order: flips and errors first, some right ones, drawn with a fixed seed."""
    first, second = (flags & FIRST_RIGHT) > 0, (flags & SECOND_RIGHT) > 0
    flipped = (first != second) & second_look
    final = second if second_look else first
    pools = [np.flatnonzero(mask).tolist() for mask in (flipped, ~final & ~flipped, final & ~flipped)]
    draw = random.Random(0)
    for pool in pools:
        draw.shuffle(pool)
    quotas = [round(part * count) for part in (_FLIPS, _ERRORS, _RIGHT)]
    chosen = [row for pool, quota in zip(pools, quotas, strict=True) for row in pool[:quota]]
    rest = [row for pool, quota in zip(pools, quotas, strict=True) for row in pool[quota:]]
    return sorted((chosen + rest)[:count])


def make_views(
    source: Source, results: QueryResults, rows: Sequence[int], *, second_look: bool = True
) -> Iterator[dict[str, Any]]:
    """Yield, for some queries, what a run saw: neighbours, votes, and of the second look prompt and replies.

    Raises:
        RunError: the run's log is not the one of these results.
        NotAMemory: the memory is damaged.
    """
    for start in range(0, len(rows), _TOGETHER):
        some = list(rows[start : start + _TOGETHER])
        records = records_of(source.folder, results, some) if second_look else [{}] * len(some)
        codes, distances = results.neighbor_labels.codes[some], results.neighbor_distances[some]
        votes = count_votes(codes, distances, factors=results.factors(some))
        stored = _stored_pictures(source.memory, results, some)
        for row, record, vote in zip(some, records, votes, strict=True):
            near, named = neighbors_of(results, row), named_votes(vote, results)
            seen = _view(source, near, results.truths[row], named, record.get("evidence", ()), stored)
            yield seen | _conversation(source, near, named, record, stored)


def _conversation(
    source: Source,
    near: Sequence[Neighbor],
    votes: Votes,
    record: Mapping[str, Any],
    stored: Mapping[str, bytes | None],
) -> dict[str, Any]:
    if not record.get("replies"):
        return {}
    replies = [[some_lines(reply["text"]), reply_origin(reply)] for reply in record["replies"]]
    if source.recomposer is None or source.memory is None:  # which tells the neighbours that were shown with a picture
        return {"replies": replies}
    return {"replies": replies, "prompt": some_lines(source.recomposer.prompt(near, votes, stored))}


def _view(
    source: Source,
    near: Sequence[Neighbor],
    truth: frozenset[str],
    votes: Votes,
    evidence: Sequence[str],
    stored: Mapping[str, bytes | None],
) -> dict[str, Any]:
    """Return the nearest neighbours, and those farther away that the model names as its evidence in the last places."""
    named = set(evidence)
    far = [rank for rank, n in enumerate(near) if rank >= SHOWN_NEIGHBORS and n.id in named][:SHOWN_NEIGHBORS]
    ranks = [*range(min(len(near), SHOWN_NEIGHBORS - len(far))), *far]
    shown = [
        [
            rank + 1,
            source.neighbor_picture(near[rank].id, stored),
            source.words.label(near[rank].label),
            round(near[rank].distance, 3),
            SAME_LABEL * (near[rank].label in truth) + EVIDENCE * (near[rank].id in named),
        ]
        for rank in ranks
    ]
    percents = list(zip(votes.labels, votes.percents, strict=True))[:SHOWN_VOTES]
    return {"near": shown, "votes": [[source.words.label(label), percent] for label, percent in percents]}


def records_of(folder: Path, results: QueryResults, rows: Sequence[int]) -> list[Mapping[str, Any]]:
    """Return what the log holds of the second look at some queries."""
    if results.outcomes is None or not len(results.places):
        return [{}] * len(rows)
    return [line.get("rerank", {}) for line in lines_at(folder, [results.places[row] for row in rows])]


def _stored_pictures(
    memory: VisualMemory | None, results: QueryResults, rows: Sequence[int]
) -> dict[str, bytes | None]:
    if memory is None:
        return {}
    codes = np.unique(results.neighbor_ids.codes[list(rows)])
    ids = [results.neighbor_ids.names[code] for code in codes.tolist()]
    return dict(zip(ids, memory.thumbnails(ids), strict=True))


def neighbors_of(results: QueryResults, row: int) -> tuple[Neighbor, ...]:
    """Return the neighbours of a query, nearest first."""
    factors = results.factors(row)
    found = zip(
        results.neighbor_ids.of(row),
        results.neighbor_labels.of(row),
        results.neighbor_distances[row].tolist(),
        [1.0] * results.k if factors is None else factors.tolist(),
        strict=True,
    )
    return tuple(Neighbor(item, label, distance, -1, factor) for item, label, distance, factor in found)


def named_votes(votes: Votes, results: QueryResults) -> Votes:
    """Return votes for labels in place of those for their numbers."""
    return Votes(tuple(results.neighbor_labels.names[code] for code in votes.labels), votes.weights)


def reply_origin(reply: Mapping[str, Any]) -> str:
    """Return who gave a reply, from its record in a log."""
    told = [one_line(reply.get("served_by") or ""), "from the cache" if reply.get("from_cache") else ""]
    return ", ".join(filter(None, told))
