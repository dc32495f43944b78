"""What flows out of the second stage."""

from dataclasses import dataclass
from typing import Literal

from retrieval.types import Label, Neighbor, Votes


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that a call took; None where the model does not say."""

    prompt_tokens: int | None = None
    reply_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """A model's words."""

    text: str
    model: str
    usage: Usage = Usage()
    from_cache: bool = False


@dataclass(frozen=True, slots=True)
class Prediction:
    """A decision, who made it and why, and the pictures that made it."""

    label: Label
    source: Literal["rerank", "vote"]  # the model's answer, or the vote's
    reason: str  # "code: sentence"; the codes are those of `agent.classify`
    votes: Votes  # of the first stage, whoever decided
    neighbors: tuple[Neighbor, ...]  # nearest first
    reply: Reply | None = None  # None when no model was asked or it did not answer
    confidence: float | None = None  # as the model claims; None for a vote
    evidence: tuple[int, ...] = ()  # numbers of the neighbours that the model names, counted from 1
