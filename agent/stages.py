"""Both stages with their options checked, for one query or a stream of them."""

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
from jaxtyping import Float

from agent import background
from agent.config import GenerationConfig
from agent.gate import parse_gate
from agent.keys import GEMINI_VARIABLES, key_variable
from agent.models.base import VisionModel
from agent.presets import Preset, settle
from agent.rerank import STOPPING, Rerank
from agent.types import Prediction
from prompts.question import Question, pose_questions
from retrieval.centring import CentredMemory
from retrieval.errors import InvalidArgument
from retrieval.images import ImageLike
from retrieval.pipeline import Failure
from retrieval.snapshot import check_neighbors
from retrieval.view import MemoryView
from retrieval.voting import check_method

Query = TypeVar("Query")
Unused = TypeVar("Unused")  # what could not be used
CONCURRENCY: Final = 16
_AHEAD: Final = 4  # times the concurrency: questions made while others wait for their answers


@dataclass(frozen=True, slots=True)
class Stages:
    """Both stages with their options checked."""

    memory: MemoryView
    neighbors: int
    voting: str
    rerank: Rerank | None  # None: the vote decides
    searched: CentredMemory | None = None  # in the memory's place, for embeddings that were centred

    def questions(self, images: list[ImageLike], vectors: Float[np.ndarray, "queries dimension"]) -> Iterator[Question]:
        """Yield the embedded queries after the first stage."""
        template = self.rerank.template if self.rerank else None
        searched = self.searched or self.memory
        return pose_questions(searched, images, vectors, k=self.neighbors, voting=self.voting, template=template)

    async def decide(self, question: Question, *, raising: tuple[type[Exception], ...]) -> Prediction:
        """Return the decision; see `Rerank.decide`."""
        if self.rerank is None:
            why = _why_no_model(self.voting)
            return Prediction(question.votes.winner, "vote", why, question.votes, question.neighbors)
        return await self.rerank.decide(question, self.memory, raising=raising)


def prepare(
    memory: MemoryView,
    *,
    model: VisionModel | None = None,
    preset: Preset | str | Path | None = None,
    neighbors: int | None = None,
    voting: str | None = None,
    prompt: str | None = None,
    when: str | None = None,
    generation: GenerationConfig | None = None,
    fusion_weight: float | None = None,
    shuffles: int | None = None,
    seed: int | None = None,
) -> Stages:
    """Return both stages, with every option checked before anything is embedded or sent.

    Options left at None are the preset's, or without one the defaults of `agent.presets.Preset`.

    Raises:
        InvalidArgument, UnknownPrompt, PresetError: as for `classify_with_rerank`.
    """
    chosen = settle(
        preset,
        neighbors=neighbors,
        voting=voting,
        prompt=prompt,
        when=when,
        generation=generation,
        fusion_weight=fusion_weight,
        shuffles=shuffles,
        seed=seed,
    )
    check_method(chosen.voting)
    check_neighbors(chosen.neighbors)
    gate = parse_gate(chosen.when)
    template = chosen.template()
    if model is None:
        return Stages(memory, chosen.neighbors, chosen.voting, None)
    rerank = Rerank(
        model=model,
        template=template,
        generation=chosen.generation,
        gate=gate,
        fusion_weight=chosen.fusion_weight,
        shuffles=chosen.shuffles,
        seed=chosen.seed,
    )
    return Stages(memory, chosen.neighbors, chosen.voting, rerank)


def decide_stream(
    stages: Stages,
    queries: Iterable[tuple[Query, ImageLike]],
    *,
    concurrency: int,
    raising: tuple[type[Exception], ...] = STOPPING,
) -> Iterator[tuple[Query, Prediction | Failure[ImageLike]]]:
    """Yield things with the decisions on their pictures, in order, while further ones are embedded and asked about.

    Raises:
        One of ``raising``, after the decisions before it.
    """
    return decide_posed(stages, _posed(stages, queries), concurrency=concurrency, raising=raising)


def decide_posed(
    stages: Stages,
    posed: Iterable[tuple[Query, Question | Failure[Unused]]],
    *,
    concurrency: int,
    raising: tuple[type[Exception], ...] = STOPPING,
) -> Iterator[tuple[Query, Prediction | Failure[Unused]]]:
    """Yield things with the decisions on what was asked about them, in order; see `decide_stream`."""
    if concurrency < 1:
        raise InvalidArgument(f"concurrency={concurrency}: 1 or more expected")
    room = asyncio.Semaphore(concurrency)

    async def decide(question: Question) -> Prediction:
        async with room:
            return await stages.decide(question, raising=raising)

    waiting: deque[tuple[Query, Future[Prediction] | Failure[Unused]]] = deque()
    try:
        for query, question in posed:
            waiting.append((query, question if isinstance(question, Failure) else background.submit(decide(question))))
            while len(waiting) > _AHEAD * concurrency:
                yield _outcome(*waiting.popleft())
        while waiting:
            yield _outcome(*waiting.popleft())
    finally:
        for _, left in waiting:
            if isinstance(left, Future):
                left.cancel()
        background.finish(_until_empty(room, concurrency))  # what was cancelled may still be closing its connection


async def _until_empty(room: asyncio.Semaphore, places: int) -> None:
    """Wait until nobody is in a room any more."""
    for _ in range(places):
        await room.acquire()


def _posed(
    stages: Stages, queries: Iterable[tuple[Query, ImageLike]]
) -> Iterator[tuple[Query, Question | Failure[ImageLike]]]:
    """Yield the questions, and the pictures that cannot be used in their places among them."""
    for batch in stages.memory.embed_stream(enumerate(queries), image_of=lambda numbered: numbered[1][1]):
        failures = deque(batch.failures)
        questions = stages.questions([image for _, (_, image) in batch.items], batch.vectors) if batch.items else ()
        for (number, (query, _)), question in zip(batch.items, questions, strict=True):
            while failures and failures[0].item[0] < number:
                yield _failed(failures.popleft())
            yield query, question
        yield from map(_failed, failures)


def _failed(failure: Failure[tuple[int, tuple[Query, ImageLike]]]) -> tuple[Query, Failure[ImageLike]]:
    query, image = failure.item[1]
    return query, Failure(image, failure.error)


def _outcome(query: Query, decided: Future[Prediction] | Failure[Unused]) -> tuple[Query, Prediction | Failure[Unused]]:
    return query, decided if isinstance(decided, Failure) else decided.result()


def _why_no_model(voting: str) -> str:
    key = key_variable()
    absent = f"no model was given and no API key is set ({' or '.join(GEMINI_VARIABLES)})"
    return f"no_model: {'no model was given' if key else absent}; decided by {voting} voting"
