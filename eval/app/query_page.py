"""The page of a query: a picture, its neighbours, their vote, and what changes it."""

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Self

import numpy as np
from jaxtyping import Float
from markupsafe import Markup
from nicegui import ui

from agent.calls import background
from agent.calls.metered import cost_of
from agent.card import View, make_view, prediction_card
from agent.classify import Question, Stages
from agent.settings import Settings
from agent.types import Prediction
from eval.app.context import ServeContext
from eval.app.frame import (
    Picture,
    PictureDrop,
    PictureList,
    button,
    choice,
    draw,
    frame,
    picture,
    tag,
    tell,
    told,
    words,
)
from eval.app.items import EditHistory, ShownItem, choose_and_edit
from prompts.cost import MODEL, estimate_prompt
from prompts.template import load_template, template_names
from prompts.types import Prompt, TextPart
from retrieval.errors import InvalidArgument, VisualMemoryError
from retrieval.labels import display_name, full_name
from retrieval.support.terminal import counted
from retrieval.types import Label, Neighbor, Neighbors, Votes
from retrieval.view import MemoryView
from retrieval.voting import METHODS, count_votes

MOST_NEIGHBORS: Final = 200


@dataclass(frozen=True, slots=True)
class Inquiry:
    """What a search found, for up to `MOST_NEIGHBORS` to be counted."""

    view: MemoryView  # the memory without what was left out
    found: Neighbors  # of one query

    @classmethod
    def make(cls, memory: MemoryView, vector: Float[np.ndarray, "1 dimension"], *, without: Iterable[str] = ()) -> Self:
        """Search for a picture's neighbours as if some items were gone; ids that are not there do not matter.

        Raises:
            InvalidArgument: nothing is left that could be found.
        """
        hidden = list(without)
        there = memory.snapshot().rows_of(hidden) >= 0 if hidden else ()
        hidden = [item for item, known in zip(hidden, there, strict=True) if known]
        view = memory.without(hidden) if hidden else memory
        if view.findable < 1:
            raise InvalidArgument("no picture of the memory is left that could be a neighbour")
        return cls(view, view.search_vectors(vector, k=min(MOST_NEIGHBORS, view.findable)))

    def count(self, k: int, method: str) -> tuple[tuple[Neighbor, ...], Votes]:
        """Return the nearest k neighbours and their vote."""
        nearest = self.found.nearest(k)
        (votes,) = count_votes(nearest.labels, nearest.distances, method=method, factors=nearest.reliabilities)
        return nearest[0], votes


def verdict(votes: Votes, voters: int, method: str) -> str:
    """Return a vote's decision in words."""
    share = f"{votes.percents[0]} % of the vote" if votes.weights[0] else "nobody has a vote, so the nearest decides"
    return f"{full_name(votes.winner)}: {share}, {counted(voters, 'neighbour')} by {method} voting"


def change(before: Label | None, after: Label) -> str:
    """Return in words whether a decision is another one than before; empty at the first."""
    if before is None:
        return ""
    if before == after:
        return f"The decision stays {full_name(after)}."
    return f"The decision changed: {full_name(before)} → {full_name(after)}"


def spoken(rank: int, neighbor: Neighbor) -> str:
    """Return what a neighbour's button is called for who does not see it."""
    return f"Neighbour {rank}, {full_name(neighbor.label)}, distance {neighbor.distance:.2f}"


class DecisionPanel:
    """Tells the decision, and how it differs from the one before."""

    def __init__(self) -> None:
        """Draw the panel, with nothing decided yet."""
        self.label: Label | None = None  # of the last decision about the same picture
        with tag("section", "panel", aria_label="Decision"):
            words("h2", "Decision")
            with tag("div", role="status", aria_live="polite"):
                self._verdict = words("p", "Nothing asked yet.", "verdict")
                self._change = words("p", "", "change")
            self._bars = tag("div")

    def show(self, votes: Votes, voters: int, method: str) -> None:
        """Tell a decision."""
        self._verdict.set_text(verdict(votes, voters, method))
        self._change.set_text(change(self.label, votes.winner))
        self._change.classes(remove="moved")
        if self.label not in (None, votes.winner):
            self._change.classes("moved")
        self.label = votes.winner
        self._bars.clear()
        with self._bars:
            draw("card", "votes", view=make_view((), votes))


