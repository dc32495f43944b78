"""Gemini's batch jobs: half the price, within a day; their replies land in the same store as any other.

The second stage runs as ever, on a model that looks into the store. What is not there is written to a file instead of
being sent, and the query is postponed; a full file becomes a job, a *wave*. When its replies are in the store the
postponed queries are decided again. They may need more, such as a second attempt or another order, which makes the next
round.
"""

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any, Final, TypeVar

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from agent import background
from agent.batch_ledger import BatchLedger
from agent.classify import Stages, decide_stream
from agent.errors import CutOff, EmptyReply, ModelError, PassingFailure
from agent.loading import LoadedModel
from agent.metered import Meter
from agent.models.gemini import Gemini
from agent.models.wire import failure, read_reply, to_body
from agent.reply_store import Key, ReplyStore, key_of
from agent.retrying import with_larger_limit
from agent.types import Prediction, Reply, Request, Usage
from retrieval.disk import writing
from retrieval.errors import InvalidArgument
from retrieval.images import ImageLike
from retrieval.progress import track

logger = logging.getLogger(__name__)
T = TypeVar("T")

WAVE_BYTES: Final = 10**9  # of one file; the service takes 2 GB
WAVE_REQUESTS: Final = 20_000
_POLL_SECONDS: Final = 30.0
_ROUNDS: Final = 20
_CONCURRENCY: Final = 4  # prompts are made, not sent


class Postponed(ModelError):
    """A reply that a later round will have."""


@dataclass(frozen=True, slots=True)
class BatchSettings:
    """How jobs are cut and watched."""

    wave_bytes: int = WAVE_BYTES
    wave_requests: int = WAVE_REQUESTS
    poll_seconds: float = _POLL_SECONDS


class BatchJobs:
    """The jobs of one run, as its folder remembers them."""

    def __init__(self, run: Path, model: LoadedModel, settings: BatchSettings | None = None) -> None:
        """Read what a process before this one submitted; nothing is sent yet.

        Args:
            run: the run folder.
            model: a Gemini model of `load_model`, with its store of replies.
            settings: sizes and times.

        Raises:
            InvalidArgument: a model that has no batch jobs, or keeps no replies.
        """
        if not isinstance(model.bare, Gemini) or model.store is None:
            raise InvalidArgument(
                f"--batch with {model.name}: a Gemini model with its cache expected, such as gemini-3.5-flash-lite"
            )
        self.model = model
        self.settings = settings or BatchSettings()
        self._gemini: Gemini = model.bare
        self.store: ReplyStore = model.store
        self.meter: Meter = model.meter
        self.ledger = BatchLedger(run / "batch", model=model.name)
        self.cut_off: set[str] = set()  # to be submitted once more with a larger limit of tokens
        self.no_answer: set[str] = set()  # to be submitted once more as another replicate
        self.in_flight: set[str] = set()

    async def recover(self) -> None:
        """Find the jobs of a process that died, so that none is submitted twice.

        Raises:
            ModelError: the service does not say.
        """
        for wave in self.ledger.open_waves():
            if wave.job is None:
                job = await self._find_job(wave.name)
                if job is None:
                    self.ledger.close(wave.name)
                else:
                    self.ledger.began(wave.name, job)
        self.in_flight = {key for wave in self.ledger.open_waves() for key in wave.keys}

    async def submit(self, file: Path, keys: list[str]) -> None:
        """Turn a file of requests into a job; the file is deleted.

        Raises:
            ModelError: the service refuses.
        """
        name = f"vmem-{secrets.token_hex(8)}"
        uploaded = await self._patiently(partial(self._gemini.upload, file, name))
        self.ledger.begin(name, keys)
        job = await self._patiently(partial(self._create, name, uploaded))
        self.ledger.began(name, job)
        self.in_flight.update(keys)
        file.unlink()
        logger.info("submitted %d requests as %s", len(keys), job)

    async def collect(self) -> None:
        """Wait until every job has ended, and keep what came of them.

        Raises:
            ModelError: the service does not say.
        """
        waiting_since = time.monotonic()
        while open_waves := self.ledger.open_waves():
            for wave in open_waves:
                assert wave.job is not None  # `recover` and `submit` see to that
                state, result = await self._patiently(partial(self._gemini.job_state, wave.job))
                if state == "running":
                    continue
                if state == "succeeded" and result:
                    await self._keep_results(await self._patiently(partial(self._gemini.download, result)))
                else:
                    logger.warning("%s ended as %s: its requests are submitted again", wave.job, state)
                self.ledger.close(wave.name)
                self.in_flight.difference_update(wave.keys)
            if still_open := len(self.ledger.open_waves()):
                minutes = (time.monotonic() - waiting_since) / 60
                logger.info("waiting for %d jobs, %.0f min so far", still_open, minutes)
                await asyncio.sleep(self.settings.poll_seconds)

    async def _keep_results(self, content: bytes) -> None:
        """Keep every line of a job's result, joined by key: the order is the service's."""
        lines = []
        for text in content.splitlines():
            try:
                parsed = json.loads(text)
                lines.append(self._result_line(parsed["key"], parsed))
            except (ValueError, KeyError, TypeError, AttributeError):
                continue  # what it should have answered is missing, and submitted again
        self.ledger.keep_results([line for line in lines if line is not None])

    def _result_line(self, key: str, parsed: dict[str, Any]) -> dict[str, Any] | None:
        """Keep one result and return its line for the ledger; None where it is worth another submission."""
        if key in self.ledger.answered:
            return None  # read by a process that died before it could say so
        line: dict[str, Any] = {"key": key}
        try:
            reply = self._reply_in(parsed)
            if not self.store.complete(key, reply):
                if self.ledger.submissions(key) < 2:
                    self.no_answer.add(key)
                    return None
                line["unusable"] = reply.text
        except ModelError as error:
            if self._is_worth_another(error, key):
                return None
            line |= {"code": error.code, "sentence": str(error)}
        return line

    def _reply_in(self, parsed: dict[str, Any]) -> Reply:
        if "response" not in parsed:
            error = parsed["error"]
            raise failure(int(error.get("code", 500)), str(error.get("message", "")), error.get("details", []))
        try:
            reply = read_reply(parsed["response"], self.model.name)
        except ModelError as error:
            self.meter.count(error.usage or Usage(), batch=True)
            raise
        self.meter.count(reply.usage, batch=True)
        return reply

    def _is_worth_another(self, error: ModelError, key: str) -> bool:
        if isinstance(error, CutOff):
            self.cut_off.add(key)
        once_more = self.ledger.submissions(key) < 2
        return once_more if isinstance(error, EmptyReply | CutOff) else isinstance(error, PassingFailure)

    async def _create(self, name: str, uploaded: str) -> str:
        # A connection that broke after the service took the job must not make a second one.
        return await self._find_job(name) or await self._gemini.create_job(name, uploaded)

    async def _find_job(self, name: str) -> str | None:
        return await self._patiently(partial(self._gemini.find_job, name))

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        attempts = AsyncRetrying(
            retry=retry_if_exception_type(PassingFailure),
            stop=stop_after_attempt(8),
            wait=wait_random_exponential(multiplier=min(1.0, self.settings.poll_seconds), max=60),
            reraise=True,
        )
        return await attempts(call)


