"""Gemini's batch jobs: half the price, within a day; their replies land in the same store as any other.

A wave is a set of requests that one job asks. Two files in the run folder remember every wave and what came of each
request, so that no process after this one, however it ends, submits or pays for anything twice.
"""

import asyncio
import json
import logging
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any, Final, TypeVar

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from agent.calls import background
from agent.calls.cached import Key, key_of
from agent.calls.metered import BudgetInFlight
from agent.calls.ready import LoadedModel
from agent.calls.retrying import with_larger_limit
from agent.classify import Question, Stages, decide_posed
from agent.errors import CutOff, EmptyReply, EveryRequestFails, ModelError, PassingFailure
from agent.models.gemini import Gemini
from agent.models.wire import failure, read_reply, to_body
from agent.types import Prediction, Reply, Request, Usage, total_usage
from retrieval.embedding import Failure
from retrieval.errors import InvalidArgument
from retrieval.storage.places import writing
from retrieval.support.parsing import JsonLines, parse_json, say_lines
from retrieval.support.terminal import track

T = TypeVar("T")
Query = TypeVar("Query")
logger = logging.getLogger(__name__)
SUBMISSIONS: Final = 3  # of one request, before it counts as failed
_ROUNDS: Final = 20
_CONCURRENCY: Final = 4  # prompts are made, not sent
_HTTP_OF_RPC: Final = {3: 400, 4: 504, 5: 404, 7: 403, 8: 429, 10: 503, 13: 500, 14: 503, 16: 401}
"""Items of a job may fail with a code of google.rpc.Status instead of HTTP's."""


@dataclass(frozen=True, slots=True)
class BatchSettings:
    """How jobs are cut and watched."""

    wave_bytes: int = 10**9  # of one file; the service takes 2 GB
    wave_requests: int = 20_000
    poll_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class Wave:
    """Requests that were submitted together, by the digests of their keys."""

    name: str
    job: str | None  # None: it is not known whether the service took it
    keys: list[str]
    expected: float  # dollars that it may cost


