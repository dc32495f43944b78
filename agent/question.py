"""What the first stage leaves for the second: a query's neighbours, their vote, and which of them to show."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from jaxtyping import Float
from PIL import Image

from prompts.render import QUERY_PIXELS, Exemplar, balance, compose_prompt, query_picture, render
from prompts.template import Template
from prompts.types import Prompt
from retrieval.centring import CentredMemory
from retrieval.errors import InvalidArgument
from retrieval.images import ImageLike, decode, thumbnail
from retrieval.memory import THUMBNAIL_PIXELS
from retrieval.types import Neighbor, Votes
from retrieval.view import MemoryView
from retrieval.voting import check_method, count_votes

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


_MOST: Final = 100_000  # ten times what fits into the widest window: 258 tokens a picture, two million tokens


def render_prompts(
    templates: Sequence[Template], image: ImageLike, memory: MemoryView, *, k: int, voting: str
) -> list[Prompt]:
    """Return what each template would send for a query.

    Args:
        templates: what to ask.
        image: the query.
        memory: where the neighbours come from.
        k: how many neighbours vote.
        voting: how they vote.

    Raises:
        InvalidArgument: an unknown voting method, or an empty memory.
        UnknownPrompt: a template has an error.
        ImageError: the picture cannot be used.
        EmbedderError: the memory's embedder cannot be had.
    """
    check_method(voting)
    vectors = memory.embed([image])
    rendered = []
    for template in templates:
        (question,) = pose_questions(memory, [image], vectors, k=k, voting=voting, template=template)
        rendered.append(question.prompt(template, memory)[0])
    return rendered


def stand_in(template: Template, *, neighbors: int, classes: int) -> Prompt:
    """Return a prompt of grey pictures as large as those of a memory would be, and of classes "class 1", "class 2"….

    Raises:
        InvalidArgument: more neighbours or classes than any model takes, and than fit into memory.
        UnknownPrompt: the template has an error.
    """
    if max(neighbors, classes) > _MOST:
        raise InvalidArgument(f"{neighbors:,} neighbours and {classes:,} classes: at most {_MOST:,} of each expected")
    labels = [f"class {number}" for number in range(1, classes + 1)]
    picture = _grey(THUMBNAIL_PIXELS) if template.shows_thumbnails else None
    shown = 0 if template.neighbors == "none" else neighbors
    exemplars = [Exemplar(labels[number % classes], picture, 0.5) for number in range(shown)]
    candidates = labels if template.candidates == "all" else labels[:neighbors]
    return render(template, _grey(QUERY_PIXELS), exemplars, dict.fromkeys(candidates, 1 / len(candidates)))


@lru_cache(maxsize=2)
def _grey(side: int) -> bytes:
    return thumbnail(Image.new("RGB", (side, side), "grey"), longest_side=side)
