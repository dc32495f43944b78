"""Models by name, made ready for a bad day."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.calls.cached import GEMINI_SERVER, Cached, ReplyStore
from agent.calls.metered import Meter, Metered
from agent.calls.retrying import Retrying
from agent.errors import EveryRequestFails
from agent.keys import GEMINI_VARIABLES, OPENAI_VARIABLES, Secret, check_server, find_key
from agent.settings import TransportConfig
from agent.types import Reply, Request, VisionModel
from prompts.cost import Dollars, find_price
from prompts.types import NONE_CODE, Prompt
from retrieval.errors import InvalidArgument
from retrieval.support.outside import without_address

FORMS: Final = "gemini-MODEL, generativeai:MODEL, openai:MODEL@URL or scripted"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model made ready for a bad day; by itself a `VisionModel`, and open about what it took."""

    whole: VisionModel  # cached, retried, counted
    bare: VisionModel  # what it wraps: the SDK and nothing else
    meter: Meter
    store: ReplyStore | None  # None: no reply is kept

    @property
    def name(self) -> str:
        """The model's name with its maker's."""
        return self.whole.name

    async def generate(self, request: Request) -> Reply:
        """Return the reply to a request.

        Raises:
            ModelError: there is none.
        """
        return await self.whole.generate(request)


def load_model(
    name: str,
    *,
    transport: TransportConfig | None = None,
    cache: bool = True,
    max_cost: Dollars | None = None,
    max_calls: int | None = None,
    ledger: Path | None = None,
    key_file: Path | None = None,
    prices: Path | None = None,
    expect_key: bool = True,
) -> LoadedModel:
    """Return a model by name, with cache, retries, limits and a meter around it. Nothing is sent.

    Args:
        name: ``gemini-3.5-flash-lite`` or any other Gemini model, ``generativeai:MODEL`` for the older SDK,
            ``openai:MODEL@URL`` for any server that speaks OpenAI's protocol, such as
            ``openai:qwen3-vl@http://127.0.0.1:8000/v1``; ``scripted`` always agrees with the vote.
        transport: time limits, attempts, concurrency, requests and tokens per minute.
        cache: whether to keep replies, and to answer from those kept.
        max_cost: dollars after which no further call is made.
        max_calls: calls, repeated attempts included, after which none is made.
        ledger: a file by which both limits hold for all processes that are given it, one after the other.
        key_file: a file with the API key; None takes ``GEMINI_API_KEY``, ``GOOGLE_API_KEY`` or ``OPENAI_API_KEY``, or
            the file that the same name with ``_FILE`` points at.
        prices: a file of prices that go before those shipped.
        expect_key: whether to refuse a Gemini model without a key; False serves estimates, for which none is needed.

    Raises:
        InvalidArgument: a name in none of these forms, a ``max_cost`` for a model of unknown price.
        EveryRequestFails: no API key is set.
        ReplyCacheError: the store of replies cannot be used.
    """
    transport = transport or TransportConfig()
    parsed = parse_name(name)
    meter = Meter(find_price(parsed.model, file=prices), max_cost, max_calls, ledger)
    bare = _bare(parsed, transport, key_file, expect_key=expect_key)
    store = ReplyStore() if cache and parsed.maker != "scripted" else None
    return make_ready(bare, transport=transport, meter=meter, store=store)


def make_ready(
    bare: VisionModel,
    *,
    transport: TransportConfig | None = None,
    meter: Meter | None = None,
    store: ReplyStore | None = None,
) -> LoadedModel:
    """Return any model, one's own included, with retries, limits, a meter and, where a store is given, a cache.

    For the retries to know what is worth one, its failures should be those of `agent.errors`.
    """
    meter = meter or Meter()
    retrying = Retrying(Metered(bare, meter), transport or TransportConfig(), price=meter.price)
    return LoadedModel(Cached(retrying, store) if store else retrying, bare, meter, store)


@dataclass(frozen=True, slots=True)
class ModelName:
    """A model by its maker, or the SDK that reaches it; replies are kept under the whole."""

    maker: str  # gemini, generativeai, openai or scripted
    model: str
    url: str = ""  # of an OpenAI-compatible server

    def __str__(self) -> str:
        if self.maker == "scripted":
            return self.maker
        return f"{self.maker}:{self.model}" + (f"@{self.url.rstrip('/')}" if self.url else "")


def parse_name(name: str) -> ModelName:
    """Return what a model's name says; see `load_model`.

    Raises:
        InvalidArgument: it has none of the forms.
    """
    if name == "scripted":
        return ModelName(name, name)
    maker, colon, model = name.partition(":")
    if not colon and name.startswith("gemini-"):
        return ModelName("gemini", name)
    if maker in ("gemini", "generativeai") and model:
        return ModelName(maker, model)
    model, at, url = model.partition("@")
    if maker == "openai" and model and at and url.startswith(("http://", "https://")):
        check_server(url, *OPENAI_VARIABLES)
        return ModelName(maker, model, url)
    raise InvalidArgument(f"no model {without_address(name)!r}: {FORMS} expected, such as gemini-3.5-flash-lite")


def _bare(name: ModelName, transport: TransportConfig, key_file: Path | None, *, expect_key: bool) -> VisionModel:
    if name.maker == "scripted":
        from agent.models.scripted import ScriptedModel

        return ScriptedModel(_agree, keep_prompts=False)
    base_url = os.environ.get(GEMINI_SERVER)
    if base_url:
        check_server(base_url, GEMINI_VARIABLES[0])
    if name.maker == "gemini":
        from agent.models.gemini import Gemini

        return Gemini(name.model, _gemini_key(key_file, expect_key=expect_key))
    if name.maker == "generativeai":
        from agent.models.generativeai import GenerativeAI

        return GenerativeAI(
            name.model,
            _gemini_key(key_file, expect_key=expect_key),
            base_url=base_url,
            timeout_seconds=transport.timeout_seconds,
        )
    from agent.models.openai_compatible import OpenAICompatible

    return OpenAICompatible(name.model, name.url, find_key(OPENAI_VARIABLES, file=key_file))


def _gemini_key(file: Path | None, *, expect_key: bool) -> Secret:
    key = find_key(GEMINI_VARIABLES, file=file)
    if key is None:
        if not expect_key:
            return Secret("")
        raise EveryRequestFails(
            f"no API key is set: put one into {' or '.join(GEMINI_VARIABLES)}, or into a file and pass that by"
            " --key-file; without --model the vote decides, offline",
            code="no_key",
        )
    return key


def _agree(prompt: Prompt) -> str:
    """Answer as the vote does."""
    best = next(iter(prompt.candidates), NONE_CODE)
    return f'{{"evidence": [1], "ranking": ["{best}"], "confidence": 1}}'
