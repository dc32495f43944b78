"""The prompt that a model would be sent, what it would cost, and what the model makes of it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from nicegui import ui

from agent import background
from agent.metered import cost_of
from agent.presets import settle
from agent.stages import Stages
from agent.types import Prediction
from eval.page.text import some_lines
from eval.serve.context import ServeContext
from eval.serve.layout import button, choice, tag, tell, told, words
from prompts.catalogue import load_template, template_names
from prompts.estimate import MODEL, estimate_prompt
from prompts.question import Question, pose_questions
from prompts.types import Prompt, TextPart
from retrieval.errors import VisualMemoryError
from retrieval.labels import full_name
from retrieval.view import MemoryView


@dataclass(frozen=True, slots=True)
class Asked:
    """What the panel needs to know of the query as it stands."""

    picture: bytes
    vector: Float[np.ndarray, "1 dimension"]
    view: MemoryView
    k: int
    voting: str


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
        self._template = settle(context.second.preset, prompt=context.second.prompt).prompt
        with tag("section", "panel", aria_label="Second opinion"):
            words("h2", "Second opinion")
            self._draw_controls()
            self._cost = words("p", "", "soft", role="status")
            self._answer = tag("div")
            self._parts = tag("div", "prompt", role="region", aria_label="The prompt", tabindex="0")

    def _draw_controls(self) -> None:
        names = dict.fromkeys([self._template, *template_names()])
        with tag("div", "row end"):
            choice("Prompt", list(names), self._template, self._choose)
            button("Show the prompt", self._show)
            if self._context.model is not None:
                self._ask_button = button(f"Ask {self._context.model.name}", self._ask, "main")
        if self._context.model is None:
            words("p", "No model can be asked: start vmem serve with --model, such as --model scripted.", "soft small")

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
        self._cost.set_text(await asyncio.to_thread(lambda: self._estimate(prompt)))
        self._parts.clear()
        with self._parts:
            _draw_parts(prompt, f"/prompt/{name}")

    def _prompt(self, asked: Asked) -> Prompt:
        template = load_template(self._template)
        (question,) = pose_questions(
            asked.view, [asked.picture], asked.vector, k=asked.k, voting=asked.voting, template=template
        )
        return question.prompt(template, asked.view)[0]

    def _estimate(self, prompt: Prompt) -> str:
        second = self._context.second
        model = self._context.model.name if self._context.model else MODEL
        return str(estimate_prompt(prompt, model=model, media_resolution=second.resolution, prices=second.prices))

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
        stages = self._stages(asked)
        question = await asyncio.to_thread(lambda: _question(stages, asked))
        return await asyncio.wrap_future(background.submit(stages.decide(question, raising=())))

    def _stages(self, asked: Asked) -> Stages:
        second = replace(self._context.second, prompt=self._template)
        return second.stages(asked.view, self._context.model, k=asked.k, voting=asked.voting)

    def _draw_answer(self, prediction: Prediction) -> None:
        self._answer.clear()
        with self._answer:
            sure = "" if prediction.confidence is None else f", confidence {prediction.confidence:.0%}"
            words("p", f"{full_name(prediction.label)}{sure}", "verdict", role="status")
            words("p", prediction.reason)
            if prediction.ranking:
                words("p", "Ranking: " + ", ".join(full_name(label) for label in prediction.ranking))
            if prediction.evidence:
                ids = ", ".join(neighbor.id for neighbor in prediction.evidence)
                words("p", f"Evidence, outlined among the neighbours: {ids}")
            words("p", self._spent(prediction), "soft")
            for reply in prediction.replies:
                words("h3", f"Reply of {reply.served_by or reply.model}")
                _block(reply.text)

    def _spent(self, prediction: Prediction) -> str:
        model = self._context.model
        dollars = cost_of(prediction.spent, model.meter.price if model else None)
        kept = any(reply.from_cache for reply in prediction.replies)
        tokens = f"{prediction.spent.prompt_tokens or 0:,} tokens in, {prediction.spent.paid_as_reply:,} out"
        price = "at an unknown price" if dollars is None else f"${dollars:.5f}"
        return "A kept reply: nothing was paid." if kept else f"Paid: {tokens}, {price}"


def _question(stages: Stages, asked: Asked) -> Question:
    (question,) = stages.questions([asked.picture], asked.vector)
    return question


def _draw_parts(prompt: Prompt, address: str) -> None:
    words("h3", f"Prompt {prompt.template}, as it would be sent")
    for number, part in enumerate(prompt.parts):
        if isinstance(part, TextPart):
            _block(part.text)
        else:
            tag("img", src=f"{address}/{number}", alt=f"picture {number + 1} of the prompt", loading="lazy")


def _block(text: str) -> None:
    words("pre", "").set_text(some_lines(text))
