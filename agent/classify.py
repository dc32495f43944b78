"""The two stages, readable top to bottom: neighbours vote, then a model may have the last word.

Reasons begin with a code for programs, followed by a sentence for people:

    reranked           the model answered with a candidate

and where the vote decides:

    no_model           no model was given
    decisive           the gate kept the model from being asked
    none_of_these      the model found that no candidate fits
    unusable_reply     the reply was none of the candidates, twice
    blocked            the service blocked the prompt or the reply
    empty_reply        a reply without words, twice
    cut_off            the reply met its limit of tokens, twice
    request_refused    the service refused this request
    rate_limited, overloaded, timed_out, connection_broken, garbled_response
                       the last of several attempts failed so
    circuit_open       the service had failed so often that it was not asked
    key_refused, unknown_model, unknown_setting, quota_spent, budget_spent
                       so would every further request: a batch stops here
    model_failed       a model of one's own, or an SDK, failed
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sized
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final, Literal, TypedDict, TypeVar, Unpack

import numpy as np
from jaxtyping import Float

from agent import background
from agent.config import GenerationConfig
from agent.gate import parse_gate
from agent.keys import GEMINI_VARIABLES, key_variable
from agent.models.base import VisionModel
from agent.rerank import STOPPING, Rerank
from agent.types import Prediction
from prompts.catalogue import DEFAULT as DEFAULT_PROMPT
from prompts.catalogue import load_template
from prompts.question import Question, pose_questions
from retrieval.errors import InvalidArgument
from retrieval.images import ImageLike
from retrieval.memory import DEFAULT_NEIGHBORS, VisualMemory
from retrieval.pipeline import Failure
from retrieval.progress import track
from retrieval.snapshot import check_neighbors
from retrieval.voting import DEFAULT_METHOD, check_method

OnError = Literal["vote", "raise"]
Query = TypeVar("Query")
CONCURRENCY: Final = 16
_AHEAD: Final = 4  # times the concurrency: questions made while others wait for their answers


def classify_with_rerank(
    image: ImageLike,
    memory: VisualMemory,
    *,
    model: VisionModel | None = None,
    neighbors: int = DEFAULT_NEIGHBORS,
    voting: str = DEFAULT_METHOD,
    prompt: str = DEFAULT_PROMPT,
    when: str = "always",
    generation: GenerationConfig | None = None,
    fusion_weight: float | None = None,
    shuffles: int = 0,
    seed: int = 0,
    on_error: OnError = "vote",
) -> Prediction:
    """Return what a picture shows, by its neighbours' vote and, where a model is given, the model's second look.

    The paper's whole pipeline (section 2.2): embed, find the nearest neighbours, vote; then show the model the
    neighbours with their labels and take its answer. Whatever keeps the model from giving a usable answer, the vote
    stands in, with the reason.

    Args:
        image: path, encoded bytes, Pillow image or uint8 array.
        memory: where the neighbours come from.
        model: who takes the second look, as `load_model` gives it; None leaves the decision to the vote.
        neighbors: how many neighbours vote and are shown.
        voting: ``rank``, ``plurality``, ``distance`` or ``softmax``.
        prompt: a released template's name, or the path of one's own.
        when: ask the model ``always``, or only where the vote is open: ``margin<0.3``, ``share<0.8``, ``entropy>0.5``.
        generation: temperature, limit of tokens and so on.
        fusion_weight: combine vote and model, the model's probability to this power; None lets the model decide.
        shuffles: ask an unsure query again in this many random orders, and take what most answers say.
        seed: of those orders.
        on_error: ``vote`` falls back to the vote; ``raise`` raises what the model's failure was.

    Raises:
        ImageError: the picture cannot be used.
        InvalidArgument: ``neighbors`` below 1, an unknown voting method or gate, an empty memory.
        UnknownPrompt: no such template.
        EmbedderError: the memory's embedder cannot be had.
        ReplyCacheError: the model keeps replies, and their store cannot be used.
        ModelError, UnusableReply: with ``on_error="raise"``.
    """
    stages = prepare(
        memory,
        model=model,
        neighbors=neighbors,
        voting=voting,
        prompt=prompt,
        when=when,
        generation=generation,
        fusion_weight=fusion_weight,
        shuffles=shuffles,
        seed=seed,
    )
    raising = _raising(on_error, ())
    (question,) = stages.questions([image], memory.embed([image]))
    return background.run(stages.decide(question, raising=raising))


class StageOptions(TypedDict, total=False):
    """Options of `classify_with_rerank`, which says what they mean."""

    model: VisionModel | None
    neighbors: int
    voting: str
    prompt: str
    when: str
    generation: GenerationConfig | None
    fusion_weight: float | None
    shuffles: int
    seed: int


def classify_batch(
    images: Iterable[ImageLike],
    memory: VisualMemory,
    *,
    on_error: OnError = "vote",
    concurrency: int = CONCURRENCY,
    progress: bool = True,
    **options: Unpack[StageOptions],
) -> Iterator[Prediction | Failure[ImageLike]]:
    """Yield a prediction for each of any number of pictures, in order; a `Failure` for one that cannot be used.

    A failure of the model that every further query would meet, such as a refused key or a spent budget, is raised,
    after the predictions before it. Replies received by then are in the model's cache, so that a second run pays for
    none of them again.

    Args:
        images: from any iterable; only as many are taken as are worked on.
        memory: where the neighbours come from.
        on_error: as for `classify_with_rerank`.
        concurrency: how many queries wait for the model at once; its own `TransportConfig.concurrency` bounds it too.
        progress: whether to show a bar.
        options: ``model``, ``neighbors``, ``voting``, ``prompt`` and so on, as for `classify_with_rerank`.

    Raises:
        EveryRequestFails: see above. Otherwise as `classify_with_rerank`, save for ImageError.
    """
    stages = prepare(memory, **options)
    raising = _raising(on_error, STOPPING)
    total = len(images) if isinstance(images, Sized) else None
    queue = track(images, "Classifying", total=total, shown=progress)
    decided = decide_stream(stages, ((image, image) for image in queue), concurrency=concurrency, raising=raising)
    return (found for _, found in decided)


async def classify_batch_async(
    images: Iterable[ImageLike],
    memory: VisualMemory,
    *,
    on_error: OnError = "vote",
    concurrency: int = CONCURRENCY,
    progress: bool = False,
    **options: Unpack[StageOptions],
) -> AsyncIterator[Prediction | Failure[ImageLike]]:
    """Yield what `classify_batch` yields, without blocking the caller's event loop."""
    found = classify_batch(images, memory, on_error=on_error, concurrency=concurrency, progress=progress, **options)
    while (prediction := await asyncio.to_thread(next, found, None)) is not None:
        yield prediction


