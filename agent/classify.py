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
import itertools
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, Unpack

import numpy as np
from jaxtyping import Float

from agent.calls import background
from agent.errors import EveryRequestFails, ModelError, PresetError
from agent.keys import GEMINI_VARIABLES, key_variable
from agent.presets import load_preset
from agent.rerank import agreed, fuse, is_unsure, order_seeds
from agent.settings import CONCURRENCY, Options, Settings, takes_options
from agent.types import Order, Prediction, Reply, Request, Usage, VisionModel, total_usage
from prompts.answer import Answer, parse_answer
from prompts.render import QUERY_PIXELS, balance, compose_prompt, query_picture
from prompts.template import Template, load_template
from prompts.types import Prompt, UnusableReply
from retrieval.embedding import Failure
from retrieval.errors import InvalidArgument, VisualMemoryError
from retrieval.images import ImageLike, decode
from retrieval.support.terminal import track
from retrieval.types import Neighbor, Votes
from retrieval.view import MemoryView
from retrieval.voting import count_votes

Query = TypeVar("Query")
Unused = TypeVar("Unused")  # what could not be used
OnError = Literal["vote", "raise"]
STOPPING: Final = (EveryRequestFails,)
"""Errors that end a batch instead of scoring votes."""
PASSING_CODES: Final = frozenset(
    "rate_limited overloaded timed_out connection_broken garbled_response circuit_open".split()
)
"""Reasons for a vote that another time may not be there."""
_AHEAD: Final = 4  # times the concurrency: questions made while others wait for their answers
_WIDER: Final = 10  # times k neighbours are looked through for those of rare candidates


@dataclass(frozen=True, slots=True)
class Question:
    """A query after the first stage."""

    image: ImageLike
    neighbors: tuple[Neighbor, ...]  # those that voted, nearest first
    votes: Votes
    shown: tuple[Neighbor, ...]  # those that a prompt shows
    picture: bytes | None = None  # the query as it is sent; None: made of the image when a prompt needs it

    def prompt(
        self, template: Template, memory: MemoryView, *, order: int | None = None
    ) -> tuple[Prompt, tuple[Neighbor, ...]]:
        """Return the prompt, and the neighbours in the order it shows them; see `compose_prompt`.

        Raises:
            UnknownPrompt: the template has an error.
            ImageError: the query's picture cannot be used.
        """
        picture = self.picture or query_picture(decode(self.image))
        return compose_prompt(template, picture, memory, self.shown, self.votes, order=order)


