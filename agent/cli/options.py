"""The options of the second stage, which several commands share: made of the settings, and read back into them."""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import typer

from agent.settings import FLATTENED, GenerationConfig, Settings, TransportConfig, options_of

if TYPE_CHECKING:
    from agent.calls.ready import LoadedModel
    from agent.classify import Stages
    from retrieval.view import MemoryView


def neighbors_option(help_text: str) -> typer.models.OptionInfo:
    """Return the option --k, whose default a preset may replace."""
    option: typer.models.OptionInfo = typer.Option("--k", help=help_text, show_default=str(Settings().k))
    return option


def voting_option(help_text: str) -> typer.models.OptionInfo:
    """Return the option --voting, whose default a preset may replace."""
    option: typer.models.OptionInfo = typer.Option(help=help_text, show_default=Settings().voting)
    return option


_OWN: Final[tuple[tuple[str, type[Any], str | None, str], ...]] = (
    (
        "model",
        str,
        "NAME",
        "Who takes a second look: gemini-3.5-flash-lite or another Gemini model, generativeai:MODEL (the older SDK),"
        " openai:MODEL@URL (any OpenAI-compatible server), scripted (agrees with the vote). Left out: none",
    ),
    (
        "preset",
        str,
        "NAME",
        "Settings that `vmem prompt presets` lists, or a .toml file of them; options given as well replace them.",
    ),
    ("max_cost", float, None, "Dollars, after which no further call is made."),
    ("prices", Path, "FILE", "Prices to use in place of those shipped, in the form of prompts/prices.toml."),
    (
        "key_file",
        Path,
        "FILE",
        "A file with the API key; left out: GEMINI_API_KEY, GOOGLE_API_KEY or OPENAI_API_KEY.",
    ),
)
"""Options that are no settings: name, type, what its value is called, help."""


def _parameters() -> Iterator[inspect.Parameter]:
    """Yield all options: a default that a preset may replace is only shown, and stands in `agent.settings`."""

    def parameter(name: str, kind: Any, default: Any = None, **shown: Any) -> inspect.Parameter:  # noqa: ANN401
        option = typer.Option(*filter(None, [shown.pop("flag", "")]), rich_help_panel="Second stage", **shown)
        return inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option]
        )

    own = {name: parameter(name, kind | None, help=said, metavar=metavar) for name, kind, metavar, said in _OWN}
    yield from (own.pop(name) for name in ("model", "preset"))
    for field in (*options_of(Settings), *options_of(GenerationConfig)):
        shown = True if field.default is None else str(field.default)
        yield parameter(field.name, cast(Any, field.type) | None, show_default=shown, **field.metadata)
    for field in options_of(TransportConfig):
        yield parameter(field.name, field.type, field.default, show_default=True, **field.metadata)
    yield from own.values()


_SETTINGS: Final = {option.name for option in options_of(Settings)} | FLATTENED
_TRANSPORT: Final = {option.name for option in options_of(TransportConfig)}


@dataclass(frozen=True, slots=True)
class SecondStage:
    """What a command line says of the second stage, by the names of the settings.

    None leaves a setting to the preset, or to the default.
    """

    said: Mapping[str, Any]

    @classmethod
    def options(cls) -> list[inspect.Parameter]:
        """Return the options of which it is made; see `retrieval.support.options.flat`."""
        return list(_parameters())

    @classmethod
    def of(cls, **said: Any) -> "SecondStage":  # noqa: ANN401 - values of those options
        """Return what those options say."""
        return cls(said)

    def but(self, **options: Any) -> "SecondStage":  # noqa: ANN401 - as above
        """Return the same with other options."""
        return SecondStage({**self.said, **options})

    def load(
        self, *, cache: bool, expect_key: bool = True, max_calls: int | None = None, ledger: Path | None = None
    ) -> "LoadedModel | None":
        """Return the model; None where the vote decides. The options are those of `agent.calls.ready.load_model`.

        Raises:
            InvalidArgument: an option out of range.
            EveryRequestFails: no API key is set.
            ReplyCacheError: the store of replies cannot be used.
        """
        model = self.said.get("model")
        if model is None:
            return None
        from agent.calls.ready import load_model

        said = {name: self.said[name] for name in _TRANSPORT & self.said.keys()}
        patience = max(TransportConfig().deadline_seconds, 3 * said.get("timeout_seconds", 0))
        return load_model(
            model,
            transport=TransportConfig(**said, deadline_seconds=patience),
            cache=cache,
            max_cost=self.said.get("max_cost"),
            max_calls=max_calls,
            ledger=ledger,
            key_file=self.said.get("key_file"),
            prices=self.said.get("prices"),
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

        said = {name: self.said[name] for name in _SETTINGS & self.said.keys()}
        return prepare(memory, model=model, preset=self.said.get("preset"), k=k, voting=voting, **said)
