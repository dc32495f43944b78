"""What can go wrong with a model, sorted by what is to be done.

VisualMemoryError
├── ModelError                  a call that gave no reply; the vote decides instead
│   ├── PassingFailure          worth another attempt: too many requests, overload, time-outs, broken connections
│   │   └── EmptyReply          worth a single one
│   ├── CutOff                  the reply met its limit of tokens: worth one more attempt with a larger one
│   ├── RequestFailure          this request will never be answered: refused, blocked
│   ├── CircuitOpen             the service failed so often that it is left alone for a while
│   └── EveryRequestFails       so would the next ones: a wrong key, an unknown model, a spent quota or budget
├── ReplyCacheError             the store of replies cannot be used
└── PresetError                 a preset that is not there, damaged, or would be written over
"""

from agent.types import Usage
from retrieval.errors import VisualMemoryError


class ModelError(VisualMemoryError):
    """A call to a model that gave no reply; ``code`` names the reason for programs."""

    def __init__(self, sentence: str, *, code: str = "model_failed", usage: Usage | None = None) -> None:
        super().__init__(sentence)
        self.code = code
        self.usage = usage  # what the service charges for it all the same


class PassingFailure(ModelError):
    """A failure that may pass; the service may have said how long to wait."""

    def __init__(
        self,
        sentence: str,
        *,
        code: str = "model_failed",
        usage: Usage | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(sentence, code=code, usage=usage)
        self.retry_after_seconds = retry_after_seconds


class EmptyReply(PassingFailure):
    """A reply without words."""


class CutOff(ModelError):
    """A reply that ended at its limit of tokens."""


class RequestFailure(ModelError):
    """A request that will not be answered, however often it is made."""


class CircuitOpen(ModelError):
    """A call that was not made, because those before it failed."""


class EveryRequestFails(ModelError):
    """A failure that every further request would meet."""


class ReplyCacheError(VisualMemoryError):
    """The store of replies cannot be used."""


class PresetError(VisualMemoryError):
    """A preset that is not there, is damaged, or would be written over."""
