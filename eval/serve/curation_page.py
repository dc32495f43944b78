"""The pages of what may be wrong in a memory: near duplicates, and items that mislead others."""

from collections.abc import Mapping
from typing import Final

from fastapi import Request
from nicegui import ui

from eval.serve.browsing import Work, WorkPanel, form, named, one_of, pager, show_button
from eval.serve.context import ServeContext
from eval.serve.items import draw_item, draw_items, memory_frame
from eval.serve.jobs import Jobs
from eval.serve.layout import tag, words
from eval.serve.paging import Paging
from eval.wording import counted
from retrieval.curation.duplicates import DISTANCE, Duplicates, Twin, find_duplicates
from retrieval.curation.prune_memory import Pruning, prune

_PAIRS: Final = 20  # on a page
_WORST: Final = 60
_LABELS: Final = {"": "all pairs", "differ": "different labels only", "same": "the same label only"}


def register(context: ServeContext, jobs: Jobs) -> None:
    """Register the pages."""

    @ui.page("/memory/twins")
    def _twins(request: Request) -> None:
        asked = dict(request.query_params)
        with memory_frame(context, "Near duplicates", here="/memory/twins"):
            work = Work(
                jobs,
                "twins",
                context.memory.snapshot().version,
                lambda: find_duplicates(context.memory, progress=False),
                offer="Look for near duplicates",
                about=f"Each picture is compared with its nearest ones; those up to a distance of {DISTANCE:g} are"
                " twins. That takes seconds for thousands of pictures, and minutes for a million.",
            )
            WorkPanel(work, lambda found: _draw_twins(context, found, asked))

    @ui.page("/memory/worst")
    def _worst() -> None:
        with memory_frame(context, "Worst items", here="/memory/worst"):
            work = Work(
                jobs,
                "worst",
                context.memory.snapshot().version,
                lambda: prune(context.memory, dry_run=True, progress=False),
                offer="Ask about every item",
                about="Every picture is asked about with its nearest others (section 3.6 of the paper): a neighbour of"
                " the same label helps, another one hurts. That takes seconds for thousands of pictures, and minutes"
                " for a million.",
            )
            WorkPanel(work, lambda found: _draw_worst(context, found))


def choose_twins(found: Duplicates, labels: str) -> list[Twin]:
    """Return the pairs whose labels ``differ`` or are the ``same``; all of them for anything else."""
    if labels not in ("differ", "same"):
        return found.twins
    return [twin for twin in found.twins if twin.same_label == (labels == "same")]


def _draw_twins(context: ServeContext, found: Duplicates, asked: Mapping[str, str]) -> None:
    labels = asked.get("labels", "")
    with form("/memory/twins"):
        one_of("labels", "labels", _LABELS, labels)
        show_button()
    chosen = choose_twins(found, labels)
    differing = sum(not twin.same_label for twin in found.twins)
    words(
        "p",
        f"{len(chosen):,} of {counted(len(found.twins), 'pair')}, {differing:,} under different labels, among"
        f" {counted(found.items, 'picture')}; {found.surplus:,} could go with one of each group left",
        role="status",
    )
    paging = Paging.of(asked, size=_PAIRS, total=len(chosen))
    shown = chosen[paging.shown]
    urls = context.thumbnails.urls([item for twin in shown for item in (twin.id, twin.twin_id)])
    with tag("ul", "pairs"):
        for twin, url, other_url in zip(shown, urls[::2], urls[1::2], strict=True):
            with tag("li"):
                words("p", describe(twin), *([] if twin.same_label else ["wrong"]))
                with tag("ul", "tiles"):
                    for item, label, address in (
                        (twin.id, twin.label, url),
                        (twin.twin_id, twin.twin_label, other_url),
                    ):
                        draw_item(context, item, label, address, [named(label)])
    pager(paging, "/memory/twins", {"labels": labels}, "pairs")


def describe(twin: Twin) -> str:
    """Return in words how two pictures are alike."""
    said = "the same content" if twin.exact else f"distance {twin.distance:.4f}"
    return said + ("" if twin.same_label else ", different labels")


def _draw_worst(context: ServeContext, found: Pruning) -> None:
    worst = found.worst(_WORST)
    hurting = int((found.ledger.hurt > 0).sum())
    words(
        "p",
        f"{hurting:,} of {counted(len(found.ids), 'item')} hurt others at least once, among {found.neighbors}"
        f" neighbours each; the {len(worst)} that do most often",
        role="status",
    )
    words("p", f"Soft pruning: {found.in_words}; it would touch {counted(found.touched, 'item')}.")
    draw_items(
        context,
        [
            (
                one.id,
                one.label,
                (
                    named(one.label),
                    f"hurts {one.hurt:,}, helps {one.helped:,}",
                    f"soft pruning: counts {one.reliability:.2f}",
                ),
            )
            for one in worst
        ],
    )
