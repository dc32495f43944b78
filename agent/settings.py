"""The settings of both stages in one object.

Python's keyword options, presets, the command line's options and what a run says of itself are all made of the fields
below. A field that is an option of the command line carries its help, and its flag where that differs from its name.
"""

import functools
import inspect
import math
import re
from collections.abc import Callable
from dataclasses import Field, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Final, TypedDict, TypeVar, cast

from retrieval.errors import InvalidArgument

if TYPE_CHECKING:
    from retrieval.types import Votes

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
LEVELS: Final = ("minimal", "low", "medium", "high")
CONCURRENCY: Final = 16
_CONDITION: Final = re.compile(r"(margin|share)\s*<\s*([\d.]+)|(entropy)\s*>\s*([\d.]+)")


def _option(default: T, help_text: str, flag: str = "") -> T:
    """Return a field that the command line offers as well."""
    return field(default=default, metadata={"help": help_text, "flag": flag})


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationConfig:
    """How a model is to answer. None leaves a setting to the service; not every model takes every setting.

    A reply that is cut off at ``max_reply_tokens`` is asked for once more with four times as many.

    Raises:
        InvalidArgument: a value outside what is allowed.
    """

    temperature: float | None = _option(0.0, "How freely the model words its reply, from 0 to 2.")
    max_reply_tokens: int = _option(1024, "Limit of a reply, thinking included.")
    thinking: str | None = _option(None, "minimal, low, medium or high; left out: the model's own.")
    media_resolution: str | None = _option(
        None, "How finely the model looks at pictures: low, medium or high; left out: the model's own.", "--resolution"
    )
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
        if self.media_resolution is not None:
            from prompts.cost import check_resolution

            check_resolution(self.media_resolution)


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportConfig:
    """How requests travel. None sets no limit. Nothing of this can change an answer.

    Raises:
        InvalidArgument: a number that is not positive.
    """

    timeout_seconds: float = _option(60.0, "Seconds for one attempt.", "--timeout")  # from its first byte to its last
    deadline_seconds: float = 300.0  # of one call: its attempts and the waits between them, not the queue before them
    attempts: int = 8
    first_wait_seconds: float = 1.0  # doubled with each attempt, with jitter
    concurrency: int = _option(
        CONCURRENCY, "Requests in flight at most; fewer for a while where the service has too many."
    )
    requests_per_minute: float | None = _option(None, "Requests a minute at most.", "--rpm")
    tokens_per_minute: float | None = _option(None, "Tokens a minute at most.", "--tpm")
    failed_calls_before_break: int = 10  # in a row; the rest then fall back at once
    probe_after_seconds: float = 60.0  # after which one call tries whether the service is back

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InvalidArgument(f"{name}={value}: a number above 0 expected")


@dataclass(frozen=True, slots=True)
class Gate:
    """A condition on the vote under which the model is asked.

    ``margin`` is the winner's share of the vote less the second's, ``share`` the winner's, ``entropy`` that of all
    shares in nats. A vote with a single label has margin and share 1 and entropy 0.
    """

    measure: str  # always, margin, share or entropy
    threshold: float = 0.0

    def asks(self, votes: "Votes") -> bool:
        """Tell whether the vote is open enough to ask the model."""
        if self.measure == "always":
            return True
        value = measure_vote(votes, self.measure)
        return value > self.threshold if self.measure == "entropy" else value < self.threshold

    def __str__(self) -> str:
        sign = ">" if self.measure == "entropy" else "<"
        return self.measure if self.measure == "always" else f"{self.measure}{sign}{self.threshold:g}"


@functools.lru_cache(maxsize=64)
def parse_gate(text: str) -> Gate:
    """Return the gate that a text such as ``always``, ``margin<0.3``, ``share<0.8`` or ``entropy>0.5`` describes.

    Raises:
        InvalidArgument: it describes none.
    """
    if text.strip() == "always":
        return Gate("always")
    parsed = _CONDITION.fullmatch(text.strip())
    try:
        if parsed is None:
            raise ValueError
        return Gate(parsed[1] or parsed[3], float(parsed[2] or parsed[4]))
    except ValueError as error:
        raise InvalidArgument(
            f"--when {text!r}: always, margin<NUMBER, share<NUMBER or entropy>NUMBER expected, such as 'margin<0.3'"
        ) from error


