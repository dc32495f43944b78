"""Tokens and money, before a call by estimate and after it by what the service counted."""

import math
import os
from dataclasses import dataclass, fields
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from prompts.answer import REPLY_TOKENS
from prompts.types import ImagePart, Prompt, TextPart
from retrieval.errors import InvalidArgument
from retrieval.support.outside import without_address
from retrieval.support.parsing import parse_toml

RESOLUTIONS: Final = ("low", "medium", "high")  # of pictures, as models take them
VARIABLE: Final = "VMEM_PRICES"
_SHIPPED: Final = Path(__file__).with_name("prices.toml")
_CHARACTERS_PER_TOKEN: Final = 4  # of English; Google's own rule of thumb
_UNKNOWN_IMAGE_TOKENS: Final = 1120  # of the dearest resolution known: an estimate errs upwards
_PER_MILLION: Final = 1e-6
_MOST: Final = 1e9  # dollars per million tokens, or tokens: whatever is above is a mistake

Dollars = float


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What a model charges: dollars per million tokens, and tokens per picture."""

    input: float
    output: float
    cached_input: float | None = None  # None: as any other input
    batch: float = 1.0  # the part of the price that batch jobs cost
    image_tokens: int = _UNKNOWN_IMAGE_TOKENS
    image_tokens_low: int | None = None
    image_tokens_medium: int | None = None
    image_tokens_high: int | None = None
    image_square: int | None = None  # pixels: a picture above 384 counts once for each such square that it takes

    def cost(self, prompt_tokens: int, reply_tokens: int, *, cached_tokens: int = 0, batch: bool = False) -> Dollars:
        """Return what a call costs; ``cached_tokens`` are among the prompt's, thinking among the reply's."""
        cached_price = self.input if self.cached_input is None else self.cached_input
        whole = (prompt_tokens - cached_tokens) * self.input + cached_tokens * cached_price + reply_tokens * self.output
        return whole * _PER_MILLION * (self.batch if batch else 1.0)


def find_price(model: str, *, file: Path | None = None) -> Price | None:
    """Return a model's price by its plain name, such as ``gemini-3.5-flash-lite``; None where it is not known.

    Args:
        model: the name without its maker's.
        file: prices that go before those shipped; None takes the file that ``VMEM_PRICES`` names, if any.

    Raises:
        InvalidArgument: the file cannot be read, or says something else than prices.
    """
    own = file or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    tables = [_read(path) for path in (own, _SHIPPED) if path]
    return next((prices[model] for _, prices in tables if model in prices), None)


def prices_date() -> str:
    """Return the day on which the shipped prices were collected."""
    return _read(_SHIPPED)[0]


def check_resolution(media_resolution: str | None) -> None:
    """Raise InvalidArgument for a resolution of pictures that there is not; None leaves it to the model."""
    if media_resolution not in (None, *RESOLUTIONS):
        raise InvalidArgument(f"media_resolution={media_resolution!r}: one of {', '.join(RESOLUTIONS)} expected")


def estimate_prompt_tokens(prompt: Prompt, price: Price | None, *, media_resolution: str | None = None) -> int:
    """Return about how many tokens a prompt takes: four characters a token, and the model's rule for pictures.

    Raises:
        InvalidArgument: an unknown resolution of pictures.
    """
    check_resolution(media_resolution)
    characters = sum(len(part.text) for part in prompt.parts if isinstance(part, TextPart))
    price = price or Price(input=0.0, output=0.0)
    each = price.image_tokens
    if media_resolution:
        each = getattr(price, f"image_tokens_{media_resolution}") or each
    side = price.image_square
    pictures = 0
    for part in prompt.parts:
        if isinstance(part, ImagePart):
            pictures += math.prod(math.ceil(pixels / side) for pixels in part.size) if side and part.size else 1
    return characters // _CHARACTERS_PER_TOKEN + pictures * each


@lru_cache(maxsize=8)
def _read(path: Path) -> tuple[str, dict[str, Price]]:
    known = {field.name for field in fields(Price)}
    try:
        with path.open("rb") as stream:
            parsed: dict[str, Any] = parse_toml(stream.read())
        prices = {name: Price(**_numbers(values, known)) for name, values in parsed["models"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InvalidArgument(
            f"{path} holds no prices ({error}): a TOML file like prompts/prices.toml expected, with a table"
            ' [models."NAME"] of input, output and so on'
        ) from error
    collected = parsed.get("date")
    return (collected.isoformat() if isinstance(collected, date) else "unknown"), prices


def _numbers(values: dict[str, Any], known: set[str]) -> dict[str, Any]:
    for name, value in values.items():
        kind = int if name.startswith("image_") else int | float
        if name not in known or isinstance(value, bool) or not isinstance(value, kind) or not 0 <= value <= _MOST:
            raise ValueError(f"{name} = {value!r}")
    return values


MODEL: Final = "gemini-3.5-flash-lite"  # what prompts are priced for where nothing else is said


@dataclass(frozen=True, slots=True)
class PromptEstimate:
    """About what one call would take."""

    pictures: int
    kilobytes: float  # of texts and pictures, before base64 makes a third more of the latter
    prompt_tokens: int
    reply_tokens: int  # without thinking
    dollars: Dollars | None  # None where the model's price is not known
    model: str  # that was asked about

    def __str__(self) -> str:
        cost = f"price of {self.model} unknown" if self.dollars is None else f"${self.dollars:.5f} with {self.model}"
        return (
            f"{self.pictures} {'picture' if self.pictures == 1 else 'pictures'}, {self.kilobytes:,.0f} kB,"
            f" about {self.prompt_tokens:,} tokens and {self.reply_tokens:,} of reply, {cost}"
        )


def estimate_prompt(
    prompt: Prompt,
    *,
    model: str = MODEL,
    media_resolution: str | None = None,
    reply_tokens: int | None = None,
    batch: bool = False,
    prices: Path | None = None,
) -> PromptEstimate:
    """Return about what a prompt would take.

    Args:
        prompt: as it would be sent.
        model: as `agent.load_model` takes it.
        media_resolution: ``low``, ``medium`` or ``high``, where the request chooses one.
        reply_tokens: None takes what an answer in the prompt's form takes.
        batch: whether it goes with a batch job.
        prices: a file of prices that go before those shipped.

    Raises:
        InvalidArgument: the file holds no prices.
    """
    model = without_address(model)
    price = find_price(model.partition(":")[2] or model, file=prices)
    prompt_tokens = estimate_prompt_tokens(prompt, price, media_resolution=media_resolution)
    replied = REPLY_TOKENS[prompt.answer] if reply_tokens is None else reply_tokens
    sent = sum(len(part.text.encode()) if isinstance(part, TextPart) else len(part.encoded) for part in prompt.parts)
    return PromptEstimate(
        pictures=sum(isinstance(part, ImagePart) for part in prompt.parts),
        kilobytes=sent / 1000,
        prompt_tokens=prompt_tokens,
        reply_tokens=replied,
        dollars=price.cost(prompt_tokens, replied, batch=batch) if price else None,
        model=model,
    )
