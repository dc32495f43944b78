"""The pages of a memory: its classes and their pictures, and its versions."""

from collections.abc import Mapping
from functools import partial
from typing import Final

import numpy as np
from fastapi import Request
from nicegui import ui

from eval.app import map_page
from eval.app.context import Jobs, ServeContext
from eval.app.frame import (
    Cell,
    Head,
    Paging,
    Work,
    WorkPanel,
    address,
    form,
    label_link,
    link,
    named,
    one_of,
    pager,
    register_style,
    show_button,
    table,
    tag,
    text_field,
    words,
)
from eval.app.items import draw_item, draw_items, memory_frame
from eval.wording import counted
from retrieval.curation.duplicates import DISTANCE, Duplicates, Twin, find_duplicates
from retrieval.curation.pruning import Pruning
from retrieval.labels import display_name
from retrieval.types import Settings

_CLASSES: Final = 50  # on a page
_PICTURES: Final = 60
_VERSIONS: Final = 100  # the latest; `vmem memory history` lists all
SORTED_BY: Final = ("items", "class")


def register(context: ServeContext) -> None:
    """Register the pages."""
    jobs = Jobs()
    register_style()
    register_curation(context, jobs)
    map_page.register(context, jobs)

    @ui.page("/memory")
    def _classes(request: Request) -> None:
        with memory_frame(context, "Memory", here="/memory"):
            _draw_classes(context, request.query_params)

    @ui.page("/memory/class")
    def _class(request: Request) -> None:
        label = request.query_params.get("label", "")
        with memory_frame(context, named(label), here="/memory/class"):
            _draw_class(context, label, request.query_params)

    @ui.page("/memory/versions")
    def _versions() -> None:
        with memory_frame(context, "Versions", here="/memory/versions"):
            _draw_versions(context)


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
    counts = snapshot.label_counts()
    words("p", _describe(context.memory.settings, len(snapshot), len(counts)), "soft")
    text, by = asked.get("text", "").strip(), asked.get("by", SORTED_BY[0])
    ascending = asked.get("order", "up" if by == "class" else "down") == "up"
    with form("/memory"):
        text_field("text", "class", text)
        show_button()
    found = filter_classes(counts, text=text, by=by, ascending=ascending)
    words("p", f"{len(found):,} of {counted(len(counts), 'class')}", role="status")
    paging = Paging.of(asked, size=_CLASSES, total=len(found))
    heads = [_Sorting(name, text, by, ascending) for name in ("class", "items")]
    rows: list[list[Cell]] = [
        [partial(label_link, label), f"{items:,}", f"{100 * items / max(len(snapshot), 1):.1f} %"]
        for label, items in found[paging.shown]
    ]
    table("Classes", [*heads, "share"], rows, wide=(1, 2))
    pager(paging, "/memory", {"text": text, "by": by, "order": "up" if ascending else "down"}, "classes")


class _Sorting(Head):
    """The head of a column by which a table is sorted, or can be."""

    def __init__(self, name: str, text: str, by: str, ascending: bool) -> None:
        self.name = name
        self.order = ("ascending" if ascending else "descending") if name == by else ""
        turned = (not ascending) if name == by else name == "class"
        self._target = address("/memory", {"text": text, "by": name, "order": "up" if turned else "down"})

    def __call__(self) -> None:
        """Draw it."""
        mark = {"ascending": " ↑", "descending": " ↓"}.get(self.order, "")
        link(self.name + mark, self._target, aria_label=f"sort by {self.name}")


def _describe(settings: Settings, items: int, classes: int) -> str:
    of = f"{counted(items, 'item')} in {counted(classes, 'class')}"
    return f"{of}; embedded by {settings.embedder.name}, {settings.embedder.dimension} dimensions"


def _draw_class(context: ServeContext, label: str, asked: Mapping[str, str]) -> None:
    snapshot = context.memory.snapshot()
    rows = np.flatnonzero(snapshot.labels == label)
    if not len(rows):
        words("p", "The memory has no item of this class.", role="status")
        return
    paging = Paging.of(asked, size=_PICTURES, total=len(rows))
    words("p", counted(len(rows), "item"), role="status")
    shown = snapshot.ids[rows[paging.shown]].tolist()
    draw_items(context, [(item, label, ()) for item in shown])
    pager(paging, "/memory/class", {"label": label}, "pictures")


def _draw_versions(context: ServeContext) -> None:
    versions = context.memory.commands(limit=_VERSIONS)
    said = "`vmem memory undo` takes back the last command, `vmem memory checkout` goes back to a version."
    words("p", said, "soft")
    rows = [
        [
            str(version.number),
            f"{version.when:%Y-%m-%d %H:%M:%S}",
            version.deed,
            f"{version.items:,}",
            "" if version.change is None else f"{version.change:+,}",
            ", ".join(version.tags),
        ]
        for version in versions
    ]
    table("Versions", ["version", "when", "what", "items", "change", "tags"], rows, wide=(0, 3, 4))


_PAIRS: Final = 20  # on a page
_WORST: Final = 60
_LABELS: Final = {"": "all pairs", "differ": "different labels only", "same": "the same label only"}


def register_curation(context: ServeContext, jobs: Jobs) -> None:
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
                lambda: context.memory.prune(dry_run=True, progress=False),
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
