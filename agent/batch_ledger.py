"""What a run's folder remembers of its batch jobs: what was submitted, and what came of it.

``RUN/batch/waves.jsonl`` holds what was submitted, line by line, before and after each step:

    {"wave": NAME, "keys": […], …}      about to be submitted under this name, and the dollars that it may cost
    {"wave": NAME, "job": "batches/…"}  the service has taken it
    {"wave": NAME, "closed": true}      its replies are kept, or it never was, or it failed

A process that dies between the first two lines leaves a job that may exist: the next one looks for its name among the
service's jobs before anything is submitted again. So nothing is paid twice.

``RUN/batch/results.jsonl`` holds a line for each answer: that the reply is in the store, or the reply itself, or why
there is none, or that the request is to be made again in another way; with the tokens that it took.
"""

import logging
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from agent.errors import ModelError
from agent.types import Reply, Usage, total_usage
from retrieval.jsonlines import JsonLines, say_lines

logger = logging.getLogger(__name__)
SUBMISSIONS: Final = 3  # of one request, before it counts as failed


@dataclass(frozen=True, slots=True)
class Wave:
    """Requests that were submitted together, by the digests of their keys."""

    name: str
    job: str | None  # None: it is not known whether the service took it
    keys: list[str]
    expected: float  # dollars that it may cost


class BatchLedger:
    """Both files, and what follows from them."""

    def __init__(self, folder: Path, *, model: str) -> None:
        self.folder = folder
        self._model = model
        self._waves = JsonLines(folder / "waves.jsonl")
        self._results = JsonLines(folder / "results.jsonl")
        for lines, name in ((self._waves, "waves.jsonl"), (self._results, "results.jsonl")):
            if lines.damaged:
                logger.warning("%s: what it held is asked again", say_lines(folder / name, lines.damaged))
        self.answered: set[str] = set()  # by the digests of keys: those that this run paid for
        self.failures: dict[str, ModelError] = {}
        self.replies: dict[str, Reply] = {}  # those that the store does not take: unusable, or no longer expected there
        self.again: dict[str, str] = {}  # why a request is to be made again in another way
        self.spent: dict[str, Usage] = {}  # on answers that were none
        self._submissions: Counter[str] = Counter()  # that the service took
        for wave in self._all_waves().values():
            self._submissions.update(wave.keys if wave.job else ())
        for line in self._results.records:
            self._take(line)

    def open_waves(self) -> list[Wave]:
        """Return the waves whose end is not known."""
        closed = {line["wave"] for line in self._waves.records if "closed" in line}
        return [wave for name, wave in self._all_waves().items() if name not in closed]

    def _all_waves(self) -> dict[str, Wave]:
        waves: dict[str, Wave] = {}
        for line in self._waves.records:
            if "keys" in line:
                waves[line["wave"]] = Wave(line["wave"], None, line["keys"], line["expected"])
            elif "job" in line and line["wave"] in waves:
                waves[line["wave"]] = replace(waves[line["wave"]], job=line["job"])
        return waves

    def begin(self, name: str, keys: list[str], expected: float) -> None:
        """Say that a wave is about to be submitted, and what it may cost."""
        self._waves.append({"wave": name, "keys": keys, "expected": expected})

    def began(self, name: str, job: str) -> None:
        """Say that the service took a wave."""
        self._waves.append({"wave": name, "job": job})
        self._submissions.update(self._all_waves()[name].keys)

    def close(self, name: str) -> None:
        """Say that nothing more will come of a wave."""
        self._waves.append({"wave": name, "closed": True})

    def keep_results(self, lines: list[dict[str, Any]]) -> None:
        """Keep what came of requests: their ``key``, and ``code`` and ``sentence``, a ``reply``, or ``again``."""
        self._results.append(*lines)
        for line in lines:
            self._take(line)

    def submissions(self, digest: str) -> int:
        """Return how often a request was submitted."""
        return self._submissions[digest]

    def is_worth_submitting(self, digest: str) -> bool:
        """Tell whether to submit a request; one that jobs left unanswered too often has failed from here on."""
        if self._submissions[digest] >= SUBMISSIONS:
            said = f"{SUBMISSIONS} batch jobs gave no reply"
            self.failures.setdefault(digest, ModelError(said, code="batch_failed"))
        return digest not in self.failures

    def _take(self, line: dict[str, Any]) -> None:
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
