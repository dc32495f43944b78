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
    batch_failed       batch jobs gave no reply, three times
    model_failed       a model of one's own, or an SDK, failed

and where nobody decides (a `Failure`, whose label is None):

    unreadable         the picture cannot be used
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sized
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypedDict, TypeVar, Unpack

import numpy as np
from jaxtyping import Float

from agent.calls import background
from agent.keys import GEMINI_VARIABLES, key_variable
from agent.question import Question, pose_questions
from agent.rerank import STOPPING, Rerank
from agent.settings import Preset, parse_gate, settle
from agent.types import GenerationConfig, Prediction, VisionModel
from retrieval.centring import CentredMemory
from retrieval.embedding import Failure
from retrieval.errors import InvalidArgument
from retrieval.images import ImageLike
from retrieval.support.terminal import track
from retrieval.version import check_neighbors
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

    Options left at None are the preset's, or without one the defaults of `agent.settings.Preset`.

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


OnError = Literal["vote", "raise"]


def classify_with_rerank(
    image: ImageLike,
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
    on_error: OnError = "vote",
) -> Prediction:
    """Return what a picture shows, by its neighbours' vote and, where a model is given, the model's second look.

    The paper's whole pipeline (section 2.2): embed, find the nearest neighbours, vote; then show the model the
    neighbours with their labels and take its answer. Whatever keeps the model from giving a usable answer, the vote
    stands in, with the reason.

    Options from ``neighbors`` to ``seed`` that are left at None are the preset's; without one, what stands first below.

    Args:
        image: path, encoded bytes, Pillow image or uint8 array.
        memory: where the neighbours come from.
        model: who takes the second look, as `load_model` gives it; None leaves the decision to the vote.
        preset: settings that were saved under a name (`agent.settings`), as `vmem prompt tune` finds them; or a file's
            path ending in ``.toml``, or a `Preset`.
        neighbors: how many neighbours vote and are shown: 50.
        voting: ``rank``, ``plurality``, ``distance`` or ``softmax``.
        prompt: a released template's name, ``rerank_v1``, or the path of one's own.
        when: ask the model ``always``, or only where the vote is open: ``margin<0.3``, ``share<0.8``, ``entropy>0.5``.
        generation: temperature, limit of tokens and so on: `GenerationConfig`'s own.
        fusion_weight: combine vote and model, the model's probability to this power; None lets the model decide, unless
            the preset has one.
        shuffles: ask an unsure query again in this many random orders, and take what most answers say: 0.
        seed: of those orders: 0.
        on_error: ``vote`` falls back to the vote; ``raise`` raises what the model's failure was.

    Raises:
        ImageError: the picture cannot be used.
        InvalidArgument: ``neighbors`` below 1, an unknown voting method or gate, an empty memory.
        UnknownPrompt: no such template.
        PresetError: no such preset, a damaged one, or one whose template has changed since.
        EmbedderError: the memory's embedder cannot be had.
        ReplyCacheError: the model keeps replies, and their store cannot be used.
        ModelError, UnusableReply: with ``on_error="raise"``.
    """
    stages = prepare(
        memory,
        model=model,
        preset=preset,
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
    preset: Preset | str | Path | None
    neighbors: int | None
    voting: str | None
    prompt: str | None
    when: str | None
    generation: GenerationConfig | None
    fusion_weight: float | None
    shuffles: int | None
    seed: int | None


def classify_batch(
    images: Iterable[ImageLike],
    memory: MemoryView,
    *,
    on_error: OnError = "vote",
    concurrency: int = CONCURRENCY,
    progress: bool = True,
    **options: Unpack[StageOptions],
) -> Iterator[Prediction | Failure[ImageLike]]:
    """Yield a prediction for each of any number of pictures, in order; a `Failure` for one that cannot be used.

    A `Failure` reads like a prediction: its ``label`` is None, its ``source`` "none", and its ``reason`` says why.

    A failure of the model that every further query would meet, such as a refused key or a spent budget, is raised,
    after the predictions before it. Replies received by then are in the model's cache, so that a second run pays for
    none of them again.

    Args:
        images: from any iterable; only as many are taken as are worked on.
        memory: where the neighbours come from.
        on_error: as for `classify_with_rerank`.
        concurrency: how many queries wait for the model at once; its own `TransportConfig.concurrency` bounds it too.
        progress: whether to show a bar.
        options: ``model``, ``preset``, ``neighbors``, ``voting``, ``prompt`` and so on, as for `classify_with_rerank`.

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
    memory: MemoryView,
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


def _raising(on_error: str, always: tuple[type[Exception], ...]) -> tuple[type[Exception], ...]:
    if on_error not in ("vote", "raise"):
        raise InvalidArgument(f"on_error={on_error!r}: 'vote' or 'raise' expected")
    return (Exception,) if on_error == "raise" else always
