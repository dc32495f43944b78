"""What the services of `tests.gemini_server` say and take: requests are checked as the real ones would check them."""

import binascii
import io
import json
import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import Message
from functools import lru_cache
from typing import Any

from PIL import Image

Json = dict[str, Any]

CHAT = "/v1/chat/completions"
STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
ERRORS = {
    "400": "Request contains an invalid argument.",
    "401": "Request had invalid authentication credentials.",
    # Google has put the key into this sentence: clients must not show it as it is.
    "403": "Permission denied: Consumer 'api_key:{key}' has been suspended.",
    "404": "models/{model} is not found for API version v1beta, or is not supported for generateContent.",
    "429": "You exceeded your current quota, please check your plan and billing details.",
    "429-day": "You exceeded your current quota, please check your plan and billing details.",
    "500": "An internal error has occurred. Please retry.",
    "503": "The model is overloaded. Please try again later.",
    "504": "Deadline expired before operation could complete.",
    "bad-key": "API key not valid. Please pass a valid API key.",
}
# What the reply says (Gemini's finish reason, OpenAI's) and how much of the answer it carries.
FINISHES = {
    "empty": ("STOP", "stop"),
    "no-text": ("STOP", "stop"),
    "prompt-blocked": ("SAFETY", "content_filter"),
    "safety": ("SAFETY", "content_filter"),
    "recitation": ("RECITATION", "content_filter"),
}
TEXTS = {
    "not-json": "I believe that the picture shows the first of them.",
    "unknown-label": '{"ranking": ["ZZZZ"], "confidence": 0.9, "evidence": [1]}',
}
WIRE = {"502-html", "timeout", "drip", "reset", "truncated", "disconnect", "malformed", "nested"}
FAULTS = {"max-tokens", *ERRORS, *FINISHES, *TEXTS, *WIRE}
ITEM_FAULTS = {"blocked": "prompt-blocked", "error": "500", "expired-item": "504"}

REQUEST_FIELDS = set(
    "model contents systemInstruction generationConfig safetySettings tools toolConfig cachedContent".split()
)
PART_FIELDS = {"text", "inlineData", "thought", "thoughtSignature", "mediaResolution"}
CONFIG_FIELDS = set(
    "candidateCount stopSequences maxOutputTokens temperature topP topK seed presencePenalty frequencyPenalty "
    "responseMimeType responseSchema responseJsonSchema responseModalities responseLogprobs logprobs thinkingConfig "
    "mediaResolution".split()
)
PICTURES = {"image/png", "image/jpeg", "image/webp", "image/heic", "image/heif"}
# google-generativeai sends enumerations as numbers, so a type may be its place in this list.
KINDS = ["", "string", "number", "integer", "boolean", "array", "object", "null"]
REQUEST_BYTES = 20 << 20
URLSAFE = bytes.maketrans(b"-_", b"+/")
ENDED = {f"BATCH_STATE_{end}" for end in ("SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED")}
RPC = "type.googleapis.com/google.rpc."
ANSWER = '{"ranking": ["A"], "confidence": 0.9, "evidence": [1]}'


@dataclass
class Call:
    """A request as it arrived; a batch item is one too, with its job's name as the path."""

    method: str
    path: str
    model: str = ""
    text: str = ""
    images: list[bytes] = field(default_factory=list)
    body: Json = field(default_factory=dict)
    fault: str | None = None
    in_flight: int = 0

    @property
    def generates(self) -> bool:
        """Whether the call asks a model for an answer at once."""
        return self.path == CHAT or self.path.endswith(":generateContent")


@dataclass(frozen=True)
class Reply:
    """An answer before it is put on the wire."""

    payload: bytes
    code: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    kind: str = "application/json; charset=UTF-8"


@dataclass(frozen=True)
class Request:
    """All that a route needs."""

    call: Call
    raw: bytes
    headers: Message
    query: dict[str, str]


