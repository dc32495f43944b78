"""Any server that speaks OpenAI's chat completions: vLLM, Ollama, llama.cpp, for models of one's own and offline."""

import base64
import json
from typing import Any

import httpx2

from agent.errors import CutOff, EmptyReply, ModelError, PassingFailure, RequestFailure
from agent.keys import OPENAI_VARIABLES, Secret, check_server
from agent.models.wire import failure, http_client, parsed_object
from agent.types import Reply, Request, Usage
from prompts.answer import answer_schema
from prompts.types import Part, TextPart
from retrieval.support.parsing import parse_json


class OpenAICompatible:
    """A model behind ``POST URL/chat/completions``.

    A plain HTTP client, since the protocol is one request: the openai package would add its own retries and types.
    """

    def __init__(self, model: str, base_url: str, key: Secret | None = None) -> None:
        """Prepare a client; nothing is sent.

        Args:
            model: as the server names it.
            base_url: up to and with ``/v1``; ``?api-version=…``, which Azure wants, may follow.
            key: where the server asks for one.

        Raises:
            InvalidArgument: the address is none, or holds a secret; or a proxy cannot be used.
        """
        parts = check_server(base_url, *OPENAI_VARIABLES)
        self.model = model
        self._server = base_url.rstrip("/")
        self._url = parts._replace(path=parts.path.rstrip("/") + "/chat/completions").geturl()
        self._key = key
        self._http = http_client(self, timeout=None)  # time limits are those of `Retrying`

    @property
    def name(self) -> str:
        """The model and where it runs, ``openai:MODEL@URL``."""
        return f"openai:{self.model}@{self._server}"

    async def generate(self, request: Request) -> Reply:
        """Return the reply to a request, in one attempt.

        Raises:
            ModelError: there is none.
        """
        status, retry_after, text = await self._post(json.dumps(self._body(request)))
        if status == 200:
            return _read(parsed_object(text), self.name)
        raise failure(status, _message(text), [], retry_after=retry_after)

    async def _post(self, body: str) -> tuple[int, str | None, str]:
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key.reveal()}"
            headers["api-key"] = self._key.reveal()  # Azure's own name for it
        error: ModelError | None = None
        try:
            response = await self._http.post(self._url, content=body, headers=headers)
            said = self._key.hide_in(response.text) if self._key else response.text  # services repeat keys
            return response.status_code, response.headers.get("retry-after"), said
        except httpx2.TransportError as caught:
            error = PassingFailure(
                f"the connection to {self._server} failed ({type(caught).__name__})", code="connection_broken"
            )
        except Exception as caught:
            error = ModelError(f"the request failed ({type(caught).__name__})")
        del headers  # a traceback with local variables would show the key
        raise error

    def _body(self, request: Request) -> dict[str, Any]:
        generation = request.generation
        content = [_part(part, generation.media_resolution) for part in request.prompt.parts]
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": generation.max_reply_tokens,
        }
        if generation.temperature is not None:
            body["temperature"] = generation.temperature
        if generation.seed is not None:
            body["seed"] = generation.seed + request.replicate
        if generation.thinking:
            body["reasoning_effort"] = generation.thinking
        if generation.enforce_schema:
            # Strict schemas must say that nothing else may be in the object.
            strict = answer_schema(request.prompt) | {"additionalProperties": False}
            schema = {"name": "answer", "strict": True, "schema": strict}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body


def _part(part: Part, resolution: str | None) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    image = {"url": f"data:{part.mime_type};base64,{base64.b64encode(part.encoded).decode()}"}
    if resolution in ("low", "high"):
        image["detail"] = resolution
    return {"type": "image_url", "image_url": image}


def _read(body: dict[str, Any], name: str) -> Reply:
    counted = body.get("usage") or {}
    usage = Usage(
        counted.get("prompt_tokens"),
        counted.get("completion_tokens"),
        cached_tokens=(counted.get("prompt_tokens_details") or {}).get("cached_tokens"),
    )
    choice: dict[str, Any] = next(iter(body.get("choices") or []), {})
    finish = choice.get("finish_reason")
    if finish == "length":
        raise CutOff("the reply was cut off at its limit of tokens", code="cut_off", usage=usage)
    if finish == "content_filter":
        raise RequestFailure("the service blocked the reply (content_filter)", code="blocked", usage=usage)
    text = (choice.get("message") or {}).get("content")
    if not isinstance(text, str) or not text.strip():
        raise EmptyReply("the service sent a reply without words", code="empty_reply", usage=usage)
    return Reply(text, name, usage, served_by=str(body.get("model") or ""))


def _message(text: str) -> str:
    try:
        error = parse_json(text)["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        return text[:200]
