"""The pages of a memory: its classes and their pictures, and its versions."""

from collections.abc import Mapping
from functools import partial
from typing import Final

import numpy as np
from fastapi import Request
from nicegui import ui

from agent.card import label_text
from eval.app import map_page
from eval.app.context import Jobs, ServeContext
from eval.app.frame import Paging, WorkPanel, address, draw
from eval.app.items import draw_with_items, item_tiles, memory_frame
from retrieval.curation.duplicates import DISTANCE, Duplicates, Twin, find_duplicates
from retrieval.curation.pruning import Pruning
from retrieval.labels import display_name
from retrieval.support.terminal import counted

_CLASSES: Final = 50  # on a page
_PICTURES: Final = 60
_PAIRS: Final = 20
_WORST: Final = 60
_VERSIONS: Final = 100  # the latest; `vmem memory history` lists all
SORTED_BY: Final = ("items", "class")


def register(context: ServeContext) -> None:
    """Register the pages."""
    jobs = Jobs()
    map_page.register(context, jobs)

    @ui.page("/memory")
    def _classes(request: Request) -> None:
        with memory_frame(context, "Memory", here="/memory"):
            _draw_classes(context, request.query_params)

    @ui.page("/memory/class")
    def _class(request: Request) -> None:
        label = request.query_params.get("label", "")
        with memory_frame(context, label_text(label), here="/memory/class"):
            _draw_class(context, label, request.query_params)

    @ui.page("/memory/versions")
    def _versions() -> None:
        with memory_frame(context, "Versions", here="/memory/versions"):
            _draw_versions(context)

    @ui.page("/memory/twins")
    def _twins(request: Request) -> None:
        asked = dict(request.query_params)
        with memory_frame(context, "Near duplicates", here="/memory/twins"):
            WorkPanel(
                jobs,
                "twins",
                context.memory.snapshot().version,
                lambda: find_duplicates(context.memory, progress=False),
                lambda found: _draw_twins(context, found, asked),
                offer="Look for near duplicates",
                about=f"Each picture is compared with its nearest ones; those up to a distance of {DISTANCE:g} are"
                " twins. That takes seconds for thousands of pictures, and minutes for a million.",
            )

    @ui.page("/memory/worst")
    def _worst() -> None:
        with memory_frame(context, "Worst items", here="/memory/worst"):
            WorkPanel(
                jobs,
                "worst",
                context.memory.snapshot().version,
                lambda: context.memory.prune(dry_run=True, progress=False),
                partial(_draw_worst, context),
                offer="Ask about every item",
                about="Every picture is asked about with its nearest others (section 3.6 of the paper): a neighbour of"
                " the same label helps, another one hurts. That takes seconds for thousands of pictures, and minutes"
                " for a million.",
            )


def filter_classes(counts: Mapping[str, int], *, text: str, by: str, ascending: bool) -> list[tuple[str, int]]:
    """Return the labels in which, or in whose names, a text stands, with how many items each has, sorted.

    Args:
        counts: of every label.
        text: to be found; case does not count.
        by: one of `SORTED_BY`; anything else counts as the first.
        ascending: whether the least comes first.
    """
    wanted = text.casefold()
    found = [pair for pair in counts.items() if wanted in f"{pair[0]}\n{display_name(pair[0])}".casefold()]
    found.sort(key=lambda pair: display_name(pair[0]).casefold())
    if by != "class":
        found.sort(key=lambda pair: pair[1] if ascending else -pair[1])
        return found
    return found if ascending else found[::-1]


def _draw_classes(context: ServeContext, asked: Mapping[str, str]) -> None:
    snapshot = context.memory.snapshot()
    counts, settings = snapshot.label_counts(), context.memory.settings
    text, by = asked.get("text", "").strip(), asked.get("by", SORTED_BY[0])
    ascending = asked.get("order", "up" if by == "class" else "down") == "up"
    found = filter_classes(counts, text=text, by=by, ascending=ascending)
    paging = Paging.of(asked, size=_CLASSES, total=len(found))
    draw(
        "memory",
        "classes",
        said=f"{counted(len(snapshot), 'item')} in {counted(len(counts), 'class')}; embedded by"
        f" {settings.embedder.name}, {settings.embedder.dimension} dimensions",
        text=text,
        found=len(found),
        total=len(counts),
        shown=[(label, items, f"{100 * items / max(len(snapshot), 1):.1f} %") for label, items in found[paging.shown]],
        sorted={name: _sorting(name, text, by, ascending) for name in ("class", "items")},
        paging=paging,
        parameters=_sorted_by(text, by, ascending),
    )


