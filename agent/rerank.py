"""The second stage: whether to ask, what, how often, and what to make of the answers."""

import asyncio
import math
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from agent.config import GenerationConfig
from agent.errors import EveryRequestFails, ModelError
from agent.fusion import fuse
from agent.gate import ALWAYS, Gate
from agent.models.base import VisionModel
from agent.types import Order, Prediction, Reply, Request, Usage, total_usage
from prompts.answer import Answer, parse_answer
from prompts.catalogue import Template
from prompts.errors import UnusableReply
from prompts.question import Question
from retrieval.errors import InvalidArgument, VisualMemoryError
from retrieval.types import Label, Neighbor
from retrieval.view import MemoryView

_SURE: Final = 0.9  # a claimed confidence from which an answer that agrees with the vote needs no second order


@dataclass(frozen=True, slots=True, kw_only=True)
class Rerank:
    """How the second stage works; see `agent.classify.classify_with_rerank` for its options.

    Raises:
        InvalidArgument: an option out of range.
    """

    model: VisionModel
    template: Template
    generation: GenerationConfig = GenerationConfig()
    gate: Gate = ALWAYS
    fusion_weight: float | None = None
    shuffles: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.shuffles < 0:
            raise InvalidArgument(f"shuffles={self.shuffles}: 0 or more expected")
        if self.fusion_weight is not None and not 0 <= self.fusion_weight < math.inf:
            raise InvalidArgument(f"fusion weight {self.fusion_weight}: a number from 0 expected")

    def settings(self) -> dict[str, Any]:
        """Return everything that can change an answer, in JSON's types."""
        return {
            "model": self.model.name,
            "prompt": f"{self.template.name} {self.template.digest[:16]}",
            "when": str(self.gate),
            "generation": asdict(self.generation),
            "fusion weight": self.fusion_weight,
            "shuffles": self.shuffles,
            "seed": self.seed,
        }

    async def decide(
        self, question: Question, memory: MemoryView, *, raising: tuple[type[Exception], ...] = ()
    ) -> Prediction:
        """Return the decision on a query; where the model gives none, the vote's, with the reason.

        Args:
            question: the query after the first stage.
            memory: where the neighbours' pictures lie.
            raising: errors that are to be raised instead.

        Raises:
            UnknownPrompt, ImageError, ReplyCacheError: what no vote should hide.
        """
        vote = Prediction(question.votes.winner, "vote", "", question.votes, question.neighbors)
        if not self.gate.asks(question.votes):
            return replace(vote, reason=f"decisive: the vote does not meet {self.gate}, so the model was not asked")
        replies: list[Reply] = []
        failed = Usage()
        try:
            decided = await self._reranked(vote, question, memory, replies)
            return replace(decided, replies=tuple(replies), spent=_paid(replies))
        except raising:
            raise
        except UnusableReply as error:
            reason = f"unusable_reply: {error}"
        except ModelError as error:
            reason, failed = f"{error.code}: {error}", error.usage or failed
        except VisualMemoryError:  # a template with an error, a store on a full disk: no vote should hide that
            raise
        except Exception as error:  # somebody's own model; its words may hold a key, so only the kind is told
            reason = f"model_failed: {type(error).__name__}"
        return replace(vote, reason=reason, replies=tuple(replies), spent=total_usage([_paid(replies), failed]))

    async def _reranked(
        self, vote: Prediction, question: Question, memory: MemoryView, replies: list[Reply]
    ) -> Prediction:
        answer, evidence, candidates = await self._ask(question, memory, replies, order=None)
        orders = [_order(None, answer)]
        if self.shuffles and _is_unsure(answer, question):
            seeds = _seeds(self.seed, question, self.shuffles)
            # All of them are waited for, whatever becomes of one: a batch job must know of every request.
            further = await asyncio.gather(
                *(self._ask(question, memory, replies, order=seed) for seed in seeds), return_exceptions=True
            )
            for seed, outcome in zip(seeds, further, strict=True):
                if isinstance(outcome, BaseException):
                    raise outcome
                orders.append(_order(seed, outcome[0]))
                evidence += tuple(neighbor for neighbor in outcome[1] if neighbor not in evidence)
            answer = _agreed(orders, answer)
        decided = replace(vote, evidence=evidence, orders=tuple(orders) if self.shuffles else ())
        if not answer.ranking:
            said = "none_of_these: the model finds that none of the candidates fits, so the vote stands"
            return replace(decided, reason=said, confidence=answer.confidence)
        return self._with_answer(decided, answer, candidates)

    def _with_answer(self, decided: Prediction, answer: Answer, candidates: int) -> Prediction:
        label, confidence = answer.ranking[0], answer.confidence
        how = f"reranked: {self.model.name} chose among {candidates} candidates"
        if len(decided.orders) > 1:
            how += f", in {len(decided.orders)} orders"
        if self.fusion_weight is not None:
            label, confidence = fuse(decided.votes, label, confidence, weight=self.fusion_weight)[0]
            how += f"; combined with the vote by a weight of {self.fusion_weight:g}"
        return replace(decided, label=label, source="rerank", reason=how, confidence=confidence, ranking=answer.ranking)

    async def _ask(
        self, question: Question, memory: MemoryView, replies: list[Reply], *, order: int | None
    ) -> tuple[Answer, tuple[Neighbor, ...], int]:
        """Return an answer, the neighbours that it names, and the number of candidates."""
        # In a thread: decoding, scaling and reading thumbnails would hold up the replies of other queries.
        prompt, shown = await asyncio.to_thread(question.prompt, self.template, memory, order=order)
        reply = await self.model.generate(Request(prompt, self.generation))
        if not isinstance(reply, Reply):
            raise ModelError(f"it gave {type(reply).__name__} where a Reply is expected")
        replies.append(reply)
        answer = parse_answer(reply.text, prompt)
        return answer, _named(answer, shown), len(prompt.candidates)


