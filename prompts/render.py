"""Query and neighbours to a prompt.

Labels are untrusted: they enter as JSON strings, cut to a length, and pictures are put in place by position, never by
anything that a label could spell.
"""

import json
import math
import random
import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count, zip_longest
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from PIL import Image

from prompts.mosaic import Sheet, Tile, caption_lines, draw_sheets, tile_pixels
from prompts.template import Template
from prompts.types import MOST_CODES, NONE_CODE, ImagePart, Part, Prompt, TextPart, UnknownPrompt
from retrieval.images import thumbnail
from retrieval.labels import display_name
from retrieval.support.terminal import breaks_a_line
from retrieval.types import Label, Neighbor, Votes
from retrieval.version import Snapshot
from retrieval.view import MemoryView

if TYPE_CHECKING:
    import jinja2

_LONGEST_LABEL: Final = 200  # characters; longer ones are cut in the prompt, not in the answer
_NO_PICTURE: Final = "(no picture is kept of this neighbour)"
QUERY_PIXELS: Final = 384  # longest side of the query as sent: Gemini counts a picture up to 384 px as one tile


@dataclass(frozen=True, slots=True)
class Exemplar:
    """A neighbour as the model sees it."""

    label: Label
    picture: bytes | None  # JPEG; None when the memory keeps none
    distance: float = math.nan  # cosine distance from the query, where a template tells it


def compose_prompt(
    template: Template,
    query: bytes,
    memory: MemoryView,
    neighbors: Sequence[Neighbor],
    votes: Votes,
    *,
    order: int | None = None,
) -> tuple[Prompt, tuple[Neighbor, ...]]:
    """Return the prompt for a query, and the neighbours in the order it shows them.

    The candidates are the labels voted for, at most as many as a schema takes, or all of the memory's, by name.

    Args:
        template: what to ask.
        query: the query's picture as `query_picture` makes it.
        memory: where the neighbours' thumbnails lie.
        neighbors: those to show, nearest first.
        votes: of the first stage.
        order: seed of a random order of neighbours and candidates; None keeps the nearest and the heaviest first.

    Raises:
        UnknownPrompt: the template has an error.
    """
    shown = [] if template.neighbors == "none" else list(neighbors)
    labels = _classes(memory) if template.candidates == "all" else list(votes.labels[:MOST_CODES])
    if order is not None:
        for sequence in (shown, labels):
            random.Random(order).shuffle(sequence)
    pictures: list[bytes | None] = [None] * len(shown)
    if template.shows_thumbnails:
        pictures = memory.thumbnails([n.id for n in shown], rows=[n.row for n in shown])
    exemplars = [Exemplar(n.label, small, n.distance) for n, small in zip(shown, pictures, strict=True)]
    share_of = dict(zip(votes.labels, votes.shares, strict=True))
    candidates = {label: share_of.get(label, 0.0) for label in labels}
    return render(template, query, exemplars, candidates, shuffled=order is not None), tuple(shown)


_CLASSES_OF: Final[WeakKeyDictionary[Snapshot, tuple[Label, ...]]] = WeakKeyDictionary()


def _classes(memory: MemoryView) -> list[Label]:
    """Return all labels of a memory by name, which says nothing about how often they occur."""
    snapshot = memory.snapshot()
    if snapshot not in _CLASSES_OF:  # counted once a version: each count reads a column of the whole table
        _CLASSES_OF[snapshot] = tuple(sorted(snapshot.label_counts(), key=lambda label: (display_name(label), label)))
    return list(_CLASSES_OF[snapshot])


def query_picture(query: Image.Image) -> bytes:
    """Return a decoded query as it is sent: JPEG of 384 pixels at most, without metadata."""
    return thumbnail(query, longest_side=QUERY_PIXELS)


def balance(neighbors: Sequence[Neighbor], labels: Sequence[Label], *, count: int) -> tuple[Neighbor, ...]:
    """Return at most ``count`` neighbours, taking the nearest of each label in turn, nearest first in the end."""
    of_label: dict[Label, list[Neighbor]] = {label: [] for label in labels}
    for neighbor in neighbors:
        if neighbor.label in of_label:
            of_label[neighbor.label].append(neighbor)
    turns = zip_longest(*of_label.values())
    taken = [neighbor for turn in turns for neighbor in turn if neighbor is not None][:count]
    return tuple(sorted(taken, key=lambda neighbor: neighbor.distance))


