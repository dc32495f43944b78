"""What a model would be asked: prompts for a picture, or for pictures that stand in, without asking."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from PIL import Image

from agent.classify import Stages
from agent.settings import Settings
from prompts.render import QUERY_PIXELS, Exemplar, render
from prompts.template import Template
from prompts.types import Prompt
from retrieval.errors import InvalidArgument
from retrieval.images import ImageLike, thumbnail
from retrieval.memory import THUMBNAIL_PIXELS
from retrieval.view import MemoryView

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
    settings = Settings(k=k, voting=voting).checked()
    vectors = memory.embed([image])
    rendered = []
    for template in templates:
        (question,) = Stages(memory, settings, template).questions([image], vectors)
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
