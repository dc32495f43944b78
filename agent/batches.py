"""Gemini's batch jobs: half the price, within a day; their replies land in the same store as any other."""

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from agent.batch_ledger import BatchLedger
from agent.errors import CutOff, EmptyReply, ModelError, PassingFailure
from agent.loading import LoadedModel
from agent.metered import Meter
from agent.models.gemini import Gemini
from agent.models.wire import failure, read_reply
from agent.reply_store import ReplyStore
from agent.types import Reply, Usage
from retrieval.errors import InvalidArgument

logger = logging.getLogger(__name__)
T = TypeVar("T")

WAVE_BYTES: Final = 10**9  # of one file; the service takes 2 GB
WAVE_REQUESTS: Final = 20_000
_POLL_SECONDS: Final = 30.0


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
        self.meter.calls += len(keys)
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
