"""A prediction as HTML for notebooks: the decision, its reasons, and with the memory at hand its pictures."""

from collections.abc import Sequence
from typing import Final

from markupsafe import Markup

from agent.types import Prediction
from retrieval.images import ImageLike, decode, thumbnail
from retrieval.support.html import (
    EVIDENCE,
    NEIGHBOR_COLUMNS,
    SHOWN_NEIGHBORS,
    TILE_PIXELS,
    Shown,
    grid,
    label_words,
    more,
    neighbor_row,
    picture_tile,
    table,
    text_line,
    votes_table,
    words,
)
from retrieval.types import Neighbor
from retrieval.view import MemoryView

_BEYOND: Final = "beyond k"  # of neighbours that a prompt showed and that did not vote
_QUERY_PIXELS: Final = TILE_PIXELS * 3 // 2


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
    shown = _shown(prediction, most)
    pictures = memory.thumbnails([one.id for _, one in shown], rows=[one.row for _, one in shown])
    named = {neighbor.id for neighbor in prediction.evidence}
    tiles = [
        picture_tile(
            picture,
            [
                label_words(one.label),
                f"{rank if rank == _BEYOND else f'rank {rank}'}, {one.distance:.3f}",
                *([EVIDENCE] if one.id in named else []),
            ],
            marked=one.id in named,
        )
        for (rank, one), picture in zip(shown, pictures, strict=True)
    ]
    if query is not None:
        encoded = thumbnail(decode(query), longest_side=_QUERY_PIXELS)
        tiles.insert(
            0,
            picture_tile(
                encoded, ["the query", Markup("answer: {}").format(_answer(prediction))], pixels=_QUERY_PIXELS
            ),
        )
    return Shown(_decision(prediction) + grid(tiles) + _hidden(prediction, shown) + votes_table(prediction.votes))


def prediction_html(prediction: Prediction) -> str:
    """Return a prediction without pictures: decision, votes, and the nearest neighbours as rows."""
    shown, named = _shown(prediction, SHOWN_NEIGHBORS), {neighbor.id for neighbor in prediction.evidence}
    rows = [(*neighbor_row(rank, one), EVIDENCE if one.id in named else "") for rank, one in shown]
    neighbors = (
        table([*NEIGHBOR_COLUMNS, "evidence"], rows) if named else table(NEIGHBOR_COLUMNS, [r[:4] for r in rows])
    )
    return str(_decision(prediction) + votes_table(prediction.votes) + neighbors + _hidden(prediction, shown))


def _shown(prediction: Prediction, most: int) -> list[tuple[int | str, Neighbor]]:
    """Return the model's evidence and the nearest others, nearest first, with their ranks.

    A prompt may show neighbours from beyond those that voted; they have no rank.
    """
    ranks = {neighbor.id: rank for rank, neighbor in enumerate(prediction.neighbors, 1)}
    named = {neighbor.id: neighbor for neighbor in prediction.evidence[:most]}
    others = [neighbor for neighbor in prediction.neighbors if neighbor.id not in named][: most - len(named)]
    nearest = sorted([*others, *named.values()], key=lambda neighbor: neighbor.distance)
    return [(ranks.get(neighbor.id, _BEYOND), neighbor) for neighbor in nearest]


def _hidden(prediction: Prediction, shown: Sequence[tuple[int | str, Neighbor]]) -> Markup:
    return more(len(prediction.neighbors) - sum(rank != _BEYOND for rank, _ in shown), "neighbour")


def _decision(prediction: Prediction) -> Markup:
    by = "the model" if prediction.source == "rerank" else "the vote"
    lines = [Markup('<div style="margin:8px 0 2px">{}, says {}</div>').format(_answer(prediction), by)]
    lines.append(text_line(prediction.reason))
    if prediction.confidence is not None:
        lines.append(text_line(f"confidence {prediction.confidence:.2f}"))
    if len(prediction.ranking) > 1:
        lines.append(_ranking(prediction.ranking))
    return Markup("").join(lines)


def _answer(prediction: Prediction) -> Markup:
    return Markup("<b>{}</b>").format(label_words(prediction.label))


def _ranking(labels: Sequence[object]) -> Markup:
    listed = Markup(", ").join(map(label_words, labels[:SHOWN_NEIGHBORS]))
    return Markup("<div>{}: {}</div>").format(words("the model's ranking"), listed)