def fetch_replies(
    jobs: BatchJobs, stages: Stages, queries: Sequence[Any], *, image_of: Callable[[Any], ImageLike], progress: bool
) -> Stages:
    """Have every reply that some queries need, and return stages that answer from them alone.

    Raises:
        EveryRequestFails: the key, the model or the budget does not allow it.
        ModelError: the service does not answer. What was submitted is remembered: run the same again.
    """
    assert stages.rerank is not None
    background.run(jobs.recover())
    collector = _Collector(jobs)
    collecting = replace(stages, rerank=replace(stages.rerank, model=collector))
    remaining = list(queries)
    for number in range(_ROUNDS):
        queue = track(remaining, f"Preparing round {number + 1}", total=len(remaining), shown=progress)
        decided = decide_stream(collecting, ((query, image_of(query)) for query in queue), concurrency=_CONCURRENCY)
        remaining = [query for query, found in decided if isinstance(found, Prediction) and found.code == "postponed"]
        background.run(collector.flush())
        background.run(jobs.collect())
        if not remaining:
            break
    return collecting


class _Collector:
    """A model that answers from the store, and writes what is not there to the next wave."""

    def __init__(self, jobs: BatchJobs) -> None:
        self._jobs = jobs
        self._lock = asyncio.Lock()
        self._file: IO[str] | None = None
        self._keys: list[str] = []
        self._expected = 0.0  # dollars that the wave may cost
        self._path = jobs.ledger.folder / "next.jsonl"

    @property
    def name(self) -> str:
        return self._jobs.model.name

    async def generate(self, request: Request) -> Reply:
        key = key_of(self.name, request)
        jobs, ledger = self._jobs, self._jobs.ledger
        kept = jobs.store.get(key)
        if kept is not None:
            return replace(kept, from_cache=key.digest not in ledger.answered)
        if key.digest in ledger.unusable:
            return ledger.unusable[key.digest]
        if key.digest not in jobs.in_flight and ledger.is_worth_submitting(key.digest):
            async with self._lock:
                await self._write(key, request)
        if key.digest in ledger.failures:
            raise ledger.failures[key.digest]
        raise Postponed("its batch job has not ended yet", code="postponed")

    async def _write(self, key: Key, request: Request) -> None:
        jobs = self._jobs
        if key.digest in self._keys:
            return
        if key.digest in jobs.cut_off:
            request = with_larger_limit(request)
        if key.digest in jobs.no_answer:
            request = replace(request, replicate=request.replicate + 1)
        self._expected += jobs.meter.reserve(request, batch=True)
        jobs.store.keep_request(key, request)
        if self._file is None:
            with writing(self._path):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("w", encoding="utf-8")
        self._file.write(json.dumps({"key": key.digest, "request": to_body(request)}) + "\n")
        self._keys.append(key.digest)
        full = self._file.tell() >= jobs.settings.wave_bytes or len(self._keys) >= jobs.settings.wave_requests
        if full:
            await self._submit()

    async def flush(self) -> None:
        """Submit what the last wave holds."""
        async with self._lock:
            if self._keys:
                await self._submit()

    async def _submit(self) -> None:
        assert self._file is not None
        self._file.close()
        keys, self._keys, self._file = self._keys, [], None
        try:
            await self._jobs.submit(self._path, keys)
        finally:
            self._jobs.meter.release(self._expected)
            self._expected = 0.0
