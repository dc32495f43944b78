"""Items of a memory, and what a decision hangs on, as pictures for notebooks."""

from collections.abc import Collection, Sequence
from typing import Final

from markupsafe import Markup

from retrieval.curation.attribution import Attribution
from retrieval.display import Shown, grid, label_words, line, more, tile
from retrieval.types import Neighbor
from retrieval.view import MemoryView

_SHOWN: Final = 24
_REMOVED: Final = "✕ taken out"  # in words too, since not everybody tells colours apart


def show_items(memory: MemoryView, ids: Sequence[str], lines: Sequence[str] = ()) -> Shown:
    """Return items of a memory as pictures with their labels, to be looked at in a notebook.

    Args:
        memory: where they lie.
        ids: of the items.
        lines: a line of text below each.
    """
    shown = ids[:_SHOWN]
    texts = [[text] for text in lines[: len(shown)]] or [[]] * len(shown)
    return Shown(grid(item_tiles(memory, shown, texts)) + more(len(ids) - len(shown), "item"))


def show_attribution(memory: MemoryView, neighbors: Sequence[Neighbor], found: Attribution) -> Shown:
    """Return the neighbours that voted with what each does to the winner's lead, and those that turn the vote framed.

    Args:
        memory: where the neighbours' pictures lie.
        neighbors: as `retrieval.curation.attribution.explain` gives them.
        found: what it found.
    """
    removed = found.flip.removed if found.flip else ()
    places = [*range(len(found.effects)), *(place for place in removed if place >= len(found.effects))][:_SHOWN]
    texts = [
        [f"lead {0.0 - 100 * found.effects[place]:+.1f}" if place < len(found.effects) else "did not vote"]
        + [_REMOVED] * (place in removed)
        for place in places
    ]
    ids = [neighbors[place].id for place in places]
    tiles = item_tiles(memory, ids, texts, marked={neighbors[place].id for place in removed})
    return Shown(_lead(found) + grid(tiles) + _turn(found))


def item_tiles(
    memory: MemoryView, ids: Sequence[str], texts: Sequence[Sequence[str]], *, marked: Collection[str] = ()
) -> list[Markup]:
    """Return items as pictures with their labels and some lines of text below each, those that are marked framed."""
    rows = memory.snapshot().rows
    slots = rows.find(list(ids))
    labels = iter(rows.labels(slots[slots >= 0]).tolist())
    named = [label_words(next(labels)) if there else Markup("<i>gone</i>") for there in (slots >= 0).tolist()]
    return [
        tile(picture, [label, *lines], marked=item in marked)
        for item, picture, label, lines in zip(ids, memory.thumbnails(ids), named, texts, strict=True)
    ]


def _lead(found: Attribution) -> Markup:
    told = Markup("<div><b>{}</b> leads by {} % of the vote; below each neighbour: how that changes without it.</div>")
    return told.format(label_words(found.label), f"{100 * found.margin:.1f}")


def _turn(found: Attribution) -> Markup:
    if found.flip is None:
        return line("Taking out any of those that were looked at does not turn the vote.")
    told = Markup("<div>Without those framed ({}) it is <b>{}</b>; no smaller set turns the vote.</div>")
    return told.format(len(found.flip.removed), label_words(found.flip.label))
