"""Requests and replies in the words of Google's REST protocol, for both of its SDKs and for batch jobs."""

import base64
import math
import re
from typing import TYPE_CHECKING, Any, Final

from agent.calls import background
from agent.errors import CutOff, EmptyReply, EveryRequestFails, ModelError, PassingFailure, RequestFailure
from agent.types import Reply, Request, Usage
from prompts.answer import answer_schema
from prompts.types import Part, TextPart
from retrieval.support.outside import check_proxies
from retrieval.support.parsing import parse_json

if TYPE_CHECKING:
    import httpx2

_FINISHED: Final = ("STOP", "FINISH_REASON_UNSPECIFIED", "", None)
_CONNECTIONS: Final = 256
_LONGEST_MESSAGE: Final = 300
_PER_DAY: Final = re.compile("per.?day", re.IGNORECASE)


def http_client(owner: object, **options: Any) -> "httpx2.AsyncClient":  # noqa: ANN401 - of the client
    """Return a client of HTTP with room for every call at once; it is closed when its owner is no longer used."""
    import httpx2

    check_proxies()
    limits = httpx2.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS)
    client = httpx2.AsyncClient(limits=limits, **options)
    background.close_with(owner, client.aclose)
    return client


def to_body(request: Request) -> dict[str, Any]:
    """Return a request as the service takes it."""
    generation = request.generation
    settings: dict[str, Any] = {"maxOutputTokens": generation.max_reply_tokens}
    if generation.temperature is not None:
        settings["temperature"] = generation.temperature
    if generation.seed is not None:
        settings["seed"] = generation.seed + request.replicate
    if generation.media_resolution:
        settings["mediaResolution"] = f"MEDIA_RESOLUTION_{generation.media_resolution.upper()}"
    if generation.thinking:
        settings["thinkingConfig"] = {"thinkingLevel": generation.thinking.upper()}
    if generation.enforce_schema:
        schema = answer_schema(request.prompt)
        if "description" in schema["properties"]:  # it is of use only where it is written first
            schema["propertyOrdering"] = list(schema["properties"])
        settings |= {"responseMimeType": "application/json", "responseJsonSchema": schema}
    parts = [_part(part) for part in request.prompt.parts]
    return {"contents": [{"role": "user", "parts": parts}], "generationConfig": settings}


def read_reply(body: dict[str, Any], model: str) -> Reply:
    """Return the reply in a response.

    Raises:
        RequestFailure: the prompt or the reply was blocked.
        CutOff: the reply met its limit.
        EmptyReply: there is no text in it.
    """
    counted = body.get("usageMetadata") or {}
    counts = ("promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount", "cachedContentTokenCount")
    usage = Usage(*map(counted.get, counts))
    blocked = (body.get("promptFeedback") or {}).get("blockReason")
    if blocked:
        raise RequestFailure(f"the service blocked the prompt ({blocked})", code="blocked", usage=usage)
    candidate: dict[str, Any] = next(iter(body.get("candidates") or []), {})
    finish = candidate.get("finishReason")
    if finish == "MAX_TOKENS":
        raise CutOff("the reply was cut off at its limit of tokens", code="cut_off", usage=usage)
    if finish not in _FINISHED:
        raise RequestFailure(f"the service blocked the reply ({finish})", code="blocked", usage=usage)
    parts = (candidate.get("content") or {}).get("parts") or []
    text = "".join(part.get("text") or "" for part in parts if not part.get("thought"))
    if not text.strip():
        raise EmptyReply("the service sent a reply without words", code="empty_reply", usage=usage)
    return Reply(text, model, usage, served_by=str(body.get("modelVersion") or ""))


def failure(status: int, message: str, details: list[dict[str, Any]], *, retry_after: str | None = None) -> ModelError:
    """Return the error for a response that is none, by its HTTP status and the details of its error.

    Args:
        status: the HTTP status.
        message: of the service, with no key in it.
        details: Google's typed details; empty elsewhere.
        retry_after: the header, where there is one.
    """
    said = " ".join(str(message).split())[:_LONGEST_MESSAGE] or "no message"
    if status == 429:
        return _too_many(said, details, retry_after)
    if status in (408, 500, 502, 503, 504) or status > 504:
        return PassingFailure(
            f"the service failed ({status}: {said})", code="overloaded", retry_after_seconds=_seconds(retry_after)
        )
    if status == 401 or any(detail.get("reason") == "API_KEY_INVALID" for detail in details):
        return EveryRequestFails(f"the service refuses the API key ({status}: {said}): set another", code="key_refused")
    if status == 403:
        return EveryRequestFails(
            f"the API key may not do this ({status}: {said}): give it access, or set another", code="key_refused"
        )
    if status == 404:
        return EveryRequestFails(
            f"there is no such model ({status}: {said}): choose another --model", code="unknown_model"
        )
    return RequestFailure(f"the service refuses the request ({status}: {said})", code="request_refused")


Kinds = tuple[type[Exception], ...]


def sdk_failure(
    error: Exception, *, slow: Kinds, broken: Kinds, garbled: Kinds = (ValueError, RecursionError)
) -> ModelError:
    """Return our error for an SDK's own, by its kind; its words may hold a key, and are not told."""
    kind = type(error).__name__
    if isinstance(error, slow):
        return PassingFailure("the service did not answer in time", code="timed_out")
    if isinstance(error, broken):
        return PassingFailure(f"the connection to the service failed ({kind})", code="connection_broken")
    if isinstance(error, garbled):
        return PassingFailure("the service sent no JSON object", code="garbled_response")
    return ModelError(f"the SDK failed ({kind})")


def _too_many(said: str, details: list[dict[str, Any]], retry_after: str | None) -> ModelError:
    quotas = [
        str(violation.get("quotaId", "")) + str(violation.get("quotaMetric", ""))
        for detail in details
        for violation in detail.get("violations", [])
    ]
    if any(_PER_DAY.search(quota) for quota in quotas):
        return EveryRequestFails(
            f"today's quota of the API key is spent (429: {said}): go on tomorrow with the same command, or raise it",
            code="quota_spent",
        )
    asked = next((detail["retryDelay"] for detail in details if "retryDelay" in detail), retry_after)
    return PassingFailure(f"too many requests (429: {said})", code="rate_limited", retry_after_seconds=_seconds(asked))


def _seconds(delay: object) -> float | None:
    try:
        seconds = float(str(delay).removesuffix("s"))
    except ValueError:
        return None  # a date, which the backoff stands in for
    return seconds if 0 <= seconds < math.inf else None


def _part(part: Part) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"text": part.text}
    return {"inlineData": {"mimeType": part.mime_type, "data": base64.b64encode(part.encoded).decode()}}


def parsed_object(text: str) -> dict[str, Any]:
    """Return a response's JSON object.

    Raises:
        PassingFailure: it is none: cut short or garbled on its way.
    """
    try:
        parsed = parse_json(text)
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict):
        raise PassingFailure("the service sent no JSON object", code="garbled_response")
    return parsed
