"""Items of the memory as tiles that can be looked at, relabelled and forgotten, and the frame of their pages."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from nicegui import ui

from eval.app.context import Edit, ServeContext
from eval.app.frame import LabelField, button, draw, frame, picture, tag, tell, told, words
from retrieval.labels import full_name
from retrieval.support.terminal import printable


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownItem:
    """An item as a dialog shows it."""

    id: str
    label: str
    note: str = ""  # beneath its label, such as its distance
    left_out: bool | None = None  # whether it takes no part in a question; None where there is none


async def choose_and_edit(context: ServeContext, item: ShownItem) -> Edit | bool | None:
    """Show an item with what can be done, and do it, an edit after a confirmation.

    Returns:
        The edit that was made; True where the item is to be left out or put back, which is the caller's to do; None
        where nothing happened.
    """
    do, label = await _ask(context, item) or ("", "")
    if do == "leave out":
        return True
    if do == "forget":
        question = f"Forget {item.id}? It takes no part in any decision from then on."
        return await _edit(question, "Forget", lambda: context.edits.forget(item.id))
    if do == "relabel":
        question = f"Relabel {item.id} from {full_name(item.label)} to {full_name(label)}?"
        return await _edit(question, "Relabel", lambda: context.edits.relabel(item.id, label))
    return None


async def _ask(context: ServeContext, item: ShownItem) -> tuple[str, str] | None:
    """Return what is wished, to leave out, relabel or forget, with the new label of a relabelling."""
    counts = {} if context.read_only else await asyncio.to_thread(lambda: context.memory.snapshot().label_counts())
    with _dialog(full_name(item.label)) as dialog, tag("div", "dialog"):
        with tag("div", "row top"):
            picture(context.thumbnails.urls([item.id])[0], "")
            with tag("div"):
                words("h2", full_name(item.label))
                words("p", item.note, "soft")
                words("p", item.id, "soft small")
        if item.left_out is not None:
            name = "Put back" if item.left_out else "Leave out of this question"
            button(name, lambda: dialog.submit(("leave out", "")), "main")
        if not context.read_only:

            def relabel() -> None:
                if field.value.strip() and field.value != item.label:
                    dialog.submit(("relabel", field.value))

            with tag("div", "row end"):
                field = LabelField("Label", item.label, list(counts), on_enter=relabel)
                button("Relabel…", relabel)
            button("Forget…", lambda: dialog.submit(("forget", "")), "danger")
        button("Close", lambda: dialog.submit(None))
    wish: tuple[str, str] | None = await _answer(dialog)
    return wish


async def _edit(question: str, do: str, edit: Callable[[], Edit]) -> Edit | None:
    with _dialog(question) as dialog, tag("div", "dialog"):
        words("h2", question)
        words("p", "The memory gets a new version; Undo goes back to this one.", "soft")
        with tag("div", "row"):
            button(do, lambda: dialog.submit(True), "danger" if do == "Forget" else "main")
            button("Cancel", lambda: dialog.submit(None))
    return await told(edit) if await _answer(dialog) else None


def _dialog(name: str) -> ui.dialog:
    dialog = ui.dialog()
    dialog.props["aria-label"] = printable(name)
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


@contextmanager
def memory_frame(context: ServeContext, title: str, *, here: str) -> Iterator[None]:
    """Draw the frame of a page of the memory, with links to the others and the way back from the last edit."""
    with frame(context, title, here="/memory"):
        with tag("nav", "tabs", aria_label="The memory"):
            for path, name in _PAGES.items():
                anchor = words("a", name)
                anchor.props["href"] = path
                if path == here:
                    anchor.props["aria-current"] = "page"
        EditHistory(context, _reload)
        yield


async def _reload() -> None:
    ui.navigate.reload()


def item_tiles(context: ServeContext, items: Sequence[tuple[str, str, Sequence[str]]]) -> list[dict[str, Any]]:
    """Return items as the templates draw them: id, label, lines beneath, and the address of the picture."""
    urls = context.thumbnails.urls([item for item, _, _ in items])
    return [
        {"id": item, "label": label, "lines": lines, "url": url}
        for (item, label, lines), url in zip(items, urls, strict=True)
    ]


def draw_with_items(context: ServeContext, macro: str, **values: Any) -> None:  # noqa: ANN401
    """Draw a part of a memory's pages, and edit those of its items whose button is clicked."""

    async def edit(item: str) -> None:
        snapshot = context.memory.snapshot()
        (row,) = snapshot.rows_of([item]).tolist()
        if row < 0:
            return tell(f"{item} is in the memory no more: load the page again")
        if await choose_and_edit(context, ShownItem(id=item, label=str(snapshot.labels[row]))):
            ui.navigate.reload()
        return None

    draw("memory", macro, editable=not context.read_only, on_edit=edit, **values)
