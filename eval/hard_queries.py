"""Queries worth a look while a prompt is written: those that the vote gets wrong, and those it is unsure of."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from markupsafe import Markup

from agent.gate import measure_vote
from eval.types import Dataset, Percent, Sample
from eval.wording import counted
from retrieval.display import SHOWN_NEIGHBORS, grid, label_words, line, more, tile
from retrieval.errors import InvalidArgument
from retrieval.images import decode, thumbnail
from retrieval.progress import track
from retrieval.types import Votes
from retrieval.view import DEFAULT_NEIGHBORS, MemoryView
from retrieval.voting import DEFAULT_METHOD, count_votes

Kind = Literal["low margin", "wrong vote", "both"]
KINDS: Final[tuple[Kind, ...]] = ("low margin", "wrong vote", "both")
_QUERY_PIXELS: Final = 120


@dataclass(frozen=True, slots=True)
class HardQuery:
    """A query with its vote."""

    sample: Sample
    votes: Votes

    @property
    def margin(self) -> float:
        """The winner's share of the vote less the second's."""
        return measure_vote(self.votes, "margin")

    @property
    def wrong(self) -> bool:
        """Whether the vote is wrong."""
        return self.votes.winner not in self.sample.labels


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class HardQueries:
    """The queries that were chosen, and from how many."""

    queries: tuple[HardQuery, ...]
    of: int  # queries in the data set that could be used
    vote_top1: Percent  # of the vote on all of these

    @property
    def samples(self) -> list[Sample]:
        """The queries as a data set holds them."""
        return [query.sample for query in self.queries]

    def __repr__(self) -> str:
        wrong = sum(query.wrong for query in self.queries)
        told = f"{len(self.queries):,} of {counted(self.of, 'query')}; the vote is wrong on {wrong:,} of them"
        return f"{told}, and right on {self.vote_top1:.1f} % of all: figures on hard queries say nothing of the others"

    def _repr_html_(self) -> str:
        shown = self.queries[:SHOWN_NEIGHBORS]
        hidden = more(len(self.queries) - len(shown), "query", "queries")
        return str(line(repr(self)) + grid(map(_tile, shown)) + hidden)


def hard_queries(
    memory: MemoryView,
    dataset: Dataset,
    *,
    k: int = DEFAULT_NEIGHBORS,
    count: int = 40,
    kind: Kind = "both",
    voting: str = DEFAULT_METHOD,
    seed: int = 0,
    progress: bool = True,
) -> HardQueries:
    """Return queries of a data set on which the vote is wrong or unsure; pictures that cannot be used are left out.

    Args:
        memory: what votes.
        dataset: the queries, all of which are embedded.
        k: how many neighbours vote.
        count: how many queries to return at most.
        kind: ``wrong vote``: drawn from those that it gets wrong; ``low margin``: those with the least margin;
            ``both``: half of them wrong, as far as there are so many, then those of the others with the least margin.
        voting: how they vote.
        seed: of the draw, and of the order of equal margins.
        progress: whether to show a bar.

    Raises:
        InvalidArgument: k or count below 1, an empty memory, no such kind or way of voting.
        EmbedderError: the memory's embedder cannot be had.
    """
    if kind not in KINDS or count < 1:
        raise InvalidArgument(f"count={count}, kind={kind!r}: 1 or more, and one of {', '.join(KINDS)} expected")
    every = _all_votes(memory, dataset.samples, k=k, voting=voting, progress=progress)
    random.Random(seed).shuffle(every)
    wrong = [query for query in every if query.wrong]
    chosen = {"low margin": 0, "wrong vote": count, "both": -(-count // 2)}[kind]
    first = wrong[:chosen]
    taken = {query.sample.id for query in first}
    rest = [query for query in every if query.sample.id not in taken] if kind != "wrong vote" else []
    unsure = sorted(rest, key=lambda query: query.margin)[: count - len(first)]
    right = 100.0 * (1 - len(wrong) / len(every)) if every else 0.0
    return HardQueries((*first, *unsure), len(every), right)


def _all_votes(
    memory: MemoryView, samples: Sequence[Sample], *, k: int, voting: str, progress: bool
) -> list[HardQuery]:
    shown = track(samples, "Looking for hard queries", total=len(samples), shown=progress)
    found: list[HardQuery] = []
    for batch in memory.embed_stream(shown, image_of=Sample.picture):
        if batch.items:
            near = memory.search_vectors(batch.vectors, k=k)
            votes = count_votes(near.labels, near.distances, method=voting, factors=near.reliabilities)
            found.extend(map(HardQuery, batch.items, votes))
    return found


def _tile(query: HardQuery) -> Markup:
    truth = Markup(", ").join(map(label_words, sorted(query.sample.labels)))
    picture = thumbnail(decode(query.sample.picture()), longest_side=_QUERY_PIXELS)
    lines = [
        Markup("is {}").format(truth),
        Markup("vote: {}{}").format(label_words(query.votes.winner), ", wrong" if query.wrong else ""),
        f"margin {query.margin:.2f}",
    ]
    return tile(picture, lines, pixels=_QUERY_PIXELS)