class BatchLedger:
    """Both files, and what follows from them. Requests are known by the digests of their keys."""

    def __init__(self, folder: Path, *, model: str) -> None:
        self.folder = folder
        self._model = model
        self._waves = JsonLines(folder / "waves.jsonl")
        self._results = JsonLines(folder / "results.jsonl")
        for lines, name in ((self._waves, "waves.jsonl"), (self._results, "results.jsonl")):
            if lines.damaged:
                logger.warning("%s: what it held is asked again", say_lines(folder / name, lines.damaged))
        self.waves: dict[str, Wave] = {}  # whose end is not known
        self.in_flight: set[str] = set()  # requests of those waves
        self.submissions: Counter[str] = Counter()  # that the service took
        self.answered: set[str] = set()  # those that this run paid for
        self.failures: dict[str, ModelError] = {}
        self.replies: dict[str, Reply] = {}  # those that the store does not take: unusable, or no longer expected there
        self.again: dict[str, str] = {}  # why a request is to be made again in another way
        self.spent: dict[str, Usage] = {}  # on answers that were none
        for line in self._waves.records:
            self._take_wave(line)
        for line in self._results.records:
            self._take_result(line)

    def note(self, name: str, **said: Any) -> None:  # noqa: ANN401 - JSON's types
        """Say of a wave that it is about to be submitted (``keys``, ``expected``), taken (``job``) or ``closed``."""
        self._waves.append({"wave": name, **said})
        self._take_wave({"wave": name, **said})

    def _take_wave(self, line: dict[str, Any]) -> None:
        name = line["wave"]
        if "keys" in line:
            self.waves[name] = Wave(name, None, line["keys"], line["expected"])
            self.in_flight.update(line["keys"])
        elif "job" in line and name in self.waves:
            self.waves[name] = replace(self.waves[name], job=line["job"])
            self.submissions.update(self.waves[name].keys)
        elif "closed" in line and name in self.waves:
            self.in_flight.difference_update(self.waves.pop(name).keys)

    def keep_results(self, lines: list[dict[str, Any]]) -> None:
        """Keep what came of requests: their ``key``, and ``code`` and ``sentence``, a ``reply``, or ``again``."""
        self._results.append(*lines)
        for line in lines:
            self._take_result(line)

    def _take_result(self, line: dict[str, Any]) -> None:
        key, usage = line["key"], Usage(**line["usage"])
        if "again" in line:
            self.again[key] = line["again"]
            self.spent[key] = total_usage([self.spent.get(key, Usage()), usage])
            return
        self.answered.add(key)
        if "reply" in line:
            self.replies[key] = Reply(line["reply"], self._model, usage)
        elif "code" in line:
            self.failures[key] = ModelError(line["sentence"], code=line["code"], usage=usage)

    def is_worth_submitting(self, digest: str) -> bool:
        """Tell whether to submit a request; one that jobs left unanswered too often has failed from here on."""
        if self.submissions[digest] >= SUBMISSIONS:
            said = f"{SUBMISSIONS} batch jobs gave no reply"
            self.failures.setdefault(digest, ModelError(said, code="batch_failed"))
        return digest not in self.failures


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
        self.model, self.store, self.meter = model, model.store, model.meter
        self.settings = settings or BatchSettings()
        self._gemini = model.bare
        self.ledger = BatchLedger(run / "batch", model=model.name)
        self._held: set[str] = set()  # names of waves whose cost is set aside

    async def recover(self) -> None:
        """Find the jobs of a process that died, so that none is submitted twice.

        Raises:
            ModelError: the service does not say.
        """
        for wave in list(self.ledger.waves.values()):
            job = wave.job or await self._patiently(partial(self._gemini.find_job, wave.name))
            if job is None:
                self.ledger.note(wave.name, closed=True)
                continue
            if wave.job is None:
                self.ledger.note(wave.name, job=job)
            if wave.name not in self._held:
                self._hold(wave.name, wave.expected)

    def _hold(self, name: str, expected: float) -> None:
        self._held.add(name)
        self.meter.hold(expected)

    async def submit(self, file: Path, keys: list[str], expected: float) -> None:
        """Turn a file of requests, and the dollars that they may cost, into a job; the file is deleted.

        Raises:
            ModelError: the service refuses.
        """
        name = f"vmem-{secrets.token_hex(8)}"
        uploaded = await self._patiently(partial(self._gemini.upload, file, name))

        async def create() -> str:
            # A connection that broke after the service took the job must not make a second one.
            return await self._gemini.find_job(name) or await self._gemini.create_job(name, uploaded)

        self.ledger.note(name, keys=keys, expected=expected)
        self._hold(name, expected)
        job = await self._patiently(create)
        self.ledger.note(name, job=job)
        self.meter.begin_calls(len(keys))
        file.unlink()
        logger.info("submitted %d requests as %s", len(keys), job)

    async def collect(self) -> None:
        """Wait until every job has ended, and keep what came of them.

        Raises:
            ModelError: the service does not say.
        """
        waiting_since = time.monotonic()
        while waves := list(self.ledger.waves.values()):
            for wave in waves:
                await self._look_after(wave)
            if self.ledger.waves:
                minutes = (time.monotonic() - waiting_since) / 60
                logger.info("waiting for %d jobs, %.0f min so far", len(self.ledger.waves), minutes)
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
        self.ledger.note(wave.name, closed=True)
        self._held.discard(wave.name)
        self.meter.release(wave.expected)

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
        once_more = self.ledger.submissions[key] < 2
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
        usage = Usage()
        try:
            reply = read_reply(parsed["response"], self.model.name)
            usage = reply.usage
        except ModelError as error:
            usage = error.usage or usage
            raise
        finally:
            self.meter.count(usage, batch=True)
        return reply

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        attempts = AsyncRetrying(
            retry=retry_if_exception_type(PassingFailure),
            stop=stop_after_attempt(8),
            wait=wait_random_exponential(multiplier=min(1.0, self.settings.poll_seconds), max=60),
            reraise=True,
        )
        return await attempts(call)


class Postponed(ModelError):
    """A reply that a later round will have."""


