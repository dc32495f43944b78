"""The second stage: whether to ask, what, how often, and what to make of the answers."""

import asyncio
import math
import random
from collections import defaultdict
from collections.abc import Sequence, Set
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Float

from agent.errors import EveryRequestFails, ModelError
from agent.question import Question
from agent.settings import ALWAYS, Gate
from agent.types import GenerationConfig, Order, Prediction, Reply, Request, Usage, VisionModel, total_usage
from prompts.answer import Answer, parse_answer
from prompts.template import Template
from prompts.types import UnusableReply
from retrieval.errors import InvalidArgument, VisualMemoryError
from retrieval.types import Label, Neighbor, Votes
from retrieval.view import MemoryView

_UNCLAIMED: Final = 0.9  # for a model that states no confidence
_LEAST: Final = 0.01  # a claim of certainty must not outweigh any vote
_HEAVIEST: Final = 10.0
_IMPOSSIBLE: Final = 1e-300  # a likelihood that rounds to 0


def fuse(votes: Votes, label: Label, confidence: float | None, *, weight: float) -> list[tuple[Label, float]]:
    """Return the voted labels with their fused probabilities, the likeliest first.

    Args:
        votes: of the first stage.
        label: the model's answer; one that nobody voted for has no share, so that the vote stands.
        confidence: what it claims for it.
        weight: how much the model counts beside the vote.
    """
    answer, others = _log_experts(confidence, len(votes.labels))
    scores = [
        math.log(share) + weight * (answer if voted == label else others)
        for voted, share in zip(votes.labels, votes.shares, strict=True)
    ]
    highest = max(scores)
    powers = [math.exp(score - highest) for score in scores]
    fused = [(voted, power / sum(powers)) for voted, power in zip(votes.labels, powers, strict=True)]
    return sorted(fused, key=lambda pair: -pair[1])


def fit_fusion_weight(
    votes: Sequence[Votes], labels: Sequence[Label], confidences: Sequence[float | None], truths: Sequence[Set[Label]]
) -> float:
    """Return the weight, 0 to 10, under which the right labels are likeliest. Fit it on queries that you do not score.

    Queries whose right label has no vote say nothing about the weight and are left out.

    Raises:
        InvalidArgument: no query is left.
    """
    from scipy.optimize import minimize_scalar

    rows = [row for row in zip(votes, labels, confidences, truths, strict=True) if row[3] & set(row[0].labels)]
    if not rows:
        raise InvalidArgument("no query has its right label among the voted ones: a fusion weight cannot be fitted")
    shares, model, right = _as_arrays(rows)

    def surprise(weight: float) -> float:
        scores = shares + weight * model
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        likelihood = np.where(right, powers, 0.0).sum(axis=1) / powers.sum(axis=1)
        return -float(np.log(np.maximum(likelihood, _IMPOSSIBLE)).sum())

    return float(minimize_scalar(surprise, bounds=(0.0, _HEAVIEST), method="bounded").x)


_Row = tuple[Votes, Label, float | None, Set[Label]]


def _as_arrays(
    rows: Sequence[_Row],
) -> tuple[Float[np.ndarray, "queries most"], Float[np.ndarray, "queries most"], Bool[np.ndarray, "queries most"]]:
    """Return, of every query's voted labels, log share, the model's log probability, and whether they are right.

    Rows are filled up to the most labels that a query has; a share of nothing keeps what is filled in out of sums.
    """
    most = max(len(votes.labels) for votes, *_ in rows)
    shares, model = np.full((len(rows), most), -np.inf), np.zeros((len(rows), most))
    right = np.zeros((len(rows), most), bool)
    for row, (votes, label, confidence, truth) in enumerate(rows):
        width = len(votes.labels)
        answer, others = _log_experts(confidence, width)
        shares[row, :width] = np.log(votes.shares)
        model[row, :width] = [answer if voted == label else others for voted in votes.labels]
        right[row, :width] = [voted in truth for voted in votes.labels]
    return shares, model, right


def _log_experts(confidence: float | None, labels: int) -> tuple[float, float]:
    """Return the model's log probability of its answer, and of each other of so many voted labels."""
    claimed = min(max(_UNCLAIMED if confidence is None else confidence, _LEAST), 1 - _LEAST)
    return math.log(claimed), math.log((1 - claimed) / max(1, labels - 1))


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