def _sorting(name: str, text: str, by: str, ascending: bool) -> dict[str, str]:
    """Return how a table is sorted by a column, and the address that sorts it so, or the other way round."""
    turned = (not ascending) if name == by else name == "class"
    order = ("ascending" if ascending else "descending") if name == by else ""
    return {"order": order, "address": address("/memory", _sorted_by(text, name, turned))}


def _sorted_by(text: str, by: str, ascending: bool) -> dict[str, object]:
    return {"text": text, "by": by, "order": "up" if ascending else "down"}


def _draw_class(context: ServeContext, label: str, asked: Mapping[str, str]) -> None:
    snapshot = context.memory.snapshot()
    rows = np.flatnonzero(snapshot.labels == label)
    paging = Paging.of(asked, size=_PICTURES, total=len(rows))
    items = item_tiles(context, [(item, label, ()) for item in snapshot.ids[rows[paging.shown]].tolist()])
    draw_with_items(context, "one_class", label=label, total=len(rows), shown=items, paging=paging)


def _draw_versions(context: ServeContext) -> None:
    rows = [
        (
            str(version.number),
            f"{version.when:%Y-%m-%d %H:%M:%S}",
            version.deed,
            f"{version.items:,}",
            "" if version.change is None else f"{version.change:+,}",
            ", ".join(version.tags),
        )
        for version in context.memory.commands(limit=_VERSIONS)
    ]
    draw("memory", "versions", rows=rows)


def _draw_twins(context: ServeContext, found: Duplicates, asked: Mapping[str, str]) -> None:
    labels = asked.get("labels", "")
    wanted = {"differ": (False,), "same": (True,)}.get(labels, (False, True))
    chosen = [twin for twin in found.twins if twin.same_label in wanted]
    differing = sum(not twin.same_label for twin in found.twins)
    paging = Paging.of(asked, size=_PAIRS, total=len(chosen))
    shown = chosen[paging.shown]
    sides = [((twin.id, twin.label), (twin.twin_id, twin.twin_label)) for twin in shown]
    tiles = item_tiles(context, [(item, label, [label_text(label)]) for pair in sides for item, label in pair])
    pairs = zip(tiles[::2], tiles[1::2], strict=True)
    draw_with_items(
        context,
        "twins",
        said=f"{len(chosen):,} of {counted(len(found.twins), 'pair')}, {differing:,} under different labels, among"
        f" {counted(found.items, 'picture')}; {found.surplus:,} could go with one of each group left",
        labels=labels,
        shown=list(zip(map(_describe, shown), (t.same_label for t in shown), pairs, strict=True)),
        paging=paging,
    )


def _describe(twin: Twin) -> str:
    said = "the same content" if twin.exact else f"distance {twin.distance:.4f}"
    return said + ("" if twin.same_label else ", different labels")


def _draw_worst(context: ServeContext, found: Pruning) -> None:
    worst = found.worst(_WORST)
    hurting = int((found.ledger.hurt > 0).sum())
    items = [
        (
            one.id,
            one.label,
            (
                label_text(one.label),
                f"hurts {one.hurt:,}, helps {one.helped:,}",
                f"soft pruning: counts {one.reliability:.2f}",
            ),
        )
        for one in worst
    ]
    draw_with_items(
        context,
        "worst",
        said=f"{hurting:,} of {counted(len(found.ids), 'item')} hurt others at least once, among {found.neighbors}"
        f" neighbours each; the {len(worst)} that do most often",
        pruning=f"Soft pruning: {found.in_words}; it would touch {counted(found.touched, 'item')}.",
        shown=item_tiles(context, items),
    )
