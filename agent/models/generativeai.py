"""Gemini by google-generativeai, the SDK whose support has ended: for those whose code base is built on it."""

import asyncio
import copy
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from agent.errors import EveryRequestFails, ModelError
from agent.keys import Secret
from agent.models.wire import failure, read_reply, sdk_failure
from agent.types import Reply, Request
from prompts.answer import answer_schema
from prompts.types import Part, TextPart
from retrieval.errors import InvalidArgument
from retrieval.support.outside import check_proxies

_THREADS: Final = 64
_UNKNOWN_TO_IT: Final = ("thinking", "media_resolution", "seed")


class GenerativeAI:
    """A Gemini model behind the older SDK. Its asynchronous form does not work over REST, so calls take threads."""

    def __init__(self, model: str, key: Secret, *, base_url: str | None = None, timeout_seconds: float = 60.0) -> None:
        """Prepare a client; nothing is sent.

        Args:
            model: such as ``gemini-3.5-flash-lite``.
            key: the API key.
            base_url: another server that speaks the protocol.
            timeout_seconds: after which a thread that waits for the next bytes gives up.

        Raises:
            InvalidArgument: the SDK is not installed, or a proxy cannot be used.
        """
        self.model = model
        self._key = key
        self._timeout_seconds = timeout_seconds
        self._client = _connect(model, key, base_url)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="generativeai")

    @property
    def name(self) -> str:
        """The model with the SDK, ``generativeai:MODEL``."""
        return f"generativeai:{self.model}"

    async def generate(self, request: Request) -> Reply:
        """Return the reply to a request, in one attempt.

        Raises:
            EveryRequestFails: a setting that the SDK does not know.
            ModelError: there is no reply.
        """
        unknown = [name for name in _UNKNOWN_TO_IT if getattr(request.generation, name) is not None]
        if unknown:
            raise EveryRequestFails(
                f"google-generativeai knows no {' and no '.join(unknown)}: leave that out, or use gemini:{self.model}",
                code="unknown_setting",
            )
        answering = asyncio.get_running_loop().run_in_executor(self._threads, self._post, request)
        return read_reply(await answering, self.name)

    def _post(self, request: Request) -> dict[str, Any]:
        error: ModelError | None = None
        try:
            response = self._client.generate_content(
                [_part(part) for part in request.prompt.parts],
                generation_config=_settings(request),
                request_options={"timeout": self._timeout_seconds, "retry": None},
            )
            return _as_body(response)
        except Exception as caught:
            error = _translated(caught, self._key)
        raise error  # outside the block above: the SDK's error holds the request, and that the key


def _connect(model: str, key: Secret, base_url: str | None) -> Any:  # noqa: ANN401 - the SDK is untyped
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it announces its own end, twice, on import
            import google.generativeai as sdk
    except ImportError as error:
        raise InvalidArgument(
            "google-generativeai is not installed: pip install 'visual-memory-agent[legacy]', or use gemini:MODEL"
        ) from error
    check_proxies()
    options = {"api_endpoint": base_url} if base_url else {}
    sdk.configure(api_key=key.reveal(), transport="rest", client_options=options)
    prepared = sdk.GenerativeModel(model)
    # Its client is made on first use, which is no safe thing to do in several threads at once.
    from google.generativeai.client import get_default_generative_client

    prepared._client = get_default_generative_client()
    return prepared


def _settings(request: Request) -> dict[str, Any]:
    generation = request.generation
    settings: dict[str, Any] = {"max_output_tokens": generation.max_reply_tokens}
    if generation.temperature is not None:
        settings["temperature"] = generation.temperature
    if generation.enforce_schema:
        settings |= {"response_mime_type": "application/json", "response_schema": _older_schema(request)}
    return settings


def _older_schema(request: Request) -> dict[str, Any]:
    """Return the schema in the subset of OpenAPI that the SDK takes: no bounds of numbers or lengths."""
    schema = copy.deepcopy(answer_schema(request.prompt))
    for field in schema["properties"].values():
        for bound in ("minItems", "maxItems", "minimum", "maximum"):
            field.pop(bound, None)
    return schema


def _part(part: Part) -> Any:  # noqa: ANN401
    return part.text if isinstance(part, TextPart) else {"mime_type": part.mime_type, "data": part.encoded}


def _as_body(response: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return a response in the words of the REST protocol; the SDK's ``.text`` raises where a finding is expected."""
    raw = response._result
    return dict(type(raw).to_dict(raw, use_integers_for_enums=False, preserving_proto_field_name=False))


def _translated(error: Exception, key: Secret) -> ModelError:
    import requests
    from google.api_core import exceptions
    from google.protobuf.json_format import ParseError

    if isinstance(error, exceptions.GoogleAPICallError) and error.code is not None:
        details = [_detail(detail) for detail in error.details or []]
        return failure(int(error.code), key.hide_in(str(error.message or "")), details)
    return sdk_failure(
        error,
        slow=(requests.exceptions.Timeout, exceptions.RetryError),
        broken=(requests.exceptions.RequestException,),
        garbled=(ParseError, ValueError, RecursionError),
    )


def _detail(detail: Any) -> dict[str, Any]:  # noqa: ANN401
    if isinstance(detail, dict):
        return detail
    from google.protobuf.json_format import MessageToDict

    try:
        return dict(MessageToDict(detail))
    except AttributeError:  # not every detail is a message
        return {}
