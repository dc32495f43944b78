"""Work that takes longer than a page may: done once for each version of a memory, whoever asks, in a thread."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from retrieval.errors import VisualMemoryError
from retrieval.progress import watched

_log: Final = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Job:
    """A piece of work: under way, done, or failed."""

    version: str  # of the memory that it is of
    began: float  # by `time.monotonic`
    what: str = ""  # is being done
    part: float | None = None  # done of it, 0 to 1; None where that is not known
    seconds: float = 0.0  # that it took, once it has ended
    ended: bool = False
    result: Any = None
    error: str = ""  # one sentence, where it failed

    def _watch(self, what: str, part: float) -> None:
        self.what, self.part = what, part


class Jobs:
    """The work on one memory. The last of each name is kept, so that a page that is opened again shows it at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}

    def find(self, name: str, version: str) -> Job | None:
        """Return the work of a name on a version, if it was begun."""
        job = self._jobs.get(name)
        return job if job and job.version == version else None

    def start(self, name: str, version: str, work: Callable[[], Any]) -> Job:
        """Begin work, or join in where it is under way or done; what failed is tried again."""
        with self._lock:
            job = self.find(name, version)
            if job is None or job.error:
                job = self._jobs[name] = Job(version, time.monotonic())
                # A daemon: who ends the server does not wait for a projection.
                threading.Thread(target=_run, args=(job, work), name=name, daemon=True).start()
            return job


def _run(job: Job, work: Callable[[], Any]) -> None:
    try:
        with watched(job._watch):
            job.result = work()
    except VisualMemoryError as error:
        job.error = str(error)
    except Exception:
        _log.exception("Work behind a page failed")
        job.error = "It failed; the server's terminal says why."
    job.seconds = time.monotonic() - job.began
    job.ended = True  # last: who reads it finds the rest in place
