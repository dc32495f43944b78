"""A local HTTP server that speaks Google's Generative Language REST protocol (v1beta) and OpenAI's chat completions.

Both of Google's SDKs and a plain HTTP client can be pointed at it. It checks requests as the real services do, notes
what it refused, produces every fault that a client must survive, and keeps files and batch jobs as a cloud would.
"""

import argparse
import binascii
import hashlib
import io
import json
import math
import random
import re
import socket
import struct
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import Message
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

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
WIRE = {"502-html", "timeout", "drip", "reset", "truncated", "disconnect", "malformed"}
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


class Storage(dict[str, bytes]):
    """What the cloud keeps: names and contents, on disk too where a folder is given."""

    def __init__(self, folder: Path | None) -> None:
        found = [path for path in sorted(folder.rglob("*")) if path.is_file()] if folder else []
        super().__init__({path.relative_to(folder).as_posix(): path.read_bytes() for path in found if folder})
        self.folder = folder

    def __setitem__(self, name: str, content: bytes) -> None:
        super().__setitem__(name, content)
        if self.folder:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_bytes(content)

    def __delitem__(self, name: str) -> None:
        super().__delitem__(name)
        if self.folder:
            (self.folder / name).unlink()

    def record(self, name: str) -> Json:
        """Return the JSON kept under a name; refuse a name that is not kept."""
        if name not in self:
            raise Refused(404, f"Requested entity was not found: {name}")
        return dict(json.loads(self[name]))

    def keep(self, name: str, record: Json) -> None:
        """Keep JSON under a name."""
        self[name] = json.dumps(record).encode()