@dataclass(frozen=True, slots=True)
class Asked:
    """What the panel needs to know of the query as it stands."""

    picture: bytes
    vector: Float[np.ndarray, "1 dimension"]
    view: MemoryView
    k: int
    voting: str

    def question(self, stages: Stages) -> Question:
        """Return it as the second look takes it."""
        (question,) = stages.questions([self.picture], self.vector)
        return question


class PromptPanel:
    """Shows the prompt of a query on request, and asks the model."""

    def __init__(
        self, context: ServeContext, asked: Callable[[], Asked | None], on_answer: Callable[[Prediction | None], None]
    ) -> None:
        """Draw the panel.

        Args:
            context: of the server.
            asked: tells the query as it stands; None while there is none.
            on_answer: told what the model made of it, and None once that no longer holds.
        """
        self._context = context
        self._asked = asked
        self._on_answer = on_answer
        self._template = context.second.stages(context.memory, None, k=None).settings.prompt
        with tag("section", "panel", aria_label="Second opinion"):
            words("h2", "Second opinion")
            with tag("div", "row end"):
                names = {name: name for name in (self._template, *template_names())}
                choice("Prompt", names, self._template, self._choose)
                button("Show the prompt", self._show)
                if context.model is not None:
                    self._ask_button = button(f"Ask {context.model.name}", self._ask, "main")
            if context.model is None:
                words(
                    "p", "No model can be asked: start vmem serve with --model, such as --model scripted.", "soft small"
                )
            self._cost = words("p", "", "soft", role="status")
            self._answer = tag("div")
            self._parts = tag("div", "prompt", role="region", aria_label="The prompt", tabindex="0")

    def forget_answer(self) -> None:
        """Take away prompt and reply, which are no longer those of the query."""
        self._parts.clear()
        self._answer.clear()
        self._cost.set_text("")
        self._on_answer(None)

    def _choose(self, template: str) -> None:
        self._template = template
        self.forget_answer()

    async def _show(self) -> None:
        asked = self._asked()
        if asked is None:
            return
        prompt = await told(lambda: self._prompt(asked))
        if prompt is None:
            return
        name = self._context.prompts.put(prompt)
        said, model = self._context.second.said, self._context.model.name if self._context.model else MODEL
        estimate = partial(estimate_prompt, prompt, model=model)
        resolution, prices = said["media_resolution"], said["prices"]
        self._cost.set_text(str(await asyncio.to_thread(estimate, media_resolution=resolution, prices=prices)))
        self._parts.clear()
        parts = [
            part.text if isinstance(part, TextPart) else Markup(f"/prompt/{name}/{number}")
            for number, part in enumerate(prompt.parts)
        ]
        with self._parts:
            draw("parts", "prompt", name=prompt.template, parts=parts)

    def _prompt(self, asked: Asked) -> Prompt:
        settings = Settings(prompt=self._template, k=asked.k, voting=asked.voting)
        stages = Stages(asked.view, settings, load_template(self._template))
        return asked.question(stages).prompt(stages.template, asked.view)[0]

    async def _ask(self) -> None:
        asked = self._asked()
        if asked is None:
            return
        self._ask_button.props["disabled"] = True
        self._answer.clear()
        with self._answer, tag("p", role="status"):
            ui.spinner(size="1.2rem")
            words("span", " Waiting for the model…")
        try:
            prediction = await self._decide(asked)
        except VisualMemoryError as error:
            self._answer.clear()
            return tell(str(error))
        finally:
            del self._ask_button.props["disabled"]
        if self._asked() is not asked:  # somebody moved on
            return None
        self._draw_answer(prediction)
        self._on_answer(prediction)
        return None

    async def _decide(self, asked: Asked) -> Prediction:
        second = self._context.second.but(prompt=self._template)
        stages = second.stages(asked.view, self._context.model, k=asked.k, voting=asked.voting)
        question = await asyncio.to_thread(lambda: asked.question(stages))
        return await asyncio.wrap_future(background.submit(stages.decide(question, raising=())))

    def _draw_answer(self, prediction: Prediction) -> None:
        spent, model = prediction.spent, self._context.model
        dollars = cost_of(spent, model.meter.price if model else None)
        price = "at an unknown price" if dollars is None else f"${dollars:.5f}"
        paid = f"Paid: {spent.prompt_tokens or 0:,} tokens in, {spent.paid_as_reply:,} out, {price}"
        kept = any(reply.from_cache for reply in prediction.replies)
        ids = ", ".join(neighbor.id for neighbor in prediction.evidence)
        named = [f"Evidence, outlined among the neighbours: {ids}"] if ids else []
        replies = tuple((reply.text, reply.served_by or reply.model) for reply in prediction.replies)
        card = prediction_card(prediction, View(replies=replies, unfolded=True))
        lines = (*card.lines, *named, "A kept reply: nothing was paid." if kept else paid)
        self._answer.clear()
        with self._answer, tag("div", role="status"):
            draw("card", "card", shown=replace(card, lines=lines))


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
        with tag("div", "columns"):
            with tag("div", "side"):
                with PictureDrop(on_picture=self._take_upload, on_refused=tell):
                    self._shown = tag("div", "query")
                    with self._shown:
                        words("p", "No picture yet.", "soft empty")
                    self._waiting = words("p", "", "waiting soft small", role="status")
                button("Example from the memory", self._take_example)
                self._draw_controls()
                self._history = EditHistory(context, self._edited)
            with tag("div", "wide"):
                self._decision = DecisionPanel()
                with tag("section", "panel", aria_label="Neighbours"):
                    words("h2", "Neighbours")
                    self._hint = words("p", "Choose a picture to see what the memory knows that is like it.", "soft")
                    self._neighbors = PictureList(on_choose=self._open)
                    self._out_title = words("h3", "Left out of this question")
                    self._out = PictureList(on_choose=self._open)
                    self._out_title.visible = False
                self._panel = PromptPanel(context, lambda: self._asked, self._answered)
        ui.timer(1.0, self._follow)

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
                self._decision.label = None
                await self._search()
        self._waiting.set_text("")

    async def _search(self) -> None:
        """Search for what is asked, and show it; under `_asking`."""
        if (vector := self._vector) is None:
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
        shown = []
        for rank, (neighbor, url) in enumerate(zip(voters, urls, strict=True), start=1):
            named = neighbor.id in self._evidence
            mark = " ".join(["same"] * (neighbor.label == self._decision.label) + ["evidence"] * named)
            shown.append(_tile(neighbor, url, spoken(rank, neighbor) + (", evidence" if named else ""), mark))
        self._neighbors.show(shown)
        self._hint.set_text(
            "Choose one to leave it out" + ("." if self._context.read_only else ", relabel or forget it.")
        )
        self._out_title.visible = bool(self._left_out)
        out = zip(self._left_out.values(), self._context.thumbnails.urls(list(self._left_out)), strict=True)
        told = "Left out: {}, distance {:.2f}"
        self._out.show([_tile(one, url, told.format(display_name(one.label), one.distance)) for one, url in out])

    async def _open(self, item: str) -> None:
        found = self._inquiry.found[0] if self._inquiry else ()
        neighbor = next((one for one in (*self._left_out.values(), *found) if one.id == item), None)
        if neighbor is None:
            return
        note, left_out = f"Distance {neighbor.distance:.4f}", item in self._left_out
        shown = ShownItem(id=item, label=neighbor.label, note=note, left_out=left_out)
        done = await choose_and_edit(self._context, shown)
        if done is True and self._left_out.pop(item, None) is None:
            self._left_out[item] = neighbor
        if done is not None:
            await self._edited()

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


def _tile(neighbor: Neighbor, url: str | None, name: str, mark: str = "") -> Picture:
    note = f"{neighbor.distance:.2f}"
    return Picture(key=neighbor.id, source=url, title=display_name(neighbor.label), note=note, spoken=name, mark=mark)


def _thumbnail(context: ServeContext, item: str) -> bytes:
    (encoded,) = context.memory.thumbnails([item])
    if encoded is None:
        raise InvalidArgument(f"the memory keeps no picture of {item!r}: choose another, or a file")
    return encoded