@dataclass(frozen=True, slots=True)
class Stages:
    """Both stages with their options checked."""

    memory: MemoryView
    settings: Settings
    template: Template
    model: VisionModel | None = None  # None: the vote decides
    searched: MemoryView | None = None  # in the memory's place, for embeddings that were centred

    @property
    def query_pixels(self) -> int | None:
        """The longest side of queries as they are sent; None where few or none are: those are decoded again."""
        return QUERY_PIXELS if self.model and self.settings.gate.measure == "always" else None

    def pose(self, queries: Iterable[tuple[Query, ImageLike]]) -> Iterator[tuple[Query, Question | Failure[ImageLike]]]:
        """Embed queries, search, and vote: yield them as questions, and those that cannot be used in their places."""
        stream = self.memory.embed_stream(
            enumerate(queries), image_of=lambda numbered: numbered[1][1], thumbnail_pixels=self.query_pixels
        )
        for batch in stream:
            failures = deque(batch.failures)
            images = [image for _, (_, image) in batch.items]
            questions = self.questions(images, batch.vectors, batch.thumbnails) if images else ()
            for (number, (query, _)), question in zip(batch.items, questions, strict=True):
                while failures and failures[0].item[0] < number:
                    yield _failed(failures.popleft())
                yield query, question
            yield from map(_failed, failures)

    def questions(
        self,
        images: Sequence[ImageLike],
        vectors: Float[np.ndarray, "queries dimension"],
        pictures: Sequence[bytes] = (),
    ) -> Iterator[Question]:
        """Search and vote for a batch of embedded queries.

        Args:
            images: the queries.
            vectors: their embeddings.
            pictures: the queries as they are sent, where decoding them for their embedding made these as well.
        """
        k, searched = self.settings.k, self.searched or self.memory
        wider = self.template.neighbors == "balanced"  # the nearest hold too few of rare candidates
        found = searched.search_vectors(vectors, k=min(_WIDER * k, searched.findable) if wider else k)
        voters = found.nearest(k)
        votes_of = count_votes(
            voters.labels, voters.distances, method=self.settings.voting, factors=voters.reliabilities
        )
        as_sent = pictures or itertools.repeat(None, len(images))
        each = zip(images, voters, votes_of, found, as_sent, strict=True)
        for image, near, votes, far, picture in each:
            yield Question(image, near, votes, balance(far, votes.labels, count=k) if wider else near, picture)

    async def decide(self, question: Question, *, raising: tuple[type[Exception], ...] = ()) -> Prediction:
        """Return the decision on a query; where the model gives none, the vote's, with the reason.

        Args:
            question: the query after the first stage.
            raising: errors that are to be raised instead.

        Raises:
            UnknownPrompt, ImageError, ReplyCacheError: what no vote should hide.
        """
        vote = Prediction(question.votes.winner, "vote", "", question.votes, question.neighbors)
        if self.model is None:
            return replace(vote, reason=f"no_model: {_why_no_model()}; decided by {self.settings.voting} voting")
        gate = self.settings.gate
        if not gate.asks(question.votes):
            return replace(vote, reason=f"decisive: the vote does not meet {gate}, so the model was not asked")
        replies: list[Reply] = []
        failed = Usage()
        try:
            decided = await self._reranked(vote, question, replies)
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

    async def _reranked(self, vote: Prediction, question: Question, replies: list[Reply]) -> Prediction:
        """Ask, in further orders where the answer is unsure, and return what is made of the answers."""
        assert self.model is not None
        answer, evidence, candidates = await self._ask(question, replies, order=None)
        orders = [Order(None, answer.best, answer.confidence)]
        if self.settings.shuffles and is_unsure(answer, question.votes):
            seeds = order_seeds(self.settings.seed, question.neighbors, self.settings.shuffles)
            # All of them are waited for, whatever becomes of one: a batch job must know of every request.
            further = await asyncio.gather(
                *(self._ask(question, replies, order=seed) for seed in seeds), return_exceptions=True
            )
            for seed, outcome in zip(seeds, further, strict=True):
                if isinstance(outcome, BaseException):
                    raise outcome
                orders.append(Order(seed, outcome[0].best, outcome[0].confidence))
                evidence += tuple(neighbor for neighbor in outcome[1] if neighbor not in evidence)
            answer = agreed(orders, answer)
        decided = replace(
            vote,
            confidence=answer.confidence,
            ranking=answer.ranking,
            evidence=evidence,
            orders=tuple(orders) if self.settings.shuffles else (),
        )
        if not answer.ranking:
            said = "none_of_these: the model finds that none of the candidates fits, so the vote stands"
            return replace(decided, reason=said)
        label, confidence = answer.ranking[0], answer.confidence
        how = f"reranked: {self.model.name} chose among {candidates} candidates"
        if len(orders) > 1:
            how += f", in {len(orders)} orders"
        if (weight := self.settings.fusion_weight) is not None:
            label, confidence = fuse(vote.votes, label, confidence, weight=weight)[0]
            how += f"; combined with the vote by a weight of {weight:g}"
        return replace(decided, label=label, source="rerank", reason=how, confidence=confidence)

    async def _ask(
        self, question: Question, replies: list[Reply], *, order: int | None
    ) -> tuple[Answer, tuple[Neighbor, ...], int]:
        """Return an answer, the neighbours that it names, and the number of candidates."""
        assert self.model is not None
        # In a thread: decoding, scaling and reading thumbnails would hold up the replies of other queries.
        prompt, shown = await asyncio.to_thread(question.prompt, self.template, self.memory, order=order)
        reply = await self.model.generate(Request(prompt, self.settings.generation))
        if not isinstance(reply, Reply):
            raise ModelError(f"it gave {type(reply).__name__} where a Reply is expected")
        replies.append(reply)
        answer = parse_answer(reply.text, prompt)
        named = tuple(shown[number - 1] for number in dict.fromkeys(answer.evidence) if number <= len(shown))
        return answer, named, len(prompt.candidates)

    def described(self) -> dict[str, Any]:
        """Return everything of the second stage that can change an answer, in JSON's types; empty without a model."""
        if self.model is None:
            return {}
        settings = self.settings
        return {
            "model": self.model.name,
            "prompt": f"{self.template.name} {self.template.digest[:16]}",
            "when": str(settings.gate),
            "generation": asdict(settings.generation),
            "fusion weight": settings.fusion_weight,
            "shuffles": settings.shuffles,
            "seed": settings.seed,
        }


