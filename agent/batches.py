"""Gemini's batch jobs: half the price, within a day; their replies land in the same store as any other."""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from agent.batch_ledger import BatchLedger, Wave
from agent.errors import CutOff, EmptyReply, EveryRequestFails, ModelError, PassingFailure
from agent.loading import LoadedModel
from agent.metered import Meter
from agent.models.gemini import Gemini
from agent.models.wire import failure, read_reply
from agent.reply_store import ReplyStore
from agent.types import Reply, Usage
from retrieval.errors import InvalidArgument
from retrieval.outside import parse_json

logger = logging.getLogger(__name__)
T = TypeVar("T")

WAVE_BYTES: Final = 10**9  # of one file; the service takes 2 GB
WAVE_REQUESTS: Final = 20_000
_POLL_SECONDS: Final = 30.0
_HTTP_OF_RPC: Final = {3: 400, 4: 504, 5: 404, 7: 403, 8: 429, 10: 503, 13: 500, 14: 503, 16: 401}
"""Items of a job may fail with a code of google.rpc.Status instead of HTTP's."""


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
        self.in_flight: set[str] = set()
        self._held: set[str] = set()  # names of waves whose cost is set aside

    async def recover(self) -> None:
        """Find the jobs of a process that died, so that none is submitted twice.

        Raises:
            ModelError: the service does not say.
        """
        for wave in self.ledger.open_waves():
            if wave.job is None:
                job = await self._patiently(partial(self._gemini.find_job, wave.name))
                if job is None:
                    self.ledger.close(wave.name)
                else:
                    self.ledger.began(wave.name, job)
        for wave in self.ledger.open_waves():
            if wave.name not in self._held:
                self._hold(wave)
        self.in_flight = {key for wave in self.ledger.open_waves() for key in wave.keys}

    async def submit(self, file: Path, keys: list[str], expected: float) -> None:
        """Turn a file of requests, and the dollars that they may cost, into a job; the file is deleted.

        Raises:
            ModelError: the service refuses.
        """
        name = f"vmem-{secrets.token_hex(8)}"
        uploaded = await self._patiently(partial(self._gemini.upload, file, name))
        self.ledger.begin(name, keys, expected)
        self._hold(Wave(name, None, keys, expected))
        job = await self._patiently(partial(self._create, name, uploaded))
        self.ledger.began(name, job)
        self.in_flight.update(keys)
        self.meter.begin_calls(len(keys))
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
                await self._look_after(wave)
            if still_open := len(self.ledger.open_waves()):
                minutes = (time.monotonic() - waiting_since) / 60
                logger.info("waiting for %d jobs, %.0f min so far", still_open, minutes)
                await asyncio.sleep(self.settings.poll_seconds)

    async def _look_after(self, wave: Wave) -> None:
        if wave.job is None:
            raise ModelError(f"the batch job {wave.name} could not be made: run the same command again")
        try:
            state, result = await self._patiently(partial(self._gemini.job_state, wave.job))
            if state == "running":
                return
            content = await self._patiently(partial(self._gemini.download, result)) if result else None
        except EveryRequestFails as error:
            if error.code != "unknown_model":  # which is how the service says that it has forgotten a job or a file
                raise
            state, content = "forgotten", None
        if content is None:
            logger.warning("%s ended as %s: its requests are submitted again", wave.job, state)
        else:
            self._keep_results(content)
        self.ledger.close(wave.name)
        self.in_flight.difference_update(wave.keys)
        self._held.discard(wave.name)
        self.meter.release(wave.expected)

    def _hold(self, wave: Wave) -> None:
        self._held.add(wave.name)
        self.meter.hold(wave.expected)

    def _keep_results(self, content: bytes) -> None:
        """Keep every line of a job's result, joined by key: the order is the service's."""
        lines = []
        for text in content.splitlines():
            try:
                parsed = parse_json(text)
                lines.append(self._result_line(parsed["key"], parsed))
            except (ValueError, KeyError, TypeError, AttributeError):
                continue  # what it should have answered is missing, and submitted again
        self.ledger.keep_results([line for line in lines if line is not None])

    def _result_line(self, key: str, parsed: dict[str, Any]) -> dict[str, Any] | None:
        """Keep one result and return its line for the ledger; None where it is simply submitted again."""
        if key in self.ledger.answered:
            return None  # read by a process that died before it could say so
        once_more = self.ledger.submissions(key) < 2
        try:
            reply = self._reply_in(parsed)
        except ModelError as error:
            line = {"key": key, "usage": asdict(error.usage or Usage())}
            if isinstance(error, CutOff | EmptyReply) and once_more:
                return line | {"again": error.code}
            if isinstance(error, PassingFailure) and not isinstance(error, EmptyReply):
                return None
            return line | {"code": error.code, "sentence": str(error)}
        line = {"key": key, "usage": asdict(reply.usage)}
        kept = self.store.complete(key, reply)
        if kept is False and once_more:
            return line | {"again": "unusable_reply"}
        return line if kept else line | {"reply": reply.text}

    def _reply_in(self, parsed: dict[str, Any]) -> Reply:
        if "response" not in parsed:
            error = parsed["error"]
            code = int(error.get("code", 500))
            raise failure(_HTTP_OF_RPC.get(code, code), str(error.get("message", "")), error.get("details", []))
        try:
            reply = read_reply(parsed["response"], self.model.name)
        except ModelError as error:
            self.meter.count(error.usage or Usage(), batch=True)
            raise
        self.meter.count(reply.usage, batch=True)
        return reply

    async def _create(self, name: str, uploaded: str) -> str:
        # A connection that broke after the service took the job must not make a second one.
        return await self._gemini.find_job(name) or await self._gemini.create_job(name, uploaded)

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        attempts = AsyncRetrying(
            retry=retry_if_exception_type(PassingFailure),
            stop=stop_after_attempt(8),
            wait=wait_random_exponential(multiplier=min(1.0, self.settings.poll_seconds), max=60),
            reraise=True,
        )
        return await attempts(call)
