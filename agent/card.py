"""The decision card: a query, its neighbours, their vote, what a model was asked and said, and who decided.

One view model and one template (``card.html.jinja``, with ``card.css``) serve notebooks, reports and the page of
``vmem serve``; the lines of the terminal come from the same model. Untrusted text stays text everywhere: whatever a
template prints is escaped, on one line, and without control or bidirectional characters.
"""

import base64
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from markupsafe import Markup, escape

from agent.types import Prediction
from retrieval.images import ImageLike, decode, shown_picture, thumbnail
from retrieval.labels import display_name, full_name
from retrieval.support.html import EVIDENCE, SHOWN_NEIGHBORS, TILE_PIXELS, Shown
from retrieval.support.terminal import printable
from retrieval.types import Label, Neighbor, Votes
from retrieval.view import MemoryView

if TYPE_CHECKING:
    import jinja2

FOLDER: Final = Path(__file__).parent  # of the card's template and style
_QUERY_PIXELS: Final = TILE_PIXELS * 3 // 2
_QUALITY: Final = 75  # of JPEG: half the bytes of 85, and as good at this size
_SHOWN_VOTES: Final = 8
_LONGEST: Final = 2_000  # characters of a text on one line
_LONGEST_TEXT: Final = 20_000  # of one with several
Address = Markup | int | None  # of a picture: an address, or its number among those of a page; None: there is none


@dataclass(frozen=True, slots=True)
class Near:
    """A neighbour on a card."""

    rank: int | None  # None: from beyond those that voted, as a prompt may show them
    id: str
    label: str
    distance: float  # cosine distance, 0 to 2; infinite where it is not known
    picture: Address = None
    right: bool | None = None  # whether its label is right; None where that is not known
    evidence: str = ""  # said where an answer names it, such as `EVIDENCE`
    link: str = ""  # address of a page about it


@dataclass(frozen=True, slots=True)
class View:
    """What one decision saw of a query, and what a model said."""

    title: str = ""
    votes: tuple[tuple[str, int], ...] = ()  # label and percent, heaviest first
    more_labels: int = 0  # that got votes and are not shown
    neighbors: tuple[Near, ...] = ()
    more_neighbors: int = 0
    prompt: str = ""
    replies: tuple[tuple[str, str], ...] = ()  # text, and where it is from
    unfolded: bool = False  # whether replies are seen at once
    tiles: bool = True  # neighbours as pictures; otherwise as rows of a table


@dataclass(frozen=True, slots=True)
class Card:
    """A query and what was decided."""

    verdict: str
    lines: tuple[str, ...] = ()
    outcome: str = ""  # "right" or "wrong" where that is known
    query: Address = None
    pictured: bool = True  # whether the query has a place on the card, be its picture there or not
    views: tuple[View, ...] = ()


def make_view(
    neighbors: Sequence[Neighbor],
    votes: Votes | None,
    *,
    evidence: Mapping[str, str] | None = None,
    beyond: Sequence[Neighbor] = (),
    truth: Collection[Label] | None = None,
    pictures: Callable[[list[Neighbor]], Sequence[Address]] | None = None,
    most: int = SHOWN_NEIGHBORS,
) -> View:
    """Return votes with the evidence and the nearest other neighbours, nearest first.

    Args:
        neighbors: all that voted, nearest first.
        votes: theirs; None leaves them out.
        evidence: what is said of the neighbours that answers name, by id.
        beyond: neighbours that a prompt showed and that did not vote.
        truth: the right labels, where they are known.
        pictures: gives the addresses of neighbours' pictures; None makes a table of the neighbours.
        most: how many neighbours to show.
    """
    evidence = evidence or {}
    ranks = {neighbor.id: rank for rank, neighbor in enumerate(neighbors, 1)}
    every = [*neighbors, *(one for one in beyond if one.id not in ranks)]
    named = [one for one in every if one.id in evidence][:most]
    others = [one for one in neighbors if one.id not in evidence][: most - len(named)]
    shown = sorted([*others, *named], key=lambda one: one.distance)
    shares = () if votes is None else tuple(zip(map(label_text, votes.labels), votes.percents, strict=True))
    return View(
        votes=shares[:_SHOWN_VOTES],
        more_labels=max(0, len(shares) - _SHOWN_VOTES),
        neighbors=tuple(
            Near(
                ranks.get(one.id),
                one.id,
                one.label,
                float(one.distance),
                picture,
                None if truth is None else one.label in truth,
                evidence.get(one.id, ""),
            )
            for one, picture in zip(shown, pictures(shown) if pictures else [None] * len(shown), strict=True)
        ),
        more_neighbors=len(neighbors) - sum(one.id in ranks for one in shown),
        tiles=pictures is not None,
    )


def prediction_card(prediction: Prediction, *views: View, query: Address = None, pictured: bool = False) -> Card:
    """Return the card of a prediction, with what is to be seen below its decision."""
    by = "the model" if prediction.source == "rerank" else "the vote"
    lines = [prediction.reason]
    if prediction.confidence is not None:
        lines.append(f"confidence {prediction.confidence:.2f}")
    if len(prediction.ranking) > 1:
        lines.append(f"the model's ranking: {', '.join(map(label_text, prediction.ranking[:SHOWN_NEIGHBORS]))}")
    return Card(f"{label_text(prediction.label)}, says {by}", tuple(lines), "", query, pictured, views)