def render(
    template: Template,
    query: bytes,
    exemplars: Sequence[Exemplar],
    candidates: Mapping[Label, float],
    *,
    shuffled: bool = False,
) -> Prompt:
    """Return the prompt for a query's JPEG bytes.

    Args:
        template: what to ask.
        query: the picture in question.
        exemplars: its neighbours, in the order to show them.
        candidates: the labels that may be answered, each with its share of the vote.
        shuffled: whether that order means nothing.

    Raises:
        UnknownPrompt: the template has an error.
    """
    pictures: list[ImagePart] = []
    nonce = secrets.token_hex(8)  # a label cannot guess it, so it cannot pass for a picture

    def slot(picture: ImagePart | None) -> str:
        if picture is None:
            return _NO_PICTURE
        pictures.append(picture)
        return f"\n{nonce}:{len(pictures) - 1}\n"

    coded = dict(zip(_codes(), candidates, strict=False))
    names = _names([*candidates, *(exemplar.label for exemplar in exemplars)])
    sheets, on_sheet = _drawn(template, exemplars, names)
    alone = (None if sheets or e.picture is None else ImagePart(e.picture) for e in exemplars)
    try:
        text = _compiled(template.body).render(
            neighbors=[
                {
                    "number": number,
                    "label": names[e.label],
                    "distance": f"{e.distance:.3f}",
                    "picture": slot(picture),
                    "on_sheet": on_sheet(names[e.label]),
                }
                for number, (e, picture) in enumerate(zip(exemplars, alone, strict=True), 1)
            ],
            sheets=[{"first": s.first, "last": s.last, "picture": slot(s.picture)} for s in sheets],
            candidates={code: names[label] for code, label in coded.items()},
            shares={code: f"{candidates[label]:.0%}" for code, label in coded.items()},
            none_code=NONE_CODE,
            shuffled=shuffled,
            query=slot(ImagePart(query)),
        )
    except Exception as error:  # a template can divide by zero as well as any program
        raise UnknownPrompt(f"the prompt {template.name} has an error: {str(error) or type(error).__name__}") from error
    parts = tuple(_parts(text, nonce, pictures))
    if pictures[-1] not in parts:
        raise UnknownPrompt(f"the prompt {template.name} never shows the query: put {{{{ query }}}} into it")
    return Prompt(template.name, parts, coded, template.digest, template.answer)


def _drawn(
    template: Template, exemplars: Sequence[Exemplar], names: Mapping[Label, Label]
) -> tuple[list[Sheet], Callable[[Label], bool]]:
    """Return a mosaic's sheets, and what tells whether a label can be read on them."""
    layout, labelled = template.sheet, template.labels == "tiles"
    tiles = [Tile(str(names[e.label]), e.picture) for e in exemplars]
    sheets = draw_sheets(tiles, layout, labels=labelled) if layout else []
    if not layout or not sheets or not labelled:
        return sheets, lambda name: False
    width = tile_pixels(layout, labels=True)
    return sheets, lambda name: bool(caption_lines(str(name), width))


@lru_cache(maxsize=32)
def _compiled(body: str) -> "jinja2.Template":
    # Compiling takes milliseconds, and a batch asks the same thing fifty thousand times.
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters["quoted"] = quoted
    return environment.from_string(body)


def quoted(label: Label) -> str:
    """Return a label as one JSON string on one line, without control or bidirectional characters, cut to length."""
    text = str(label)
    cut = text[:_LONGEST_LABEL] + ("…" if len(text) > _LONGEST_LABEL else "")
    return json.dumps("".join(" " if breaks_a_line(c) else c for c in cut), ensure_ascii=False)


def _names(labels: Sequence[Label]) -> dict[Label, Label]:
    """Return what the model reads for each label; one whose name another label has too keeps its own text."""
    names = {label: display_name(label) if isinstance(label, str) else label for label in labels}
    times = Counter(map(str, names.values()))
    return {label: name if times[str(name)] == 1 else label for label, name in names.items()}


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