class Refused(Exception):
    """A request that gets an error instead of an answer."""

    def __init__(self, code: int, message: str, *, reason: str = "", details: list[Json] | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.reason, self.details = code, message, reason, details or []

    def reply(self, *, openai: bool, retry_delay: str) -> Reply:
        """Return the error in the shape of either service."""
        if not openai:
            error: Json = {"code": self.code, "message": self.message, "status": STATUSES[self.code]}
            return reply({"error": error | ({"details": self.details} if self.details else {})}, self.code)
        kind = "server_error" if self.code >= 500 else self.reason if self.code == 429 else "invalid_request_error"
        error = {"message": self.message, "type": kind, "param": None, "code": self.reason or None}
        headers = {"Retry-After": retry_delay.rstrip("s")} if self.reason == "rate_limit_exceeded" else {}
        return reply({"error": error}, self.code, headers)


def reply(data: Json, code: int = 200, headers: dict[str, str] | None = None) -> Reply:
    """Return JSON as a reply."""
    return Reply(json.dumps(data).encode(), code, headers or {})


def fault_error(fault: str, model: str, key: str, retry_delay: str, *, openai: bool = False) -> Refused:
    """Return the error that a fault stands for, with the details that Google sends."""
    message = ERRORS[fault].format(model=model, key=key)
    if fault == "bad-key":
        info = {
            "reason": "API_KEY_INVALID",
            "domain": "googleapis.com",
            "metadata": {"containerInfo": f"api_key:{key}"},
        }
        details: list[Json] = [{"@type": f"{RPC}ErrorInfo"} | info]
        return Refused(401 if openai else 400, message, reason="invalid_api_key", details=details)
    if not fault.startswith("429"):
        return Refused(int(fault), message, reason="model_not_found" if fault == "404" else "")
    daily = fault == "429-day"
    violation = {
        "quotaMetric": "generativelanguage.googleapis.com/generate_content_free_tier_requests",
        "quotaId": f"GenerateRequestsPer{'Day' if daily else 'Minute'}PerProjectPerModel-FreeTier",
        "quotaDimensions": {"location": "global", "model": model},
    }
    details = [
        {"@type": f"{RPC}QuotaFailure", "violations": [violation]},
        {"@type": f"{RPC}RetryInfo", "retryDelay": retry_delay},
    ]
    return Refused(429, message, reason="insufficient_quota" if daily else "rate_limit_exceeded", details=details)


def expect(condition: object, problem: str) -> None:
    """Refuse the request unless the condition holds."""
    if not condition:
        raise Refused(400, problem)


@lru_cache
def camel(name: str) -> str:
    """Return a field's name in the protocol's own spelling; the real service takes both spellings."""
    return re.sub(r"_([a-z])", lambda match: match[1].upper(), name)


def fields(data: object, where: str, known: set[str] | None = None) -> Json:
    """Return an object with its names in camel case; refuse anything else, and names that nobody knows."""
    if not isinstance(data, dict):
        raise Refused(400, f"{where} must be an object")
    named = {camel(name): value for name, value in data.items()}
    unknown = named.keys() - known if known else ()
    expect(not unknown, f"Invalid JSON payload received. Unknown name \"{', '.join(sorted(unknown))}\" at '{where}'")
    return named


def some(data: object, where: str) -> list[Any]:
    """Return a list that has at least one item."""
    if not isinstance(data, list) or not data:
        raise Refused(400, f"{where} must be a list that is not empty")
    return data


def string(data: object, where: str) -> str:
    """Return a string."""
    if not isinstance(data, str):
        raise Refused(400, f"{where} must be a string")
    return data


def read_object(raw: bytes) -> Json:
    """Return the JSON object in a body or a line; no bytes at all are an empty one."""
    try:
        data = json.loads(raw or b"{}")
    except ValueError:
        raise Refused(400, "Invalid JSON payload received.") from None
    expect(isinstance(data, dict), "Invalid JSON payload received: not an object")
    return dict(data)


def read_picture(data: str, mime: object, where: str, check: bool) -> bytes:
    """Return a picture's bytes, if they are what the MIME type says."""
    expect(mime in PICTURES, f"{where}: Unsupported MIME type: {mime}")
    try:
        content = binascii.a2b_base64(data.encode().translate(URLSAFE), strict_mode=True)
    except ValueError:
        raise Refused(400, f"{where}: Base64 decoding failed") from None
    if check:
        try:
            with Image.open(io.BytesIO(content)) as image:
                image.load()
                found = Image.MIME.get(image.format or "")
        except (OSError, SyntaxError, ValueError):
            raise Refused(400, f"{where}: Unable to process input image") from None
        expect(found == mime, f"{where}: the picture is {found}, but its MIME type says {mime}")
    return content


def read_part(data: object, where: str, check: bool) -> str | bytes:
    """Return the text or the picture of a Gemini part."""
    part = fields(data, where, PART_FIELDS)
    expect(("text" in part) != ("inlineData" in part), f"{where}.data: needs exactly one of text and inlineData")
    if "text" in part:
        return string(part["text"], f"{where}.text")
    blob = fields(part["inlineData"], f"{where}.inlineData", {"mimeType", "data"})
    return read_picture(string(blob.get("data"), f"{where}.data"), blob.get("mimeType"), where, check)


def read_contents(request: Json, check: bool) -> list[str | bytes]:
    """Return the texts and pictures of a Gemini request, the system instruction first."""
    found: list[str | bytes] = []
    system = fields(request.get("systemInstruction") or {}, "systemInstruction")
    for number, part in enumerate(some(system["parts"], "systemInstruction.parts") if system else []):
        found.append(read_part(part, f"systemInstruction.parts[{number}]", check))
    for turn, data in enumerate(some(request.get("contents"), "contents")):
        content = fields(data, f"contents[{turn}]", {"role", "parts"})
        role = content.get("role") or "user"
        expect(role in ("user", "model"), f"Please use a valid role: user, model; not {role!r}")
        parts = some(content.get("parts"), f"contents[{turn}].parts")
        found += [read_part(part, f"contents[{turn}].parts[{number}]", check) for number, part in enumerate(parts)]
    return found


def check_number(value: object, where: str, low: float, high: float) -> None:
    """Refuse a number outside its range."""
    right = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
    expect(value is None or right, f"{where} must be in the range [{low}, {high}], not {value!r}")


def check_config(data: object) -> None:
    """Refuse a generationConfig that the real service refuses."""
    config = fields(data, "generationConfig", CONFIG_FIELDS)
    check_number(config.get("temperature"), "generationConfig.temperature", 0, 2)
    check_number(config.get("maxOutputTokens"), "generationConfig.maxOutputTokens", 1, 1 << 31)
    check_number(config.get("topP"), "generationConfig.topP", 0, 1)
    thinking = fields(config.get("thinkingConfig") or {}, "thinkingConfig")
    expect(
        not {"thinkingLevel", "thinkingBudget"} <= thinking.keys(), "thinkingLevel and thinkingBudget exclude another"
    )
    schemas = [name for name in ("responseSchema", "responseJsonSchema") if config.get(name) is not None]
    expect(len(schemas) < 2, "responseSchema and responseJsonSchema exclude each other")
    for name in schemas:
        expect(config.get("responseMimeType") == "application/json", f"{name} needs responseMimeType application/json")
        check_schema(config[name], f"generationConfig.{name}")


def schema_kinds(schema: Json, where: str) -> list[str]:
    """Return the types that a schema allows, in lower case."""
    value = schema.get("type", [])
    given = value if isinstance(value, list) else [value]
    if "Json" not in where:
        given = [KINDS[kind] if isinstance(kind, int) and kind < len(KINDS) else str(kind).lower() for kind in given]
    expect(all(kind in KINDS[1:] for kind in given), f"{where}.type: unknown type {value!r}")
    return given


def schema_children(schema: Json, where: str) -> Iterator[tuple[str, Any]]:
    """Yield the schemas inside a schema, each with its place."""
    for name in ("properties", "$defs"):
        group = schema.get(name, {})
        expect(isinstance(group, dict), f"{where}.{name} must be an object")
        yield from ((f"{where}.{name}[{key}]", child) for key, child in group.items())
    for name in ("anyOf", "oneOf", "prefixItems"):
        yield from ((f"{where}.{name}[{place}]", child) for place, child in enumerate(schema.get(name, [])))
    if "items" in schema:
        yield f"{where}.items", schema["items"]


def check_schema(schema: object, where: str) -> None:
    """Refuse a response schema that is not well formed, or whose enumeration the service cannot compile."""
    if not isinstance(schema, dict):
        raise Refused(400, f"{where} must be an object")
    kinds = schema_kinds(schema, where)
    expect(kinds or {"anyOf", "oneOf", "$ref"} & schema.keys(), f"{where}.type: missing field")
    if "object" in kinds:
        names = schema.get("properties")
        expect(names, f"{where}.properties: should be non-empty for OBJECT type")
        expect(set(schema.get("required", [])) <= set(names or ()), f"{where}.required: property is not defined")
    expect("array" not in kinds or {"items", "prefixItems"} & schema.keys(), f"{where}.items: missing field")
    if "enum" in schema:
        check_enum(some(schema["enum"], f"{where}.enum"), where)
    for place, child in schema_children(schema, where):
        check_schema(child, place)


def check_enum(values: list[Any], where: str) -> None:
    """Refuse an enumeration with too many values, or with values that are empty or long."""
    expect(len(values) <= 100, f"{where}.enum: too many values ({len(values)}) for constrained decoding")
    for place, value in enumerate(values):
        expect(not isinstance(value, str) or 0 < len(value) <= 100, f"{where}.enum[{place}]: empty or too long")


def check_strict(schema: Json, where: str) -> None:
    """Refuse a schema that OpenAI's strict mode refuses: every object must name all its properties as required."""
    if "object" in schema_kinds(schema, where):
        closed = schema.get("additionalProperties") is False
        expect(closed, f"Invalid schema: {where}: 'additionalProperties' is required to be supplied and to be false")
        every = set(schema.get("required", [])) == set(schema["properties"])
        expect(every, f"Invalid schema: {where}: 'required' must include every key in properties")
    for place, child in schema_children(schema, where):
        check_strict(child, place)


def read_gemini(body: Json, check: bool) -> list[str | bytes]:
    """Return the texts and pictures of a GenerateContentRequest, after checking all of it."""
    request = fields(body, "request", REQUEST_FIELDS)
    check_config(request.get("generationConfig") or {})
    return read_contents(request, check)


def read_chat(body: Json, check: bool) -> list[str | bytes]:
    """Return the texts and pictures of a chat completion, after checking all of it."""
    check_number(body.get("temperature"), "temperature", 0, 2)
    check_number(chat_tokens(body), "max_tokens", 1, 1 << 31)
    expect(not body.get("stream"), "this server does not stream")
    wanted = body.get("response_format") or {"type": "text"}
    known = isinstance(wanted, dict) and wanted.get("type") in ("text", "json_object", "json_schema")
    expect(known, "response_format.type is unknown")
    if wanted["type"] == "json_schema":
        schema = wanted.get("json_schema") or {}
        expect(re.fullmatch(r"[\w-]{1,64}", str(schema.get("name", ""))), "response_format.json_schema.name is wrong")
        check_schema(schema.get("schema"), "Json schema")
        if schema.get("strict"):
            check_strict(schema["schema"], "Json schema")
    found: list[str | bytes] = []
    for turn, message in enumerate(some(body.get("messages"), "messages")):
        role = fields(message, f"messages[{turn}]").get("role")
        expect(role in ("system", "developer", "user", "assistant"), f"messages[{turn}].role: {role!r} is unknown")
        content = message.get("content")
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for place, part in enumerate(some(parts, f"messages[{turn}].content")):
            found.append(read_chat_part(part, f"messages[{turn}].content[{place}]", check))
    return found


def read_chat_part(part: Json, where: str, check: bool) -> str | bytes:
    """Return the text or the picture of a chat message's part."""
    kind = fields(part, where).get("type")
    if kind == "text":
        return string(part.get("text"), f"{where}.text")
    expect(kind == "image_url", f"{where}.type: {kind!r} is neither text nor image_url")
    url = string(fields(part.get("image_url"), f"{where}.image_url").get("url"), f"{where}.image_url.url")
    head, comma, data = url.partition(";base64,")
    expect(comma and head.startswith("data:"), f"{where}.image_url.url: Failed to download image (not a data URL)")
    return read_picture(data, head.removeprefix("data:"), where, check)


def chat_tokens(body: Json) -> Any:  # noqa: ANN401
    """Return a chat completion's limit, under its new name or its old one."""
    return body.get("max_completion_tokens", body.get("max_tokens"))


def count_tokens(call: Call) -> int:
    """Count a prompt as Google did for small pictures."""
    return 258 * len(call.images) + len(call.text) // 4


def gemini_reply(call: Call, fault: str, text: str, version: str) -> Json:
    """Return a GenerateContentResponse."""
    asked, given = count_tokens(call), len(text) // 4 + 1
    usage = {"promptTokenCount": asked, "candidatesTokenCount": given, "totalTokenCount": asked + given}
    whole: Json = {"usageMetadata": usage, "modelVersion": version, "responseId": uuid.uuid4().hex}
    if fault == "prompt-blocked":
        return whole | {"promptFeedback": {"blockReason": "SAFETY"}}
    if fault == "empty":
        return whole
    content = {"role": "model"} | ({} if fault in FINISHES else {"parts": [{"text": text}]})
    reason = "MAX_TOKENS" if fault == "max-tokens" else FINISHES.get(fault, ("STOP",))[0]
    return {"candidates": [{"content": content, "finishReason": reason, "index": 0}]} | whole


def chat_reply(call: Call, fault: str, text: str, version: str) -> Json:
    """Return a chat completion."""
    asked, given = count_tokens(call), len(text) // 4 + 1
    reason = "length" if fault == "max-tokens" else FINISHES.get(fault, ("", "stop"))[1]
    message = {"role": "assistant", "content": None if fault in FINISHES else text}
    choices = [] if fault == "empty" else [{"index": 0, "message": message, "finish_reason": reason}]
    usage = {"prompt_tokens": asked, "completion_tokens": given, "total_tokens": asked + given}
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": "chat.completion", "created": int(time.time())}
    return head | {"model": version, "choices": choices, "usage": usage}


def timestamp(seconds: float) -> str:
    """Return a time as Google writes it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