STOPPING: Final = (EveryRequestFails,)
"""Errors that end a batch instead of scoring votes."""


PASSING_CODES: Final = frozenset(
    "rate_limited overloaded timed_out connection_broken garbled_response circuit_open".split()
)
"""Reasons for a vote that another time may not be there."""


def _paid(replies: Sequence[Reply]) -> Usage:
    return total_usage(reply.usage for reply in replies if not reply.from_cache)


def _named(answer: Answer, shown: Sequence[Neighbor]) -> tuple[Neighbor, ...]:
    return tuple(shown[number - 1] for number in dict.fromkeys(answer.evidence) if number <= len(shown))


def _order(seed: int | None, answer: Answer) -> Order:
    return Order(seed, answer.ranking[0] if answer.ranking else None, answer.confidence)


def _is_unsure(answer: Answer, question: Question) -> bool:
    agrees = bool(answer.ranking) and answer.ranking[0] == question.votes.winner
    return not agrees or (answer.confidence or 0.0) < _SURE


def _seeds(seed: int, question: Question, count: int) -> list[int]:
    """Return seeds of shuffles that are this query's own, and the same whenever it is asked."""
    draw = random.Random(f"{seed} {[neighbor.id for neighbor in question.neighbors]}")
    return [draw.getrandbits(32) for _ in range(count)]


def _agreed(orders: Sequence[Order], first: Answer) -> Answer:
    """Return what most orders answered, weighed by confidence (permutation self-consistency: Tang et al., 2024)."""
    weights: dict[Label | None, float] = defaultdict(float)
    for order in orders:
        weights[order.label] += 1.0 if order.confidence is None else order.confidence
    label = max(weights, key=lambda answered: weights[answered])
    confidence = weights[label] / len(orders)
    if label is None:
        return Answer((), confidence, first.evidence)
    return Answer((label, *(other for other in first.ranking if other != label)), confidence, first.evidence)
