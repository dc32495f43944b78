"""Query and neighbours to a prompt.

Labels are untrusted: they enter as JSON strings, cut to a length, and pictures are put in place by position, never by
anything that a label could spell.
"""

import json
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final

from PIL import Image

from prompts.catalogue import Template
from prompts.errors import UnknownPrompt
from prompts.types import ImagePart, Part, Prompt, TextPart
from retrieval.images import thumbnail
from retrieval.memory import VisualMemory
from retrieval.terminal import breaks_a_line
from retrieval.types import Label, Neighbor, Votes

_LONGEST_LABEL: Final = 200  # characters; longer ones are cut in the prompt, not in the answer
_NO_PICTURE: Final = "(no picture is kept of this neighbour)"


QUERY_PIXELS: Final = 384  # longest side of the query as sent: Gemini counts a picture up to 384 px as one tile


@dataclass(frozen=True, slots=True)
class Exemplar:
    """A neighbour as the model sees it."""

    label: Label
    picture: bytes | None  # JPEG; None when the memory keeps none


def compose_prompt(
    template: Template, query: Image.Image, memory: VisualMemory, neighbors: Sequence[Neighbor], votes: Votes
) -> Prompt:
    """Return the prompt for a decoded query: its neighbours with their thumbnails, the voted labels as candidates.

    Raises:
        UnknownPrompt: the template has an error.
    """
    pictures = memory.thumbnails([n.id for n in neighbors], rows=[n.row for n in neighbors])
    exemplars = [Exemplar(n.label, small) for n, small in zip(neighbors, pictures, strict=True)]
    return render(template, thumbnail(query, longest_side=QUERY_PIXELS), exemplars, votes.labels)


def render(template: Template, query: bytes, exemplars: Sequence[Exemplar], candidates: Sequence[Label]) -> Prompt:
    """Return the prompt for a query's JPEG bytes, its neighbours nearest first, and the labels that may be answered.

    Raises:
        UnknownPrompt: the template has an error.
    """
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    pictures: list[ImagePart] = []
    nonce = secrets.token_hex(8)  # a label cannot guess it, so it cannot pass for a picture

    def slot(encoded: bytes | None) -> str:
        if encoded is None:
            return _NO_PICTURE
        pictures.append(ImagePart(encoded))
        return f"\n{nonce}:{len(pictures) - 1}\n"

    coded = dict(zip(_codes(), candidates, strict=False))
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters["quoted"] = quoted
    try:
        text = environment.from_string(template.body).render(
            neighbors=[{"label": e.label, "picture": slot(e.picture)} for e in exemplars],
            candidates=coded,
            query=slot(query),
        )
    except Exception as error:  # a template can divide by zero as well as any program
        raise UnknownPrompt(f"the prompt {template.name} has an error: {error}") from error
    parts = tuple(_parts(text, nonce, pictures))
    if pictures[-1] not in parts:
        raise UnknownPrompt(f"the prompt {template.name} never shows the query: put {{{{ query }}}} into it")
    return Prompt(template.name, parts, coded)


def quoted(label: Label) -> str:
    """Return a label as one JSON string on one line, without control or bidirectional characters, cut to length."""
    text = str(label)
    cut = text[:_LONGEST_LABEL] + ("…" if len(text) > _LONGEST_LABEL else "")
    return json.dumps("".join(" " if breaks_a_line(c) else c for c in cut), ensure_ascii=False)


def _codes() -> Iterator[str]:
    """Yield A, B, …, Z, AA, AB, …: the names of spreadsheet columns."""
    for number in count(1):
        code = ""
        while number:
            number, letter = divmod(number - 1, 26)
            code = chr(ord("A") + letter) + code
        yield code


def _parts(text: str, nonce: str, pictures: list[ImagePart]) -> Iterator[Part]:
    # Splitting by a pattern with a group gives text, number, text, number, …, text.
    for position, piece in enumerate(re.split(rf"{nonce}:(\d+)", text)):
        if position % 2:
            yield pictures[int(piece)]
        elif piece.strip():
            yield TextPart(piece.strip())