@dataclass(frozen=True, slots=True)
class Stages:
    """Both stages with their options checked."""

    memory: VisualMemory
    neighbors: int
    voting: str
    rerank: Rerank | None  # None: the vote decides

    def questions(self, images: list[ImageLike], vectors: Float[np.ndarray, "queries dimension"]) -> Iterator[Question]:
        """Yield the embedded queries after the first stage."""
        template = self.rerank.template if self.rerank else None
        return pose_questions(self.memory, images, vectors, k=self.neighbors, voting=self.voting, template=template)

    async def decide(self, question: Question, *, raising: tuple[type[Exception], ...]) -> Prediction:
        """Return the decision; see `Rerank.decide`."""
        if self.rerank is None:
            why = _why_no_model(self.voting)
            return Prediction(question.votes.winner, "vote", why, question.votes, question.neighbors)
        return await self.rerank.decide(question, self.memory, raising=raising)


def prepare(
    memory: VisualMemory,
    *,
    model: VisionModel | None,
    neighbors: int = DEFAULT_NEIGHBORS,
    voting: str = DEFAULT_METHOD,
    prompt: str = DEFAULT_PROMPT,
    when: str = "always",
    generation: GenerationConfig | None = None,
    fusion_weight: float | None = None,
    shuffles: int = 0,
    seed: int = 0,
) -> Stages:
    """Return both stages, with every option checked before anything is embedded or sent.

    Raises:
        InvalidArgument, UnknownPrompt: as for `classify_with_rerank`.
    """
    check_method(voting)
    check_neighbors(neighbors)
    gate = parse_gate(when)
    template = load_template(prompt)
    if model is None:
        return Stages(memory, neighbors, voting, None)
    rerank = Rerank(
        model=model,
        template=template,
        generation=generation or GenerationConfig(),
        gate=gate,
        fusion_weight=fusion_weight,
        shuffles=shuffles,
        seed=seed,
    )
    return Stages(memory, neighbors, voting, rerank)


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
    if concurrency < 1:
        raise InvalidArgument(f"concurrency={concurrency}: 1 or more expected")
    room = asyncio.Semaphore(concurrency)

    async def decide(question: Question) -> Prediction:
        async with room:
            return await stages.decide(question, raising=raising)

    waiting: deque[tuple[Query, Future[Prediction] | Failure[ImageLike]]] = deque()
    try:
        for query, posed in _posed(stages, queries):
            waiting.append((query, posed if isinstance(posed, Failure) else background.submit(decide(posed))))
            while len(waiting) > _AHEAD * concurrency:
                yield _outcome(*waiting.popleft())
        while waiting:
            yield _outcome(*waiting.popleft())
    finally:
        for _, left in waiting:
            if isinstance(left, Future):
                left.cancel()


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


def _outcome(
    query: Query, decided: Future[Prediction] | Failure[ImageLike]
) -> tuple[Query, Prediction | Failure[ImageLike]]:
    return query, decided if isinstance(decided, Failure) else decided.result()


def _raising(on_error: str, always: tuple[type[Exception], ...]) -> tuple[type[Exception], ...]:
    if on_error not in ("vote", "raise"):
        raise InvalidArgument(f"on_error={on_error!r}: 'vote' or 'raise' expected")
    return (Exception,) if on_error == "raise" else always


def _why_no_model(voting: str) -> str:
    key = key_variable()
    absent = f"no model was given and no API key is set ({' or '.join(GEMINI_VARIABLES)})"
    return f"no_model: {'no model was given' if key else absent}; decided by {voting} voting"
