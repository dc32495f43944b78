"""What can change an answer, and what cannot: only the former is part of a cached reply's key."""

from dataclasses import dataclass
from typing import Final

from prompts.cost import check_resolution
from retrieval.errors import InvalidArgument

LEVELS: Final = ("minimal", "low", "medium", "high")


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationConfig:
    """How a model is to answer. None leaves a setting to the service; not every model takes every setting.

    Raises:
        InvalidArgument: a value outside what is allowed.
    """

    temperature: float | None = 0.0
    max_reply_tokens: int = 1024  # thinking counts among them; a reply that is cut off is asked for once more with 4 ×
    thinking: str | None = None  # one of LEVELS
    media_resolution: str | None = None  # low, medium or high: tokens for each picture
    seed: int | None = None
    enforce_schema: bool = True  # let the service allow nothing but the candidates' codes

    def __post_init__(self) -> None:
        if self.temperature is not None:
            if not 0 <= self.temperature <= 2:
                raise InvalidArgument(f"temperature={self.temperature}: 0 to 2 expected")
            object.__setattr__(self, "temperature", float(self.temperature))  # 0 and 0.0 are one setting
        if self.max_reply_tokens < 1:
            raise InvalidArgument(f"max_reply_tokens={self.max_reply_tokens}: 1 or more expected")
        if self.thinking not in (None, *LEVELS):
            raise InvalidArgument(f"thinking={self.thinking!r}: one of {', '.join(LEVELS)} expected")
        check_resolution(self.media_resolution)


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportConfig:
    """How requests travel. None sets no limit.

    Raises:
        InvalidArgument: a number that is not positive.
    """

    timeout_seconds: float = 60.0  # of one attempt, from its first byte to its last
    deadline_seconds: float = 300.0  # of one call: its attempts and the waits between them, not the queue before them
    attempts: int = 8
    first_wait_seconds: float = 1.0  # doubled with each attempt, with jitter
    concurrency: int = 16  # requests in flight at most; fewer for a while after the service said it was too many
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    failed_calls_before_break: int = 10  # in a row; the rest then fall back at once
    probe_after_seconds: float = 60.0  # after which one call tries whether the service is back

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InvalidArgument(f"{name}={value}: a number above 0 expected")