def fetch_replies(
    jobs: BatchJobs,
    stages: Stages,
    queries: Sequence[Query],
    *,
    pose: Callable[[Stages, Sequence[Query]], Iterator[tuple[Query, Question | Failure[Query]]]],
    progress: bool,
) -> Stages:
    """Have every reply that some queries need, and return stages that answer from them alone.

    Args:
        jobs: ask by batch.
        stages: both stages.
        queries: anything.
        pose: yields queries as questions, by the stages it is given.
        progress: whether to show a bar.

    Raises:
        EveryRequestFails: the key, the model or the budget does not allow it.
        ModelError: the service does not answer. What was submitted is remembered: run the same again.
    """
    background.run(jobs.recover())
    collector = _Collector(jobs)
    collecting = replace(stages, model=collector)
    remaining = list(queries)
    try:
        for number in range(_ROUNDS):
            decided = decide_posed(collecting, pose(collecting, remaining), concurrency=_CONCURRENCY)
            seen = track(decided, f"Preparing round {number + 1}", total=len(remaining), shown=progress)
            remaining = [query for query, found in seen if isinstance(found, Prediction) and found.code == "postponed"]
            background.run(collector.flush())
            background.run(jobs.collect())
            if not remaining:
                return collecting
    finally:
        background.run(collector.close())
    raise EveryRequestFails(
        f"{len(remaining)} queries have no reply after {_ROUNDS} rounds of batch jobs: run the same command again",
        code="batch_failed",
    )


class _Collector:
    """A model that answers from the store, and writes what is not there to the next wave."""

    def __init__(self, jobs: BatchJobs) -> None:
        self._jobs = jobs
        self._lock = asyncio.Lock()
        self._file: IO[str] | None = None
        self._keys: dict[str, None] = {}  # of the next wave, in order
        self._expected = 0.0  # dollars that the wave may cost
        self._path = jobs.ledger.folder / "next.jsonl"

    @property
    def name(self) -> str:
        return self._jobs.model.name

    async def generate(self, request: Request) -> Reply:
        key = key_of(self.name, request)
        digest, jobs, ledger = key.digest, self._jobs, self._jobs.ledger
        spent = ledger.spent.get(digest, Usage())
        kept = jobs.store.get(key) or ledger.replies.get(digest)
        if kept is not None:
            ours = digest in ledger.answered
            return replace(kept, from_cache=not ours, usage=total_usage([kept.usage, spent]) if ours else kept.usage)
        if digest not in ledger.in_flight and ledger.is_worth_submitting(digest):
            async with self._lock:
                await self._write(key, request)
        if digest in ledger.failures:
            failed = ledger.failures[digest]
            usage = total_usage([failed.usage or Usage(), spent])
            raise ModelError(str(failed), code=failed.code, usage=usage)
        raise Postponed("its batch job has not ended yet", code="postponed")

    async def _write(self, key: Key, request: Request) -> None:
        jobs = self._jobs
        if key.digest in self._keys:
            return
        again = jobs.ledger.again.get(key.digest)
        if again == "cut_off":
            request = with_larger_limit(request)
        elif again == "unusable_reply":
            request = replace(request, replicate=request.replicate + 1)
        try:
            self._expected += jobs.meter.reserve(request, batch=True)
        except BudgetInFlight:
            raise EveryRequestFails(
                "the jobs that wait for their replies hold what is left of --max-cost: go on with the same command when"
                " they have ended, or with a higher one",
                code="budget_spent",
            ) from None
        jobs.store.keep_request(key, request)
        if self._file is None:
            with writing(self._path):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("w", encoding="utf-8")
        self._file.write(json.dumps({"key": key.digest, "request": to_body(request)}) + "\n")
        self._keys[key.digest] = None
        if self._file.tell() >= jobs.settings.wave_bytes or len(self._keys) >= jobs.settings.wave_requests:
            await self._submit()

    async def flush(self) -> None:
        """Submit what the last wave holds."""
        async with self._lock:
            if self._keys:
                await self._submit()

    async def close(self) -> None:
        """Leave what was not submitted."""
        if self._file is not None:
            self._file.close()

    async def _submit(self) -> None:
        assert self._file is not None
        self._file.close()
        keys, self._keys, self._file = list(self._keys), {}, None
        expected, self._expected = self._expected, 0.0
        self._jobs.meter.release(expected)  # the jobs hold it from here on
        try:
            await self._jobs.submit(self._path, keys, expected)
        except ModelError as error:  # no vote should stand in for a job that cannot be made
            raise EveryRequestFails(str(error), code=error.code) from None
