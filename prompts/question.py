"""What the first stage leaves for the second: a query's neighbours, their vote, and which of them to show."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float

from prompts.catalogue import Template
from prompts.render import balance, compose_prompt, query_picture
from prompts.types import Prompt
from retrieval.centring import CentredMemory
from retrieval.images import ImageLike, decode
from retrieval.types import Neighbor, Votes
from retrieval.view import MemoryView
from retrieval.voting import count_votes

_WIDER: Final = 10  # times k neighbours are looked through for those of rare candidates


@dataclass(frozen=True, slots=True)
class Question:
    """A query after the first stage."""

    image: ImageLike
    neighbors: tuple[Neighbor, ...]  # those that voted, nearest first
    votes: Votes
    shown: tuple[Neighbor, ...]  # those that a prompt shows

    def prompt(
        self, template: Template, memory: MemoryView, *, order: int | None = None
    ) -> tuple[Prompt, tuple[Neighbor, ...]]:
        """Return the prompt, and the neighbours in the order it shows them; see `compose_prompt`.

        Raises:
            UnknownPrompt: the template has an error.
            ImageError: the query's picture cannot be used.
        """
        picture = query_picture(decode(self.image))
        return compose_prompt(template, picture, memory, self.shown, self.votes, order=order)


def pose_questions(
    memory: MemoryView | CentredMemory,
    images: list[ImageLike],
    vectors: Float[np.ndarray, "queries dimension"],
    *,
    k: int,
    voting: str,
    template: Template | None,
) -> Iterator[Question]:
    """Search and vote for a batch of embedded queries.

    Args:
        memory: where the neighbours come from.
        images: the queries.
        vectors: their embeddings.
        k: how many neighbours vote, and at most are shown.
        voting: how they vote.
        template: the prompt that will ask; one that is balanced takes its neighbours from ten times as many.
    """
    wider = template is not None and template.neighbors == "balanced"
    found = memory.search_vectors(vectors, k=min(_WIDER * k, memory.findable) if wider else k)
    voters = found.nearest(k)
    votes_of = count_votes(voters.labels, voters.distances, method=voting, factors=voters.reliabilities)
    for image, near, votes, far in zip(images, voters, votes_of, found, strict=True):
        yield Question(image, near, votes, balance(far, votes.labels, count=k) if wider else near)