class GeminiServer:
    """The server; a context manager. Everything that a test may set or read is a plain attribute.

    A request is checked before a fault is chosen, so invalid ones use up nothing of the script.
    """

    def __init__(
        self,
        answer: Callable[[Call], str] = lambda call: ANSWER,
        key: str = "test-key",
        *,
        models: set[str] | None = None,
        check_images: bool = True,
        model_version: str = "served-001",
        state_folder: Path | None = None,
        batch_seconds: float = 0.0,
        keep_bodies: bool = True,
    ) -> None:
        self.answer, self.key, self.models, self.check_images = answer, key, models, check_images
        self.model_version, self.batch_seconds, self.keep_bodies = model_version, batch_seconds, keep_bodies
        self.calls: list[Call] = []
        self.script: list[str] = []
        self.wrong: list[str] = []
        self.batch_job_fault: list[str] = []
        self.fault_for: Callable[[Call], str | None] = lambda call: None
        self.batch_item_fault: Callable[[str, Call], str | None] = lambda key, call: None
        self.latency_seconds, self.stall_seconds, self.drip_seconds = 0.0, 30.0, 0.1
        self.tokens_needed, self.retry_delay = math.inf, "0.05s"
        self.peak_in_flight = self._in_flight = 0
        self._lock, self._cloud_lock = threading.Lock(), threading.RLock()
        self._storage = Storage(state_folder)
        self._uploads: dict[str, tuple[Json, bytearray]] = {}
        self._listener = _Listener(("127.0.0.1", 0), _Handler)
        self._listener.owner = self
        self.port = int(self._listener.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._listener.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._listener.shutdown()
        self._listener.hang_up()
        self._listener.server_close()

    def generate_calls(self) -> list[Call]:
        """Return the calls that asked for an answer at once, refused ones included."""
        return [call for call in list(self.calls) if call.generates]

    @property
    def batch_jobs(self) -> list[str]:
        """The display names of all batch jobs, in the order of their creation."""
        return [job["displayName"] for job in self._jobs()]

    @property
    def batch_items(self) -> list[str]:
        """The keys of all batch items that a model answered, and that were paid for therefore."""
        return [key for job in self._jobs() for key in job["paid"]]

    @contextmanager
    def arrived(self, call: Call) -> Iterator[None]:
        """Note a call, and count it among those in flight until its reply is ready to be sent."""
        with self._lock:
            self._in_flight += call.generates
            call.in_flight = self._in_flight
            self.peak_in_flight = max(self.peak_in_flight, self._in_flight)
            self.calls.append(call)
        try:
            yield
        finally:
            with self._lock:
                self._in_flight -= call.generates
            if not self.keep_bodies:
                call.body, call.images = {}, []

    def respond(self, request: Request) -> Reply:
        """Return the reply to a request: every error is a reply too."""
        call = request.call
        openai = call.path == CHAT
        try:
            return self._route(request, openai)
        except Refused as error:
            if error.code == 400 and not call.fault and error.reason != "invalid_api_key":
                self.wrong.append(error.message)
            return error.reply(openai=openai, retry_delay=self.retry_delay)

    def _route(self, request: Request, openai: bool) -> Reply:
        if "upload_id" in request.query:
            return self._continue_upload(request)
        given = request.headers.get("x-goog-api-key") or request.query.get("key", "")
        if openai:
            given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if given != self.key:
            raise fault_error("bad-key", "", given, "", openai=openai)
        for method, pattern, respond in ROUTES:
            if method == request.call.method and (match := re.fullmatch(pattern, request.call.path)):
                request.call.body = read_object(request.raw)
                return respond(self, request, *match.groups())
        raise Refused(404, f"{request.call.method} {request.call.path} was not found on this server.")

    def _take(self, call: Call, model: str, found: list[str | bytes]) -> None:
        """Note what a call says, after checking its model."""
        call.model = model
        call.text = "\n".join(part for part in found if isinstance(part, str))
        call.images = [part for part in found if isinstance(part, bytes)]
        if self.models is not None and model not in self.models:
            raise fault_error("404", model, "", "")

    def _generate(self, request: Request, model: str = "") -> Reply:
        call, openai = request.call, not model
        expect(openai or len(request.raw) <= REQUEST_BYTES, f"Request payload size exceeds the limit: {REQUEST_BYTES}")
        found = (read_chat if openai else read_gemini)(call.body, self.check_images)
        self._take(call, model or string(call.body.get("model"), "model"), found)
        with self._lock:
            scripted = self.script.pop(0) if self.script else None
        fault = scripted or self.fault_for(call)
        call.fault = None if fault == "ok" else fault
        return reply(self._say(call, openai))

    def _say(self, call: Call, openai: bool) -> Json:
        """Return the answer to a valid call, or the error, that its fault asks for."""
        fault = call.fault or ""
        expect(not fault or fault in FAULTS, f"the test asked for an unknown fault: {fault}")
        if fault in ERRORS:
            raise fault_error(fault, call.model, self.key, self.retry_delay, openai=openai)
        text = TEXTS.get(fault) or self.answer(call)
        if fault == "max-tokens":
            config = fields(call.body.get("generationConfig") or call.body.get("generation_config") or {}, "config")
            limit = chat_tokens(call.body) if openai else config.get("maxOutputTokens")
            cut = (limit or 0) <= self.tokens_needed
            fault, text = ("max-tokens", text[: len(text) // 2]) if cut else ("", text)
        return (chat_reply if openai else gemini_reply)(call, fault, text, self.model_version)

    def _count(self, request: Request, model: str) -> Reply:
        body = fields(request.call.body, "request")
        whole = body.get("generateContentRequest") or {"contents": body.get("contents")}
        self._take(request.call, model, read_gemini(whole, self.check_images))
        return reply({"totalTokens": count_tokens(request.call)})

    def _start_upload(self, request: Request) -> Reply:
        header = request.headers.get
        asked = (header("X-Goog-Upload-Protocol"), header("X-Goog-Upload-Command"))
        expect(asked == ("resumable", "start"), f"only resumable uploads are understood, not {asked}")
        file = fields(request.call.body.get("file") or {}, "file")
        name = file.get("name") or f"files/{uuid.uuid4().hex[:12]}"
        expect(re.fullmatch(r"files/[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", name), f"file.name is not valid: {name}")
        if name in self._storage:
            raise Refused(409, f"File {name} already exists.")
        kind, upload = header("X-Goog-Upload-Header-Content-Type", ""), uuid.uuid4().hex
        record = {"name": name, "displayName": file.get("displayName"), "mimeType": kind, "source": "UPLOADED"}
        self._uploads[upload] = (record, bytearray())
        address = f"{self.url}/upload/v1beta/files?upload_id={upload}&upload_protocol=resumable"
        return reply({}, headers={"X-Goog-Upload-URL": address, "X-Goog-Upload-Status": "active"})

    def _continue_upload(self, request: Request) -> Reply:
        if request.query["upload_id"] not in self._uploads:
            raise Refused(404, "The upload was not found.")
        record, content = self._uploads[request.query["upload_id"]]
        expect(request.headers.get("X-Goog-Upload-Offset") == str(len(content)), "the upload's offset is wrong")
        content += request.raw
        if "finalize" not in request.headers.get("X-Goog-Upload-Command", ""):
            return reply({}, headers={"X-Goog-Upload-Status": "active"})
        self._keep_file(record, bytes(content))
        del self._uploads[request.query["upload_id"]]
        return reply({"file": self._file(record["name"])}, headers={"X-Goog-Upload-Status": "final"})

    def _keep_file(self, record: Json, content: bytes) -> None:
        digest = binascii.b2a_base64(hashlib.sha256(content).digest(), newline=False).decode()
        facts = {"sizeBytes": str(len(content)), "createTime": timestamp(time.time()), "sha256Hash": digest}
        self._storage[f"{record['name']}.content"] = content
        self._storage.keep(record["name"], record | facts)

    def _file(self, name: str) -> Json:
        uri = f"{self.url}/v1beta/{name}"
        record = self._storage.record(name) | {"uri": uri, "state": "ACTIVE"}
        return record | ({"downloadUri": f"{uri}:download?alt=media"} if record["source"] == "GENERATED" else {})

    def _get_file(self, request: Request, name: str) -> Reply:
        return reply(self._file(name))

    def _download(self, request: Request, name: str) -> Reply:
        expect(request.query.get("alt") == "media", "a download needs alt=media")
        expect(self._file(name)["source"] == "GENERATED", "Only generated files can be downloaded.")
        return Reply(self._storage[f"{name}.content"], kind="application/octet-stream")

    def _delete(self, request: Request, name: str) -> Reply:
        self._storage.record(name)
        for part in (name, f"{name}.content"):
            if part in self._storage:
                del self._storage[part]
        return reply({})

    def _create_batch(self, request: Request, model: str) -> Reply:
        batch = fields(request.call.body.get("batch"), "batch")
        source = fields(batch.get("inputConfig"), "batch.inputConfig")
        file = self._file(string(source.get("fileName"), "batch.inputConfig.fileName"))
        expect("jsonl" in file["mimeType"], f"{file['name']} must be JSONL, not {file['mimeType']}")
        self._take(request.call, model, [])
        job = {"name": f"batches/{uuid.uuid4().hex}", "model": f"models/{model}", "file": file["name"], "paid": []}
        job |= {"displayName": batch.get("displayName", ""), "state": "BATCH_STATE_PENDING", "created": time.time()}
        with self._cloud_lock:
            job["fault"] = self.batch_job_fault.pop(0) if self.batch_job_fault else None
            self._storage.keep(job["name"], job)
        return reply(operation(job))

    def _jobs(self) -> list[Json]:
        with self._cloud_lock:
            jobs = [self._storage.record(name) for name in self._storage if name.startswith("batches/")]
        return sorted(jobs, key=lambda job: job["created"])

    def _job(self, name: str) -> Json:
        """Return a job as it stands now; its items are answered when its time has come and somebody looks."""
        with self._cloud_lock:
            job = self._storage.record(name)
            if job["state"] not in ENDED:
                due = time.time() >= job["created"] + self.batch_seconds
                job["state"] = self._end_job(job) if due else "BATCH_STATE_RUNNING"
                self._storage.keep(name, job)
            return job

    def _end_job(self, job: Json) -> str:
        if job["fault"] in ("expired", "failed"):
            return f"BATCH_STATE_{job['fault'].upper()}"
        try:
            items = [read_object(line) for line in self._storage[f"{job['file']}.content"].splitlines()]
        except Refused as error:
            self.wrong.append(error.message)
            return "BATCH_STATE_FAILED"
        lines = [line for item in items if (line := self._answer_item(job, item))]
        random.Random(job["name"]).shuffle(lines)
        job["output"] = f"files/batch-{job['name'].removeprefix('batches/')}"
        record = {"name": job["output"], "mimeType": "jsonl", "source": "GENERATED"}
        self._keep_file(record, "".join(json.dumps(line) + "\n" for line in lines).encode())
        return "BATCH_STATE_SUCCEEDED"

    def _answer_item(self, job: Json, item: Json) -> Json | None:
        """Return a line of the output, None where it is to be missing; note the key where there is an answer."""
        key, call = item.get("key"), Call("BATCH", job["name"], body=item.get("request") or {})
        try:
            self._take(call, job["model"].removeprefix("models/"), read_gemini(call.body, self.check_images))
            fault = (self.batch_item_fault(str(key), call) or "").replace("_", "-")
            if fault == "missing":
                return None
            call.fault = ITEM_FAULTS.get(fault, fault) or None
            line = {"key": key, "response": self._say(call, openai=False)}
        except Refused as error:
            if not call.fault:
                self.wrong.append(error.message)
            return {"key": key, "error": {"code": error.code, "message": error.message}}
        job["paid"].append(key)
        return line

    def _get_batch(self, request: Request, name: str) -> Reply:
        return reply(operation(self._job(name)))

    def _list_batches(self, request: Request) -> Reply:
        names = [job["name"] for job in reversed(self._jobs())]
        start, size = int(request.query.get("pageToken") or 0), int(request.query.get("pageSize") or 50)
        page: Json = {"operations": [operation(self._job(name)) for name in names[start : start + size]]}
        return reply(page | ({"nextPageToken": str(start + size)} if start + size < len(names) else {}))

    def _cancel(self, request: Request, name: str) -> Reply:
        with self._cloud_lock:
            job = self._job(name)
            expect(job["state"] not in ENDED, f"{name} has ended already")
            self._storage.keep(name, job | {"state": "BATCH_STATE_CANCELLED"})
        return reply({})


ROUTES: list[tuple[str, str, Callable[..., Reply]]] = [
    ("POST", r"/v1beta/models/([^/:]+):generateContent", GeminiServer._generate),
    ("POST", CHAT, GeminiServer._generate),
    ("POST", r"/v1beta/models/([^/:]+):countTokens", GeminiServer._count),
    ("POST", r"/upload/v1beta/files", GeminiServer._start_upload),
    ("GET", r"/v1beta/(files/[^/:]+)", GeminiServer._get_file),
    ("GET", r"(?:/download)?/v1beta/(files/[^/:]+):download", GeminiServer._download),
    ("DELETE", r"/v1beta/((?:files|batches)/[^/:]+)", GeminiServer._delete),
    ("POST", r"/v1beta/models/([^/:]+):batchGenerateContent", GeminiServer._create_batch),
    ("GET", r"/v1beta/(batches/[^/:]+)", GeminiServer._get_batch),
    ("GET", r"/v1beta/batches", GeminiServer._list_batches),
    ("POST", r"/v1beta/(batches/[^/:]+):cancel", GeminiServer._cancel),
]


def operation(job: Json) -> Json:
    """Return a batch job as the long-running operation that the service shows."""
    metadata = {name: job[name] for name in ("name", "model", "displayName", "state")}
    metadata |= {"inputConfig": {"fileName": job["file"]}, "createTime": timestamp(job["created"])}
    if "output" in job:
        metadata["output"] = {"responsesFile": job["output"]}
    whole = {"name": job["name"], "metadata": metadata, "done": job["state"] in ENDED}
    if job["state"] == "BATCH_STATE_FAILED":
        whole["error"] = {"code": 13, "message": "The batch job failed."}
    return whole


class _Listener(ThreadingMixIn, TCPServer):
    """The listening socket, its threads, and the connections that are open."""

    allow_reuse_address = daemon_threads = True
    request_queue_size = 256
    owner: GeminiServer

    def __init__(self, *arguments: Any) -> None:  # noqa: ANN401
        super().__init__(*arguments)
        self._open: set[Any] = set()

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:  # noqa: ANN401
        self._open.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """End every connection, which also ends its thread."""
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        # Clients that go away are what half of the faults are about.
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Listener

    def log_message(self, *words: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Answer any request."""
        owner, address = self.server.owner, urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length)
        if len(raw) < length:  # the client went away
            self.close_connection = True
            return
        call = Call(self.command, address.path)
        with owner.arrived(call):
            answer = owner.respond(Request(call, raw, self.headers, dict(parse_qsl(address.query))))
            stalled = owner.stall_seconds if call.fault == "timeout" else 0.0
            self._wait(owner.latency_seconds * call.generates + stalled)
        self._send(answer, call.fault)

    do_POST = do_DELETE = do_GET

    def _wait(self, seconds: float) -> None:
        """Wait, but no longer than the client does."""
        if seconds <= 0:
            return
        self.connection.settimeout(seconds)
        with suppress(TimeoutError):
            if not self.connection.recv(1, socket.MSG_PEEK):
                raise ConnectionAbortedError
        self.connection.settimeout(None)

    def _send(self, answer: Reply, fault: str | None) -> None:
        # The other faults leave the connection as good as it was, and clients do use it again.
        self.close_connection |= fault in ("reset", "truncated", "disconnect")
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            socket.close(self.connection.detach())
        if fault in ("reset", "disconnect"):
            return
        if fault == "502-html":
            answer = Reply(b"<html><title>502 Bad Gateway</title></html>", 502, kind="text/html; charset=UTF-8")
        body = answer.payload[:-2] if fault == "malformed" else answer.payload
        length = len(body) + (100 if fault == "truncated" else 0)
        headers = {"Content-Type": answer.kind, "Content-Length": str(length)} | answer.headers
        lines = [f"HTTP/1.1 {answer.code} {HTTPStatus(answer.code).phrase}", *map(": ".join, headers.items()), "", ""]
        head = "\r\n".join(lines).encode()
        if fault != "drip":
            self.connection.sendall(head + body)
            return
        self.connection.sendall(head)
        for place in range(len(body)):
            self.connection.sendall(body[place : place + 1])
            self._wait(self.server.owner.drip_seconds)


def main() -> None:
    """Serve until the process is ended, for a benchmark that wants the server in a process of its own."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--port-file", type=Path, help="where to write the port when the server listens")
    parser.add_argument("--key", default="test-key")
    parser.add_argument("--no-check-images", dest="check_images", action="store_false")
    options = parser.parse_args()
    with GeminiServer(key=options.key, check_images=options.check_images, keep_bodies=False) as server:
        server.latency_seconds = options.latency
        if options.port_file:
            # Renamed into place, so that whoever waits for the file never reads half a number.
            options.port_file.with_suffix(".part").write_text(str(server.port))
            options.port_file.with_suffix(".part").replace(options.port_file)
        print(server.url, flush=True)
        with suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
