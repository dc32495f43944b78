"""Options of the second stage that several commands share, and the one function that reads them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from agent.loading import LoadedModel
    from agent.stages import Stages
    from retrieval.view import MemoryView

_PANEL = "Second stage"


def _option(text: str, *, name: str | None = None, metavar: str | None = None) -> typer.models.OptionInfo:
    names = (name,) if name else ()
    option: typer.models.OptionInfo = typer.Option(*names, help=text, metavar=metavar, rich_help_panel=_PANEL)
    return option


Model = Annotated[
    str | None,
    _option(
        "Who takes a second look: gemini-3.5-flash-lite or another Gemini model, generativeai:MODEL (the older SDK),"
        " openai:MODEL@URL (any OpenAI-compatible server), scripted (agrees with the vote). Left out: none",
        metavar="NAME",
    ),
]
PromptName = Annotated[str, _option("A released prompt's name, or the path of your own.", name="--prompt")]
When = Annotated[
    str, _option("When to ask: always, or on an open vote: 'margin<0.3', 'share<0.8', 'entropy>0.5' (nats).")
]
Fusion = Annotated[
    float | None,
    _option("Combine vote and model, the model's probability to this power. Left out: the model decides."),
]
Shuffles = Annotated[
    int, _option("Ask an unsure query again with the neighbours in this many random orders, and let most answers win.")
]
Seed = Annotated[int, _option("Of those orders.")]
Temperature = Annotated[float, _option("Of the model's words.")]
Thinking = Annotated[str | None, _option("minimal, low, medium or high; left out: the model's own.")]
Resolution = Annotated[
    str | None, _option("Of the pictures as the model takes them: low, medium or high; left out: the model's own.")
]
MaxReplyTokens = Annotated[int, _option("Limit of a reply, thinking included.")]
Concurrency = Annotated[int, _option("Requests in flight at most; fewer for a while where the service has too many.")]
Rpm = Annotated[float | None, _option("Requests a minute at most.", name="--rpm")]
Tpm = Annotated[float | None, _option("Tokens a minute at most.", name="--tpm")]
Timeout = Annotated[float, _option("Seconds for one attempt.")]
MaxCost = Annotated[float | None, _option("Dollars, after which no further call is made.")]
Prices = Annotated[
    Path | None, _option("Prices that go before those shipped, in the form of prompts/prices.toml.", metavar="FILE")
]
KeyFile = Annotated[
    Path | None,
    _option("A file with the API key; left out: GEMINI_API_KEY, GOOGLE_API_KEY or OPENAI_API_KEY.", metavar="FILE"),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondStage:
    """What a command line says of the second stage."""

    model: str | None
    prompt: str
    when: str
    fusion: float | None
    shuffles: int
    seed: int
    temperature: float
    thinking: str | None
    resolution: str | None
    max_reply_tokens: int
    concurrency: int
    rpm: float | None
    tpm: float | None
    timeout: float
    max_cost: float | None
    prices: Path | None
    key_file: Path | None
    cache: bool

    def load(self, *, expect_key: bool = True) -> "LoadedModel | None":
        """Return the model; None where the vote decides.

        Args:
            expect_key: see `agent.loading.load_model`.

        Raises:
            InvalidArgument: an option out of range.
            EveryRequestFails: no API key is set.
            ReplyCacheError: the store of replies cannot be used.
        """
        if self.model is None:
            return None
        from agent.config import TransportConfig
        from agent.loading import load_model

        transport = TransportConfig(
            concurrency=self.concurrency,
            requests_per_minute=self.rpm,
            tokens_per_minute=self.tpm,
            timeout_seconds=self.timeout,
            deadline_seconds=max(TransportConfig().deadline_seconds, 3 * self.timeout),
        )
        return load_model(
            self.model,
            transport=transport,
            cache=self.cache,
            max_cost=self.max_cost,
            key_file=self.key_file,
            prices=self.prices,
            expect_key=expect_key,
        )

    def stages(self, memory: "MemoryView", model: "LoadedModel | None", *, k: int, voting: str) -> "Stages":
        """Return both stages.

        Raises:
            InvalidArgument, UnknownPrompt: an option out of range.
        """
        from agent.config import GenerationConfig
        from agent.stages import prepare

        generation = GenerationConfig(
            temperature=self.temperature,
            thinking=self.thinking,
            media_resolution=self.resolution,
            max_reply_tokens=self.max_reply_tokens,
        )
        return prepare(
            memory,
            model=model,
            neighbors=k,
            voting=voting,
            prompt=self.prompt,
            when=self.when,
            generation=generation,
            fusion_weight=self.fusion,
            shuffles=self.shuffles,
            seed=self.seed,
        )