def show(
    prediction: Prediction, memory: MemoryView, query: ImageLike | None = None, *, most: int = SHOWN_NEIGHBORS
) -> Shown:
    """Return a prediction with its pictures, to be looked at in a notebook: the query and the nearest neighbours.

    Neighbours that the model named as its evidence are framed, and shown however far away they are.

    Args:
        prediction: what was decided.
        memory: where the neighbours' thumbnails lie; one that was edited since shows those that it still has.
        query: the picture that was classified; None leaves it out.
        most: how many neighbours to show.

    Raises:
        ImageError: the query cannot be used.
    """
    asked = None if query is None else thumbnail(decode(query), longest_side=_QUERY_PIXELS)
    view = _view(prediction, partial(thumbnail_addresses, memory), most)
    address = picture_address(asked, _QUERY_PIXELS)
    return show_cards([prediction_card(prediction, view, query=address, pictured=query is not None)])


def prediction_html(prediction: Prediction) -> str:
    """Return a prediction without pictures: decision, votes, and the nearest neighbours as rows."""
    return str(show_cards([prediction_card(prediction, _view(prediction, None, SHOWN_NEIGHBORS))]).html)


def _view(prediction: Prediction, pictures: Callable[[list[Neighbor]], Sequence[Address]] | None, most: int) -> View:
    evidence = {neighbor.id: EVIDENCE for neighbor in prediction.evidence}
    near, beyond = prediction.neighbors, prediction.evidence
    return make_view(near, prediction.votes, evidence=evidence, beyond=beyond, pictures=pictures, most=most)


def prediction_lines(prediction: Prediction) -> list[str]:
    """Return a prediction as a terminal shows it: answer, votes, nearest neighbours, evidence, and why."""
    nearest = [f"{printable(near.id)} ({near.distance:.3f})" for near in prediction.neighbors[:3]]
    evidence = [printable(neighbor.id) for neighbor in prediction.evidence[:5]]
    shares = zip(prediction.votes.labels, prediction.votes.percents, strict=True)
    votes = [f"{printable(display_name(label))} {share} %" for label, share in shares]
    return [
        printable(label_text(prediction.label)),
        f"  votes    {', '.join(votes[:4])}",
        f"  nearest  {', '.join(nearest)}",
        *([f"  evidence {', '.join(evidence)}"] if evidence else []),
        f"  {prediction.source:8} {printable(prediction.reason, longest=_LONGEST)}",
    ]


def label_text(label: object) -> str:
    """Return a label on one line, after the name that it is called by where that is another."""
    return printable(full_name(label) if isinstance(label, str) else label)


def thumbnail_addresses(memory: MemoryView, neighbors: Sequence[Neighbor]) -> list[Address]:
    """Return neighbours' thumbnails as addresses; None for those that a memory keeps no picture of, or no longer."""
    ids, rows = [one.id for one in neighbors], [one.row for one in neighbors]
    found = memory.thumbnails(ids, rows=rows if min(rows, default=-1) >= 0 else None)
    return list(map(picture_address, found))


def picture_address(encoded: bytes | None, pixels: int = TILE_PIXELS) -> Address:
    """Return an encoded picture as an address, no larger than a number of pixels; None where it cannot be seen."""
    image = shown_picture(encoded, longest_side=pixels)
    return None if image is None else jpeg_address(thumbnail(image, longest_side=pixels, quality=_QUALITY))


def jpeg_address(jpeg: bytes) -> Markup:
    """Return a JPEG as an address."""
    return Markup("data:image/jpeg;base64," + base64.b64encode(jpeg).decode())


def show_cards(cards: Iterable[Card]) -> Shown:
    """Return cards, to be looked at in a notebook."""
    return Shown(templates(FOLDER).get_template("card.html.jinja").module.shown(list(cards), Markup(card_style())))  # type: ignore[attr-defined]


@lru_cache(maxsize=1)
def card_style() -> str:
    """Return the style sheet of cards."""
    return (FOLDER / "card.css").read_text(encoding="utf-8")


@lru_cache(maxsize=4)
def templates(*folders: Path) -> "jinja2.Environment":
    """Return the templates of some folders and the card's; every text that they print becomes one line of plain text.

    ``text | lines`` keeps its line ends, ``text | line(80)`` cuts it to a length.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, FOLDER]),
        extensions=["jinja2.ext.do"],
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: _line(value, _LONGEST) if isinstance(value, str) else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"line": _line, "lines": some_lines, "label": label_text, "name": display_name}
    return environment


def _line(text: object, longest: int = 200) -> str:
    return text if isinstance(text, Markup) else printable(text, longest=longest)


def some_lines(text: str) -> Markup:
    """Return text as HTML whose line ends stay, and otherwise as on one line, cut to 20,000 characters."""
    cut = text[:_LONGEST_TEXT] + ("…" if len(text) > _LONGEST_TEXT else "")
    lines = (printable(line.rstrip("\r").replace("\t", " "), longest=_LONGEST_TEXT) for line in cut.split("\n"))
    return escape("\n".join(lines))
