"""Options of the second stage that several commands share, and the one function that reads them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from agent.calls.ready import LoadedModel
    from agent.classify import Stages
    from agent.types import GenerationConfig
    from retrieval.view import MemoryView

_PANEL = "Second stage"


def _option(
    text: str, *, name: str | None = None, metavar: str | None = None, default: str = ""
) -> typer.models.OptionInfo:
    """Return an option; a default that a preset may replace is only shown here, and stands in `agent.settings`."""
    names = (name,) if name else ()
    option: typer.models.OptionInfo = typer.Option(
        *names, help=text, metavar=metavar, rich_help_panel=_PANEL, show_default=default or True
    )
    return option


def neighbors_option(text: str) -> typer.models.OptionInfo:
    """Return the option --k, whose default a preset may replace."""
    option: typer.models.OptionInfo = typer.Option("--k", help=text, show_default="50")
    return option


Model = Annotated[
    str | None,
    _option(
        "Who takes a second look: gemini-3.5-flash-lite or another Gemini model, generativeai:MODEL (the older SDK),"
        " openai:MODEL@URL (any OpenAI-compatible server), scripted (agrees with the vote). Left out: none",
        metavar="NAME",
    ),
]
PresetName = Annotated[
    str | None,
    _option(
        "Settings that `vmem prompt presets` lists, or a .toml file of them; options given as well replace them.",
        name="--preset",
        metavar="NAME",
    ),
]
PromptName = Annotated[
    str | None,
    _option("A released prompt's name, or the path of your own.", name="--prompt", default="rerank_v1"),
]
When = Annotated[
    str | None,
    _option(
        "When to ask: always, or on an open vote: 'margin<0.3', 'share<0.8', 'entropy>0.5' (nats).", default="always"
    ),
]
Fusion = Annotated[
    float | None,
    _option("Combine vote and model, the model's probability to this power. Left out: the model decides."),
]
Shuffles = Annotated[
    int | None,
    _option(
        "Ask an unsure query again with the neighbours in this many random orders, and let most answers win.",
        default="0",
    ),
]
Seed = Annotated[int | None, _option("A number that fixes these orders.", default="0")]
Temperature = Annotated[float | None, _option("How freely the model words its reply, from 0 to 2.", default="0.0")]
Thinking = Annotated[str | None, _option("minimal, low, medium or high; left out: the model's own.")]
Resolution = Annotated[
    str | None, _option("How finely the model looks at pictures: low, medium or high; left out: the model's own.")
]
MaxReplyTokens = Annotated[int | None, _option("Limit of a reply, thinking included.", default="1024")]
Concurrency = Annotated[int, _option("Requests in flight at most; fewer for a while where the service has too many.")]
Rpm = Annotated[float | None, _option("Requests a minute at most.", name="--rpm")]
Tpm = Annotated[float | None, _option("Tokens a minute at most.", name="--tpm")]
Timeout = Annotated[float, _option("Seconds for one attempt.")]
MaxCost = Annotated[float | None, _option("Dollars, after which no further call is made.")]
Prices = Annotated[
    Path | None, _option("Prices to use in place of those shipped, in the form of prompts/prices.toml.", metavar="FILE")
]
KeyFile = Annotated[
    Path | None,
    _option("A file with the API key; left out: GEMINI_API_KEY, GOOGLE_API_KEY or OPENAI_API_KEY.", metavar="FILE"),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondStage:
    """What a command line says of the second stage; None leaves a setting to the preset, or to the default."""

    model: str | None
    preset: str | None
    prompt: str | None
    when: str | None
    fusion: float | None
    shuffles: int | None
    seed: int | None
    temperature: float | None
    thinking: str | None
    resolution: str | None
    max_reply_tokens: int | None
    concurrency: int
    rpm: float | None
    tpm: float | None
    timeout: float
    max_cost: float | None
    prices: Path | None
    key_file: Path | None
    cache: bool

    def load(
        self, *, expect_key: bool = True, max_calls: int | None = None, ledger: Path | None = None
    ) -> "LoadedModel | None":
        """Return the model; None where the vote decides.

        Args:
            expect_key: see `agent.calls.ready.load_model`.
            max_calls: the same.
            ledger: the same.

        Raises:
            InvalidArgument: an option out of range.
            EveryRequestFails: no API key is set.
            ReplyCacheError: the store of replies cannot be used.
        """
        if self.model is None:
            return None
        from agent.calls.ready import load_model
        from agent.types import TransportConfig

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
            max_calls=max_calls,
            ledger=ledger,
            key_file=self.key_file,
            prices=self.prices,
            expect_key=expect_key,
        )

    def stages(
        self, memory: "MemoryView", model: "LoadedModel | None", *, k: int | None, voting: str | None = None
    ) -> "Stages":
        """Return both stages.

        Raises:
            InvalidArgument, UnknownPrompt: an option out of range.
            PresetError: the preset cannot be used.
        """
        from agent.classify import prepare
        from agent.settings import settle

        preset = settle(self.preset)
        generation = override_generation(
            preset.generation,
            temperature=self.temperature,
            thinking=self.thinking,
            resolution=self.resolution,
            max_reply_tokens=self.max_reply_tokens,
        )
        return prepare(
            memory,
            model=model,
            preset=preset,
            neighbors=k,
            voting=voting,
            prompt=self.prompt,
            when=self.when,
            generation=generation,
            fusion_weight=self.fusion,
            shuffles=self.shuffles,
            seed=self.seed,
        )


def override_generation(
    generation: "GenerationConfig",
    *,
    temperature: float | None,
    thinking: str | None,
    resolution: str | None,
    max_reply_tokens: int | None,
) -> "GenerationConfig":
    """Return how a model is to answer, with what a command line says of it in place of what was settled before."""
    said = {
        "temperature": temperature,
        "thinking": thinking,
        "media_resolution": resolution,
        "max_reply_tokens": max_reply_tokens,
    }
    given: dict[str, Any] = {name: value for name, value in said.items() if value is not None}
    return replace(generation, **given)
