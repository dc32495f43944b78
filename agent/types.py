"""What flows through the second stage."""

from collections.abc import Iterable
from dataclasses import asdict, astuple, dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from agent.settings import GenerationConfig
from prompts.types import Prompt
from retrieval.embedding import Failure
from retrieval.support.lazy import shown_by
from retrieval.types import Label, Neighbor, Votes


@dataclass(frozen=True, slots=True)
class Request:
    """Everything that can change a model's answer, and nothing that cannot."""

    prompt: Prompt
    generation: GenerationConfig = GenerationConfig()
    replicate: int = 0  # counts up when the same thing is asked again for another answer


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that a call took; None where the model does not say."""

    prompt_tokens: int | None = None  # those from the service's own cache included
    reply_tokens: int | None = None
    thought_tokens: int | None = None  # paid as reply tokens, and not among them
    cached_tokens: int | None = None  # of the prompt's, those that the service had cached and charges less for

    @property
    def paid_as_reply(self) -> int:
        """Tokens of reply and thinking together."""
        return (self.reply_tokens or 0) + (self.thought_tokens or 0)


def total_usage(usages: Iterable[Usage]) -> Usage:
    """Return the sum of what calls took; a count that none of them says stays None."""
    columns = zip(*(astuple(usage) for usage in (Usage(), *usages)), strict=True)
    return Usage(*(sum(filter(None, column)) if any(c is not None for c in column) else None for column in columns))


@dataclass(frozen=True, slots=True)
class Reply:
    """A model's words."""

    text: str
    model: str  # as it was asked for
    usage: Usage = Usage()  # of attempts before it that failed, too
    from_cache: bool = False
    served_by: str = ""  # the model's version as the service names it
    seconds: float | None = None  # that the call took, without waiting for its turn; None where nobody measured


@dataclass(frozen=True, slots=True)
class Order:
    """One of several orders in which a query was asked, and what came of it."""

    seed: int | None  # of the shuffle; None is nearest first
    label: Label | None  # None: none of the candidates
    confidence: float | None


@dataclass(frozen=True, slots=True)
class Prediction:
    """A decision, who made it and why, and the pictures that made it."""

    label: Label
    source: Literal["rerank", "vote"]  # the model's answer, or the vote's
    reason: str  # "code: sentence"; the codes are those of `agent.classify`
    votes: Votes  # of the first stage, whoever decided
    neighbors: tuple[Neighbor, ...]  # nearest first
    replies: tuple[Reply, ...] = ()  # what the model said, oldest first; empty when none was asked or none answered
    confidence: float | None = None  # as the model claims, or of the fusion; None for a vote
    ranking: tuple[Label, ...] = ()  # labels that the model finds to fit, the best first
    evidence: tuple[Neighbor, ...] = ()  # the neighbours that the model names
    orders: tuple[Order, ...] = ()  # where a query was asked in several orders
    spent: Usage = Usage()  # tokens paid for it now: none for kept replies, some for attempts that failed

    _repr_html_ = shown_by("agent.card", "prediction_html")

    @property
    def code(self) -> str:
        """The reason's code."""
        return self.reason.partition(":")[0]

    @property
    def reply(self) -> Reply | None:
        """The model's last words; None where there are none."""
        return self.replies[-1] if self.replies else None


def rerank_record(prediction: Prediction) -> dict[str, Any]:
    """Return what the second stage made of a query, in JSON's types; neighbours are named by their ids."""
    return {
        "label": prediction.label,
        "source": prediction.source,
        "reason": prediction.reason,
        "confidence": prediction.confidence,
        "ranking": list(prediction.ranking),
        "evidence": [neighbor.id for neighbor in prediction.evidence],
        "orders": [[order.seed, order.label, order.confidence] for order in prediction.orders],
        "replies": [_reply(reply) for reply in prediction.replies],
        "spent": asdict(prediction.spent),
    }


def prediction_record(prediction: Prediction | Failure[Any]) -> dict[str, Any]:
    """Return a whole prediction in JSON's types; of a picture that cannot be used no more than its reason."""
    if isinstance(prediction, Failure):
        return {"label": None, "source": prediction.source, "reason": prediction.reason}
    votes = zip(prediction.votes.labels, prediction.votes.weights, strict=True)
    return rerank_record(prediction) | {
        "votes": [list(pair) for pair in votes],
        "neighbors": [neighbor_record(neighbor) for neighbor in prediction.neighbors],
    }


def neighbor_record(neighbor: Neighbor) -> dict[str, Any]:
    """Return a neighbour in JSON's types, its reliability only where that is not 1."""
    told = {"id": neighbor.id, "label": neighbor.label, "distance": neighbor.distance}
    return told if neighbor.reliability == 1.0 else told | {"reliability": neighbor.reliability}


def _reply(reply: Reply) -> dict[str, Any]:
    return {
        "text": reply.text,
        "served_by": reply.served_by,
        "from_cache": reply.from_cache,
        "seconds": None if reply.seconds is None else round(reply.seconds, 4),
    }


@runtime_checkable
class VisionModel(Protocol):
    """Answers a prompt of texts and pictures with text."""

    @property
    def name(self) -> str:
        """The model's name with its maker's, as it stands in replies: two models never share one."""
        ...

    async def generate(self, request: Request) -> Reply:
        """Return the reply to a request.

        Every call runs on the same event loop, that of `agent.calls.background`.

        Raises:
            ModelError: there is none.
        """
        ...
