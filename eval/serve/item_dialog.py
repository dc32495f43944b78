"""What can be done with one item, asked in dialogs: leave it out of the question, relabel it, forget it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nicegui import ui

from eval.page.text import one_line
from eval.serve.context import ServeContext
from eval.serve.edits import Edit
from eval.serve.layout import button, picture, tag, told, words
from eval.serve.widgets import LabelField
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