def measure_vote(votes: "Votes", measure: str) -> float:
    """Return the ``margin``, ``share`` or ``entropy`` of a vote."""
    shares = votes.shares
    if measure == "share":
        return shares[0]
    if measure == "margin":
        return shares[0] - (shares[1] if len(shares) > 1 else 0.0)
    return -sum(share * math.log(share) for share in shares if share > 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How both stages work. Under a name, settings are a preset (`agent.presets`).

    Its defaults are those of every command and function that takes these options. What they mean is said at
    `agent.classify.classify_with_rerank`. ``neighbors`` is another word for ``k``, which older programs use.
    """

    name: str = ""  # of the preset; empty: none
    prompt: str = _option("rerank_v1", "A released prompt's name, or the path of your own.")
    k: int = 50  # the paper's
    voting: str = "rank"
    when: str = _option(
        "always", "When to ask: always, or on an open vote: 'margin<0.3', 'share<0.8', 'entropy>0.5' (nats)."
    )
    fusion_weight: float | None = _option(
        None,
        "Combine vote and model, the model's probability to this power. Left out: the model decides.",
        "--fusion",
    )
    shuffles: int = _option(
        0, "Ask an unsure query again with the neighbours in this many random orders, and let most answers win."
    )
    seed: int = _option(0, "A number that fixes these orders.")
    generation: GenerationConfig = GenerationConfig()
    model: str = ""  # that a preset was found with: a note, which nothing reads
    about: str = ""  # where a preset came from: run, date, accuracy, cost
    template_digest: str = ""  # of the prompt's text when the preset was saved; empty: not checked

    @property
    def neighbors(self) -> int:
        """The other word for ``k``."""
        return self.k

    @property
    def gate(self) -> Gate:
        """When the model is asked.

        Raises:
            InvalidArgument: ``when`` describes no gate.
        """
        return parse_gate(self.when)

    def overridden(self, **options: Any) -> "Settings":  # noqa: ANN401 - fields of this class and of GenerationConfig
        """Return these settings with other values for some fields; None keeps what stands here.

        Options of `GenerationConfig` may be given by their own names.

        Raises:
            InvalidArgument: a value outside what is allowed.
        """
        said = {name: value for name, value in _with_k(options).items() if value is not None}
        generation = {name: said.pop(name) for name in FLATTENED & said.keys()}
        if generation:
            said["generation"] = replace(said.get("generation", self.generation), **generation)
        if "prompt" in said:
            said["template_digest"] = ""
        return replace(self, **said)

    def checked(self) -> "Settings":
        """Return these settings, if both stages can work by them.

        Raises:
            InvalidArgument: an option out of range.
        """
        from retrieval.version import check_neighbors
        from retrieval.voting import check_method

        check_method(self.voting)
        check_neighbors(self.k)
        parse_gate(self.when)
        if self.shuffles < 0:
            raise InvalidArgument(f"shuffles={self.shuffles}: 0 or more expected")
        if self.fusion_weight is not None and not 0 <= self.fusion_weight < math.inf:
            raise InvalidArgument(f"fusion weight {self.fusion_weight}: a number from 0 expected")
        return self


_init = Settings.__init__
Settings.__init__ = functools.wraps(_init)(  # type: ignore[method-assign]
    lambda self, **values: _init(self, **_with_k(values))
)


Preset = Settings
"""Settings under a name: what `agent.presets` saves."""


class Options(TypedDict, total=False):
    """The settings that Python functions take as keyword options; None leaves one to the preset, or to the default."""

    k: int | None
    voting: str | None
    prompt: str | None
    when: str | None
    generation: GenerationConfig | None
    fusion_weight: float | None
    shuffles: int | None
    seed: int | None


FLATTENED: Final = {option.name for option in fields(GenerationConfig)} - {option.name for option in fields(Settings)}


def options_of(of: type[Any]) -> list[Field[Any]]:
    """Return the fields of a settings class that the command line offers, in its order."""
    return [option for option in fields(of) if option.metadata]


def takes_options(function: F) -> F:
    """Show a function's ``**options`` as what `Options` holds, and take ``neighbors`` for ``k``."""
    shown = inspect.signature(function)
    own = [one for one in shown.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in Options.__annotations__.items()
    ]

    @functools.wraps(function)
    def taking(*given: Any, **named: Any) -> Any:  # noqa: ANN401 - the function's own
        return function(*given, **_with_k(named))

    taking.__signature__ = shown.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
    return cast(F, taking)


def _with_k(options: dict[str, Any]) -> dict[str, Any]:
    """Return keyword options in which ``neighbors``, an older word for it, is called ``k``."""
    neighbors = options.pop("neighbors", None)
    if neighbors is None:
        return options
    if options.get("k") is not None:
        raise InvalidArgument("neighbors is another word for k: give one of them")
    return options | {"k": neighbors}