def prepare(
    memory: MemoryView,
    *,
    model: VisionModel | None = None,
    preset: Settings | str | Path | None = None,
    **options: Any,  # noqa: ANN401 - as for `Settings.overridden`
) -> Stages:
    """Return both stages, with every option checked before anything is embedded or sent.

    Options left at None are the preset's, or without one the defaults of `agent.settings.Settings`.

    Raises:
        InvalidArgument, UnknownPrompt, PresetError: as for `classify_with_rerank`.
    """
    if not isinstance(preset, Settings):
        preset = Settings() if preset is None else load_preset(preset)
    settings = preset.overridden(**options).checked()
    template = load_template(settings.prompt)
    if settings.template_digest not in ("", template.digest):
        raise PresetError(
            f"the preset {settings.name} was saved with another text of {settings.prompt} than it has now: pass the"
            " prompt beside the preset to use the new text, or save the preset anew"
        )
    return Stages(memory, settings, template, model)


class BatchOptions(Options, total=False):
    """Options of `classify_batch`."""

    model: VisionModel | None
    preset: Settings | str | Path | None
    on_error: OnError
    concurrency: int


@takes_options
def classify_with_rerank(
    image: ImageLike,
    memory: MemoryView,
    *,
    model: VisionModel | None = None,
    preset: Settings | str | Path | None = None,
    on_error: OnError = "vote",
    **options: Unpack[Options],
) -> Prediction:
    """Return what a picture shows, by its neighbours' vote and, where a model is given, the model's second look.

    The paper's whole pipeline (section 2.2): embed, find the nearest neighbours, vote; then show the model the
    neighbours with their labels and take its answer. Whatever keeps the model from giving a usable answer, the vote
    stands in, with the reason.

    Options from ``k`` to ``seed`` that are left at None are the preset's; without one, what stands first below.

    Args:
        image: path, encoded bytes, Pillow image or uint8 array.
        memory: where the neighbours come from.
        model: who takes the second look, as `load_model` gives it; None leaves the decision to the vote.
        preset: settings that were saved under a name (`agent.presets`), as `vmem prompt tune` finds them; or a file's
            path ending in ``.toml``, or `Settings`.
        on_error: ``vote`` falls back to the vote; ``raise`` raises what the model's failure was.
        k: how many neighbours vote and are shown: 50. ``neighbors`` is an older word for it.
        voting: ``rank``, ``plurality``, ``distance`` or ``softmax``.
        prompt: a released template's name, ``rerank_v1``, or the path of one's own.
        when: ask the model ``always``, or only where the vote is open: ``margin<0.3``, ``share<0.8``, ``entropy>0.5``.
        generation: temperature, limit of tokens and so on: `GenerationConfig`'s own.
        fusion_weight: combine vote and model, the model's probability to this power; None lets the model decide, unless
            the preset has one.
        shuffles: ask an unsure query again in this many random orders, and take what most answers say: 0.
        seed: of those orders: 0.

    Raises:
        ImageError: the picture cannot be used.
        InvalidArgument: ``k`` below 1, an unknown voting method or gate, an empty memory.
        UnknownPrompt: no such template.
        PresetError: no such preset, a damaged one, or one whose template has changed since.
        EmbedderError: the memory's embedder cannot be had.
        ReplyCacheError: the model keeps replies, and their store cannot be used.
        ModelError, UnusableReply: with ``on_error="raise"``.
    """
    stages = prepare(memory, model=model, preset=preset, **options)
    raising = _raising(on_error, ())
    ((_, question),) = stages.pose([(None, image)])  # embed, search, vote
    if isinstance(question, Failure):
        raise question.error
    return background.run(stages.decide(question, raising=raising))  # gate, ask, decide


