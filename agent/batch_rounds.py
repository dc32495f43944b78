"""The second stage by batch jobs, in rounds.

It runs as ever, on a model that looks into the store. What is not there is written to a file instead of being sent, and
the query is postponed; a full file becomes a job, a *wave*. When its replies are in the store the postponed queries are
decided again. They may need more, such as a second attempt or another order, which makes the next round.
"""

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import IO, Final, Protocol, TypeVar

from agent import background
from agent.batches import BatchJobs
from agent.errors import EveryRequestFails, ModelError
from agent.metered import BudgetInFlight
from agent.models.wire import to_body
from agent.reply_key import Key, key_of
from agent.retrying import with_larger_limit
from agent.stages import Stages
from agent.types import Prediction, Reply, Request, Usage, total_usage
from retrieval.disk import writing
from retrieval.progress import track

_ROUNDS: Final = 20
_CONCURRENCY: Final = 4  # prompts are made, not sent


Query = TypeVar("Query")


class Decide(Protocol[Query]):
    """A way to decide queries by both stages."""

    def __call__(self, stages: Stages, queries: Sequence[Query], *, concurrency: int) -> Iterator[tuple[Query, object]]:
        """Yield queries with their decisions."""
        ...


class Postponed(ModelError):
    """A reply that a later round will have."""


def fetch_replies(
    jobs: BatchJobs, stages: Stages, queries: Sequence[Query], *, decide: Decide[Query], progress: bool
) -> Stages:
    """Have every reply that some queries need, and return stages that answer from them alone.

    Args:
        jobs: ask by batch.
        stages: both stages.
        queries: anything.
        decide: yields queries with their decisions by the stages it is given, like `agent.stages.decide_stream`.
        progress: whether to show a bar.

    Raises:
        EveryRequestFails: the key, the model or the budget does not allow it.
        ModelError: the service does not answer. What was submitted is remembered: run the same again.
    """
    assert stages.rerank is not None
    background.run(jobs.recover())
    collector = _Collector(jobs)
    collecting = replace(stages, rerank=replace(stages.rerank, model=collector))
    remaining = list(queries)
    try:
        for number in range(_ROUNDS):
            decided = decide(collecting, remaining, concurrency=_CONCURRENCY)
            seen = track(decided, f"Preparing round {number + 1}", total=len(remaining), shown=progress)
            remaining = [query for query, found in seen if _is_postponed(found)]
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


def _is_postponed(found: object) -> bool:
    return isinstance(found, Prediction) and found.code == "postponed"


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
        if digest not in jobs.in_flight and ledger.is_worth_submitting(digest):
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
        self._expected += self._reserved(request)
        jobs.store.keep_request(key, request)
        if self._file is None:
            with writing(self._path):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("w", encoding="utf-8")
        self._file.write(json.dumps({"key": key.digest, "request": to_body(request)}) + "\n")
        self._keys[key.digest] = None
        full = self._file.tell() >= jobs.settings.wave_bytes or len(self._keys) >= jobs.settings.wave_requests
        if full:
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

    def _reserved(self, request: Request) -> float:
        try:
            return self._jobs.meter.reserve(request, batch=True)
        except BudgetInFlight:
            raise EveryRequestFails(
                "the jobs that wait for their replies hold what is left of --max-cost: go on with the same command when"
                " they have ended, or with a higher one",
                code="budget_spent",
            ) from None
