"""The page of a query: a picture, its neighbours, their vote, and what changes it."""

import asyncio
import random
from collections.abc import Sequence
from typing import Final

import numpy as np
from jaxtyping import Float
from nicegui import ui

from agent.types import Prediction
from eval.serve.context import ServeContext
from eval.serve.decision import DecisionPanel
from eval.serve.edit_history import EditHistory
from eval.serve.inquiry import MOST_NEIGHBORS, Inquiry, change, spoken
from eval.serve.item_dialog import ShownItem, choose_and_edit
from eval.serve.layout import button, choice, frame, picture, tag, tell, told, words
from eval.serve.prompt_panel import Asked, PromptPanel
from eval.serve.widgets import Picture, PictureDrop, PictureList
from retrieval.errors import InvalidArgument
from retrieval.labels import display_name
from retrieval.types import Neighbor
from retrieval.voting import METHODS

_SLIDE_SECONDS: Final = 0.05  # between two counts while the slider moves


def register(context: ServeContext) -> None:
    """Serve the page."""

    @ui.page("/")
    async def _query(item: str | None = None) -> None:
        with frame(context, "Query", here="/"):
            page = QueryPage(context)
        if item is not None:
            await ui.context.client.connected()
            await page.take_item(item)


class QueryPage:
    """One tab's query."""

    def __init__(self, context: ServeContext) -> None:
        """Draw the page, with nothing asked yet."""
        self._context = context
        self._k = min(context.neighbors, MOST_NEIGHBORS)
        self._voting = context.voting
        self._own = ""  # the id of the query where it is an item of the memory
        self._picture = b""
        self._vector: Float[np.ndarray, "1 dimension"] | None = None
        self._left_out: dict[str, Neighbor] = {}
        self._inquiry: Inquiry | None = None
        self._asked: Asked | None = None
        self._evidence: frozenset[str] = frozenset()
        self._version = context.memory.version
        self._asking = asyncio.Lock()
        self._draw()
        ui.timer(1.0, self._follow)

    def _draw(self) -> None:
        with tag("div", "columns"):
            with tag("div", "side"):
                with PictureDrop(on_picture=self._take_upload, on_refused=tell):
                    self._shown = tag("div", "query")
                    with self._shown:
                        words("p", "No picture yet.", "soft empty")
                    self._waiting = words("p", "", "waiting soft small", role="status")
                button("Example from the memory", self._take_example)
                self._draw_controls()
                self._history = EditHistory(self._context, self._edited)
            with tag("div", "wide"):
                self._decision = DecisionPanel()
                with tag("section", "panel", aria_label="Neighbours"):
                    words("h2", "Neighbours")
                    self._hint = words("p", "Choose a picture to see what the memory knows that is like it.", "soft")
                    self._neighbors = PictureList(on_choose=self._open)
                    self._out_title = words("h3", "Left out of this question")
                    self._out = PictureList(on_choose=self._open)
                    self._out_title.visible = False
                self._panel = PromptPanel(self._context, lambda: self._asked, self._answered)

    def _draw_controls(self) -> None:
        most = max(1, min(MOST_NEIGHBORS, len(self._context.memory)))
        self._k = min(self._k, most)
        with tag("label", "field"):
            self._k_said = words("span", f"Neighbours that vote: {self._k}")
            slider = tag("input", type="range", min="1", max=str(most), value=str(self._k))
            slider.on("input", self._slide, throttle=_SLIDE_SECONDS, js_handler="event => emit(event.target.value)")
        choice("Voting", {method: method.capitalize() for method in METHODS}, self._voting, self._vote_by)

    def _slide(self, event: object) -> None:
        self._k = max(1, min(MOST_NEIGHBORS, int(getattr(event, "args", self._k))))
        self._k_said.set_text(f"Neighbours that vote: {self._k}")
        self._recount()

    def _vote_by(self, method: str) -> None:
        self._voting = method
        self._recount()

    async def _take_upload(self, name: str) -> None:
        encoded = self._context.uploads.get(name)
        if encoded is not None:
            await self._take(encoded, name, own="")

    async def _take_example(self) -> None:
        ids = self._context.memory.snapshot().ids
        if len(ids):
            await self.take_item(str(random.choice(ids)))

    async def take_item(self, item: str) -> None:
        """Ask about an item of the memory, which is left out of its own neighbours."""
        encoded = await told(lambda: _thumbnail(self._context, item))
        if encoded is not None:
            await self._take(encoded, self._context.keep(encoded), own=item)

    async def _take(self, encoded: bytes, name: str, *, own: str) -> None:
        self._shown.clear()
        with self._shown:
            picture(f"/uploaded/{name}", "The query" if not own else f"The query, {own}")
            if own:
                words("p", f"{own}, left out of its own neighbours", "soft small")
        self._waiting.set_text("Embedding…")
        async with self._asking:
            vector = await told(lambda: self._context.embed(encoded))
            if vector is not None:
                self._picture, self._vector, self._own = encoded, vector, own
                self._left_out.clear()
                self._decision.forget()
                await self._search()
        self._waiting.set_text("")

    async def _search(self) -> None:
        """Search for what is asked, and show it; under `_asking`."""
        vector = self._vector
        if vector is None:
            return
        hidden = [*self._left_out, *([self._own] if self._own else [])]
        self._version = self._context.memory.version
        self._inquiry = await told(lambda: Inquiry.make(self._context.memory, vector, without=hidden))
        self._recount()

    def _recount(self) -> None:
        """Count the votes of what was found, and show them; takes no search."""
        if self._inquiry is None or self._vector is None:
            return
        voters, votes = self._inquiry.count(self._k, self._voting)
        self._asked = Asked(self._picture, self._vector, self._inquiry.view, self._k, self._voting)
        self._evidence = frozenset()
        self._decision.show(votes, len(voters), self._voting)
        self._show_neighbors(voters)
        self._panel.forget_answer()

    def _show_neighbors(self, voters: Sequence[Neighbor]) -> None:
        assert self._inquiry is not None
        urls = self._context.thumbnails.urls_found(voters, self._inquiry.view)
        self._neighbors.show(
            [
                Picture(
                    key=neighbor.id,
                    source=url,
                    title=display_name(neighbor.label),
                    note=f"{neighbor.distance:.2f}",
                    spoken=spoken(rank, neighbor) + (", evidence" if neighbor.id in self._evidence else ""),
                    mark=self._mark(neighbor),
                )
                for rank, (neighbor, url) in enumerate(zip(voters, urls, strict=True), start=1)
            ]
        )
        self._hint.set_text(
            "Choose one to leave it out" + ("." if self._context.read_only else ", relabel or forget it.")
        )
        self._show_left_out()

    def _mark(self, neighbor: Neighbor) -> str:
        agrees = "agrees" if neighbor.label == self._decision.label else ""
        return f"{agrees} evidence" if neighbor.id in self._evidence else agrees

    def _show_left_out(self) -> None:
        out = list(self._left_out.values())
        urls = self._context.thumbnails.urls([neighbor.id for neighbor in out])
        self._out_title.visible = bool(out)
        self._out.show(
            [
                Picture(
                    key=neighbor.id,
                    source=url,
                    title=display_name(neighbor.label),
                    note=f"{neighbor.distance:.2f}",
                    spoken=f"Left out: {display_name(neighbor.label)}, distance {neighbor.distance:.2f}",
                )
                for neighbor, url in zip(out, urls, strict=True)
            ]
        )

    async def _open(self, item: str) -> None:
        neighbor = self._left_out.get(item) or self._neighbor(item)
        if neighbor is None:
            return
        shown = ShownItem(
            id=item, label=neighbor.label, note=f"Distance {neighbor.distance:.4f}", left_out=item in self._left_out
        )
        done = await choose_and_edit(self._context, shown)
        if done is None:
            return
        if done is True:
            self._toggle(neighbor)
        await self._edited()

    def _neighbor(self, item: str) -> Neighbor | None:
        found = self._inquiry.found[0] if self._inquiry else ()
        return next((neighbor for neighbor in found if neighbor.id == item), None)

    def _toggle(self, neighbor: Neighbor) -> None:
        if self._left_out.pop(neighbor.id, None) is None:
            self._left_out[neighbor.id] = neighbor

    async def _edited(self) -> None:
        """Ask the same again, of the memory as it is now."""
        self._history.show()
        before = self._decision.label
        async with self._asking:
            await self._search()
        if before not in (None, self._decision.label):
            # For who has scrolled past the decision; others were told by its status.
            ui.notify(change(before, self._decision.label), attrs={"aria-hidden": "true"})

    async def _follow(self) -> None:
        """Notice edits of other tabs and other processes."""
        if self._version != self._context.memory.version and not self._asking.locked():
            self._version = self._context.memory.version
            await self._edited()

    def _answered(self, prediction: Prediction | None) -> None:
        evidence = frozenset(neighbor.id for neighbor in prediction.evidence) if prediction else frozenset()
        if evidence != self._evidence and self._inquiry is not None:
            self._evidence = evidence
            self._show_neighbors(self._inquiry.count(self._k, self._voting)[0])


def _thumbnail(context: ServeContext, item: str) -> bytes:
    (encoded,) = context.memory.thumbnails([item])
    if encoded is None:
        raise InvalidArgument(f"the memory keeps no picture of {item!r}: choose another, or a file")
    return encoded
