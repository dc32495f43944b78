"""Many queries at once: in order, none lost, none doubled, nothing paid twice.

``VMEM_TEST_QUERIES`` says how many to ask with pictures of the neighbours, by each SDK; a hundred if it is not set.
"""

import asyncio
import io
import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from agent import Prediction, ScriptedModel, classify_batch, classify_batch_async, classify_with_rerank
from agent.calls.cached import ReplyStore
from agent.calls.ready import LoadedModel
from agent.errors import EveryRequestFails
from agent.types import Reply, Request
from prompts.types import NONE_CODE, ImagePart
from retrieval import VisualMemory
from retrieval.embedding import Failure
from retrieval.errors import InvalidArgument, NotAnImage
from retrieval.images import ImageLike
from tests.agent.conftest import KINDS
from tests.agent.queries import answer_by_picture, code_for, noise
from tests.conftest import draw
from tests.gemini_protocol import Call
from tests.gemini_server import GeminiServer

QUERIES = int(os.environ.get("VMEM_TEST_QUERIES", "100"))
FAULTS = "429 500 502-html reset truncated disconnect malformed empty not-json unknown-label safety".split()


@pytest.mark.parametrize(
    ("kind", "count", "prompt"),
    [("gemini", 2000, "labels_only_v1"), *((kind, QUERIES, "rerank_v1") for kind in KINDS)],
)
def test_every_query_of_many_threads_is_right_or_an_explained_vote(
    memory: VisualMemory,
    server: GeminiServer,
    ready: Callable[..., LoadedModel],
    fresh_store: ReplyStore,
    kind: str,
    count: int,
    prompt: str,
) -> None:
    lock, chance = threading.Lock(), random.Random(0)

    def fault(call: Call) -> str | None:
        with lock:
            return chance.choice(FAULTS) if chance.random() < 0.3 else None

    server.answer, server.fault_for, server.check_images = answer_by_picture, fault, False
    model = ready(kind, store=fresh_store, attempts=10, concurrency=32)

    def classify(number: int) -> Prediction:
        return classify_with_rerank(noise(number), memory, model=model, k=18, prompt=prompt)

    with ThreadPoolExecutor(32) as threads:
        predictions = list(threads.map(classify, range(count)))
    assert len(predictions) == count
    for prediction in predictions:
        if prediction.source == "rerank":
            assert prediction.reply is not None
            code = prediction.reply.text.split('"ranking": ["')[1][0]
            assert prediction.label == prediction.votes.labels["ABC".index(code)]
        else:
            assert prediction.code in ("blocked", "unusable_reply", "empty_reply") and prediction.label
    served = Counter(call.images[-1] for call in server.generate_calls() if call.fault is None)
    votes = [number for number, prediction in enumerate(predictions) if prediction.source == "vote"]
    assert set(served.values()) == {1} and len(served) == count - len(votes)
    assert all(code_for(picture) in "ABC" for picture in served)
    kept = list(fresh_store.entries())
    assert len(kept) == count - len(votes) and all('"ranking": ["' in entry.reply.text for entry in kept)

    server.calls.clear()
    server.fault_for = lambda call: None
    with ThreadPoolExecutor(32) as threads:
        again = list(threads.map(classify, range(count)))
    assert len(server.generate_calls()) == len(votes)  # what was answered is not asked again, what failed is
    assert all(prediction.source == "rerank" for prediction in again)
    assert [p.label for p in again if p.reply and p.reply.from_cache] == [
        p.label for p in predictions if p.code == "reranked"
    ]


def test_results_come_in_the_order_of_the_pictures_with_failures_in_their_places(memory: VisualMemory) -> None:
    pictures: list[ImageLike] = [draw((200, 30, 30), 1), b"words", draw((40, 60, 200), 2), b"", draw((30, 160, 60), 3)]
    model = ScriptedModel(lambda prompt: "A")
    found = list(classify_batch(pictures, memory, model=model, k=3, progress=False))
    assert [f.label for f in found if isinstance(f, Prediction)] == ["red", "blue", "green"]
    assert [type(f) for f in found] == [Prediction, Failure, Prediction, Failure, Prediction]
    assert isinstance(found[1], Failure) and isinstance(found[1].error, NotAnImage) and found[1].item == b"words"


