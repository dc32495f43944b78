"""Items of the memory as tiles that can be looked at, relabelled and forgotten, and the frame of their pages."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from nicegui import ui

from eval.serve.browsing import Cell, add_style, link, named, short, tile
from eval.serve.context import ServeContext, item_page
from eval.serve.edit_history import EditHistory
from eval.serve.item_dialog import ShownItem, choose_and_edit
from eval.serve.layout import button, frame, tag

_PAGES: Final = {
    "/memory": "Classes",
    "/memory/twins": "Near duplicates",
    "/memory/worst": "Worst items",
    "/memory/map": "Map",
    "/memory/versions": "Versions",
}
Shown = tuple[str, str, Sequence[Cell]]  # an item's id and label, and what else is said of it


@contextmanager
def memory_frame(context: ServeContext, title: str, *, here: str) -> Iterator[None]:
    """Draw the frame of a page of the memory, with links to the others and the way back from the last edit."""
    add_style()
    with frame(context, title, here="/memory"):
        with tag("nav", "tabs", aria_label="The memory"):
            for path, name in _PAGES.items():
                anchor = link(name, path)
                if path == here:
                    anchor.props["aria-current"] = "page"
        EditHistory(context, _reload)
        yield


async def _reload() -> None:
    ui.navigate.reload()


def draw_items(context: ServeContext, items: Sequence[Shown]) -> None:
    """Draw items as tiles beside each other."""
    urls = context.thumbnails.urls([item for item, _, _ in items])
    with tag("ul", "tiles"):
        for (item, label, lines), url in zip(items, urls, strict=True):
            draw_item(context, item, label, url, lines)


def draw_item(context: ServeContext, item: str, label: str, url: str | None, lines: Sequence[Cell] = ()) -> None:
    """Draw an item with some lines, and what can be done with it."""
    tile(url, f"{named(label)}, {item}", [lambda: short(item), *lines, lambda: _draw_deeds(context, item, label)])


def _draw_deeds(context: ServeContext, item: str, label: str) -> None:
    async def edit() -> None:
        if await choose_and_edit(context, ShownItem(id=item, label=label)):
            ui.navigate.reload()

    with tag("div", "deeds"):
        link("look at", item_page(item), aria_label=f"Look at {item} as a query")
        if not context.read_only:
            button("edit", edit, aria_label=f"Edit {item}")