@takes_options
def classify_batch(
    images: Iterable[ImageLike],
    memory: MemoryView,
    *,
    model: VisionModel | None = None,
    preset: Settings | str | Path | None = None,
    on_error: OnError = "vote",
    concurrency: int = CONCURRENCY,
    progress: bool = True,
    **options: Unpack[Options],
) -> Iterator[Prediction | Failure[ImageLike]]:
    """Yield a prediction for each of any number of pictures, in order; a `Failure` for one that cannot be used.

    A `Failure` reads like a prediction: its ``label`` is None, its ``source`` "none", and its ``reason`` says why.

    A failure of the model that every further query would meet, such as a refused key or a spent budget, is raised,
    after the predictions before it. Replies received by then are in the model's cache, so that a second run pays for
    none of them again.

    Args:
        images: from any iterable; only as many are taken as are worked on.
        memory: where the neighbours come from.
        model: as for `classify_with_rerank`.
        preset: the same.
        on_error: the same.
        concurrency: how many queries wait for the model at once; its own `TransportConfig.concurrency` bounds it too.
        progress: whether to show a bar.
        options: ``k``, ``voting``, ``prompt`` and so on, as for `classify_with_rerank`.

    Raises:
        EveryRequestFails: see above. Otherwise as `classify_with_rerank`, save for ImageError.
    """
    stages = prepare(memory, model=model, preset=preset, **options)
    raising = _raising(on_error, STOPPING)
    total = len(images) if isinstance(images, Sized) else None
    queue = track(images, "Classifying", total=total, shown=progress)
    decided = decide_stream(stages, ((image, image) for image in queue), concurrency=concurrency, raising=raising)
    return (found for _, found in decided)


async def classify_batch_async(
    images: Iterable[ImageLike],
    memory: MemoryView,
    *,
    progress: bool = False,
    **options: Unpack[BatchOptions],
) -> AsyncIterator[Prediction | Failure[ImageLike]]:
    """Yield what `classify_batch` yields, without blocking the caller's event loop."""
    found = classify_batch(images, memory, progress=progress, **options)
    while (prediction := await asyncio.to_thread(next, found, None)) is not None:
        yield prediction


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
    return decide_posed(stages, stages.pose(queries), concurrency=concurrency, raising=raising)


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


def _outcome(query: Query, decided: Future[Prediction] | Failure[Unused]) -> tuple[Query, Prediction | Failure[Unused]]:
    return query, decided if isinstance(decided, Failure) else decided.result()


def _failed(failure: Failure[tuple[int, tuple[Query, ImageLike]]]) -> tuple[Query, Failure[ImageLike]]:
    query, image = failure.item[1]
    return query, Failure(image, failure.error)


def _paid(replies: Sequence[Reply]) -> Usage:
    return total_usage(reply.usage for reply in replies if not reply.from_cache)


def _why_no_model() -> str:
    absent = f" and no API key is set ({' or '.join(GEMINI_VARIABLES)})"
    return f"no model was given{'' if key_variable() else absent}"


def _raising(on_error: str, always: tuple[type[Exception], ...]) -> tuple[type[Exception], ...]:
    if on_error not in ("vote", "raise"):
        raise InvalidArgument(f"on_error={on_error!r}: 'vote' or 'raise' expected")
    return (Exception,) if on_error == "raise" else always