def test_only_as_many_pictures_are_taken_as_are_worked_on(memory: VisualMemory) -> None:
    taken = []

    def endless() -> Iterator[Image.Image]:
        for number in range(10**9):
            taken.append(number)
            yield noise(number)

    model = ScriptedModel(lambda prompt: "A")
    found = classify_batch(endless(), memory, model=model, k=3, concurrency=2, progress=False)
    assert [next(found).label for _ in range(3)] and len(taken) < 500
    found.close()  # type: ignore[attr-defined]


def test_the_async_form_leaves_the_callers_loop_free(memory: VisualMemory) -> None:
    async def classify() -> tuple[list[str], int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.001)

        ticking = asyncio.create_task(tick())
        model = ScriptedModel(lambda prompt: "A")
        found = classify_batch_async([noise(n) for n in range(20)], memory, model=model, k=3)
        labels = [str(prediction.label) async for prediction in found]
        ticking.cancel()
        return labels, ticks

    labels, ticks = asyncio.run(classify())
    assert len(labels) == 20 and "None" not in labels and ticks > 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", ["403", "404"])
def test_an_error_that_every_query_would_meet_ends_a_batch_at_its_start(
    memory: VisualMemory, server: GeminiServer, ready: Callable[..., LoadedModel], kind: str, fault: str
) -> None:
    server.fault_for = lambda call: fault
    pictures = (noise(number) for number in range(5000))
    with pytest.raises(EveryRequestFails, match=r"\((403|404): "):
        list(classify_batch(pictures, memory, model=ready(kind), k=3, concurrency=4, progress=False))
    assert len(server.generate_calls()) <= 8


class Lingering:
    """A model that refuses the call about a tall picture once others run, which take a while to end."""

    name = "lingering"
    working = 0

    async def generate(self, request: Request) -> Reply:
        query = [part for part in request.prompt.parts if isinstance(part, ImagePart)][-1]
        with Image.open(io.BytesIO(query.encoded)) as picture:
            is_tall = picture.height > picture.width
        if is_tall:
            while self.working < 2:
                await asyncio.sleep(0.01)
            raise EveryRequestFails("refused", code="key_refused")
        self.working += 1
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.2)
            self.working -= 1
        raise AssertionError("it was not cancelled")


def test_the_calls_that_a_batch_cancels_have_ended_when_it_ends(memory: VisualMemory) -> None:
    model = Lingering()
    pictures = [noise(0).resize((32, 64)), *map(noise, range(1, 9))]
    with pytest.raises(EveryRequestFails):
        list(classify_batch(pictures, memory, model=model, k=3, concurrency=3, progress=False))
    assert model.working == 0


def test_without_concurrency_nothing_can_be_asked(memory: VisualMemory) -> None:
    with pytest.raises(InvalidArgument, match="concurrency=0: 1 or more expected"):
        list(classify_batch([noise(1)], memory, model=ScriptedModel("A"), concurrency=0))


def test_equal_requests_at_once_make_one_call(
    memory: VisualMemory, server: GeminiServer, ready: Callable[..., LoadedModel], fresh_store: ReplyStore
) -> None:
    server.latency_seconds = 0.3
    model = ready(store=fresh_store)
    pictures = [noise(1)] * 12
    found = list(classify_batch(pictures, memory, model=model, k=3, concurrency=12, progress=False))
    assert len(found) == 12 and len(server.generate_calls()) == 1


def test_none_of_the_candidates_leaves_the_vote(memory: VisualMemory) -> None:
    prediction = classify_with_rerank(noise(1), memory, model=ScriptedModel(NONE_CODE), k=3)
    assert (prediction.source, prediction.code) == ("vote", "none_of_these")
    assert prediction.label == prediction.votes.winner and prediction.reply is not None
