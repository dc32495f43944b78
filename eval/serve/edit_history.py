"""The edits that were made through this server, with the way back."""

from collections.abc import Awaitable, Callable

from eval.serve.context import ServeContext
from eval.serve.layout import button, tag, told, words


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
