"""Items of the memory as tiles that can be looked at, relabelled and forgotten, and the frame of their pages."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from nicegui import ui

from eval.app.context import Edit, ServeContext, item_page
from eval.app.frame import (
    Cell,
    LabelField,
    add_style,
    button,
    frame,
    link,
    named,
    picture,
    short,
    tag,
    tile,
    told,
    words,
)
from eval.wording import one_line
from retrieval.labels import full_name


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownItem:
    """An item as a dialog shows it."""

    id: str
    label: str
    note: str = ""  # beneath its label, such as its distance
    left_out: bool | None = None  # whether it takes no part in a question; None where there is none


@dataclass(frozen=True, slots=True)
class _Wish:
    deed: str  # leave out, put back, relabel or forget
    label: str = ""


async def choose_and_edit(context: ServeContext, item: ShownItem) -> Edit | bool | None:
    """Show an item with what can be done, and do it, an edit after a confirmation.

    Returns:
        The edit that was made; True where the item is to be left out or put back, which is the caller's to do; None
        where nothing happened.
    """
    wish = await _ask(context, item)
    if wish is None:
        return None
    if wish.deed == "leave out":
        return True
    if wish.deed == "forget":
        question = f"Forget {item.id}? It takes no part in any decision from then on."
        return await _edit(question, "Forget", lambda: context.edits.forget(item.id))
    question = f"Relabel {item.id} from {full_name(item.label)} to {full_name(wish.label)}?"
    return await _edit(question, "Relabel", lambda: context.edits.relabel(item.id, wish.label))


async def _ask(context: ServeContext, item: ShownItem) -> _Wish | None:
    labels = (
        [] if context.read_only else await asyncio.to_thread(lambda: list(context.memory.snapshot().label_counts()))
    )
    with _dialog(full_name(item.label)) as dialog, tag("div", "dialog"):
        with tag("div", "row top"):
            picture(context.thumbnail_url(item.id), "")
            with tag("div"):
                words("h2", full_name(item.label))
                words("p", item.note, "soft")
                words("p", item.id, "soft small")
        if item.left_out is not None:
            name = "Put back" if item.left_out else "Leave out of this question"
            button(name, lambda: dialog.submit(_Wish("leave out")), "main")
        if not context.read_only:
            _edit_buttons(dialog, item, labels)
        button("Close", lambda: dialog.submit(None))
    wish: _Wish | None = await _answer(dialog)
    return wish


def _edit_buttons(dialog: ui.dialog, item: ShownItem, labels: list[str]) -> None:
    def relabel() -> None:
        if field.value.strip() and field.value != item.label:
            dialog.submit(_Wish("relabel", field.value))

    with tag("div", "row end"):
        field = LabelField("Label", item.label, labels, on_enter=relabel)
        button("Relabel…", relabel)
    button("Forget…", lambda: dialog.submit(_Wish("forget")), "danger")


async def _edit(question: str, deed: str, edit: Callable[[], Edit]) -> Edit | None:
    with _dialog(question) as dialog, tag("div", "dialog"):
        words("h2", question)
        words("p", "The memory gets a new version; Undo goes back to this one.", "soft")
        with tag("div", "row"):
            button(deed, lambda: dialog.submit(True), "danger" if deed == "Forget" else "main")
            button("Cancel", lambda: dialog.submit(None))
    return await told(edit) if await _answer(dialog) else None


def _dialog(name: str) -> ui.dialog:
    dialog = ui.dialog()
    dialog.props["aria-label"] = one_line(name)
    return dialog


async def _answer(dialog: ui.dialog) -> Any:  # noqa: ANN401 - whatever a button submitted
    dialog.on("hide", dialog.delete, args=[])  # by then the focus is back where it was
    return await dialog


class EditHistory:
    """A list of edits, newest first, of which the newest can be undone."""

    def __init__(self, context: ServeContext, on_undone: Callable[[], Awaitable[None]]) -> None:
        """Draw the list; ``on_undone`` is called after each undoing."""
        self._context = context
        self._on_undone = on_undone
        with tag("section", "history", aria_label="Edits") as self._whole:
            words("h2", "Edits")
            self._said = words("p", "", "soft", role="status")
            self._list = tag("div")
        self.show()

    def show(self) -> None:
        """Show the edits as they are now."""
        made = self._context.edits.made
        self._whole.visible = bool(made) or bool(self._said.text)
        self._list.clear()
        with self._list:
            if made:
                button("Undo the last edit", self._undo)
            with tag("ol"):
                for edit in reversed(made):
                    words("li", f"{edit.when:%H:%M} {edit.words}")

    async def _undo(self) -> None:
        undone = await told(self._context.edits.undo)
        if undone is not None:
            self._said.set_text(f"Undone: {undone.words}")
            await self._on_undone()


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
