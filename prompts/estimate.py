"""What a prompt would take, before anything is sent."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prompts.answer import REPLY_TOKENS
from prompts.cost import Dollars, estimate_prompt_tokens, find_price
from prompts.types import ImagePart, Prompt, TextPart
from retrieval.outside import without_address

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
