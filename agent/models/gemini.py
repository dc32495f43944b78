"""Gemini by google-genai, the SDK that Google maintains."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from agent.errors import ModelError
from agent.keys import Secret
from agent.models.wire import failure, http_client, parsed_object, read_reply, sdk_failure, to_body
from agent.types import Reply, Request

if TYPE_CHECKING:
    import httpx2
    from google import genai

T = TypeVar("T")
_NO_WAIT_LIMIT_MILLISECONDS: Final = 600_000  # time limits are those of `Retrying`, which count a whole attempt


class Gemini:
    """A Gemini model. Each method that asks the service raises ModelError where it does not do as it is asked.

    The SDK carries the request: address, authentication, transport, errors. The body is made here, because the SDK's
    own way walks over every part in Python, which takes four times as long with fifty pictures.
    """

    def __init__(self, model: str, key: Secret, *, base_url: str | None = None) -> None:
        """Prepare a client; nothing is sent.

        Args:
            model: such as ``gemini-3.5-flash-lite``.
            key: the API key.
            base_url: another server that speaks the protocol; None takes Google's, or ``GOOGLE_GEMINI_BASE_URL``.

        Raises:
            InvalidArgument: a proxy cannot be used.
        """
        self.model = model
        self._key = key
        # Left to itself, the SDK takes aiohttp where that is installed, which has other errors.
        self._client = connect(key, http_client(self, follow_redirects=True), base_url=base_url)

    @property
    def has_key(self) -> bool:
        """Whether there is a key to ask with."""
        return bool(self._key.reveal())

    @property
    def name(self) -> str:
        """The model with its maker, ``gemini:MODEL``."""
        return f"gemini:{self.model}"

    async def generate(self, request: Request) -> Reply:
        """Return the reply to a request, in one attempt.

        Raises:
            ModelError: there is none.
        """
        from google.genai import types

        config = types.GenerateContentConfig(
            should_return_http_response=True,
            automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
            http_options=types.HttpOptions(extra_body=to_body(request)),
        )
        # The body replaces these contents; the SDK insists on some.
        response = await self._call(
            lambda: self._client.aio.models.generate_content(model=self.model, contents="-", config=config)
        )
        http = response.sdk_http_response
        return read_reply(parsed_object((http.body if http else None) or ""), self.name)

    async def count_tokens(self, request: Request) -> int:
        """Return how many tokens the service counts in a request's prompt; counting costs nothing."""
        from google.genai import types

        options = types.HttpOptions(extra_body={"contents": to_body(request)["contents"]})
        config = types.CountTokensConfig(http_options=options)
        counted = await self._call(
            lambda: self._client.aio.models.count_tokens(model=self.model, contents="-", config=config)
        )
        return counted.total_tokens or 0

    async def upload(self, file: Path, name: str) -> str:
        """Send a JSONL file of requests, and return how the service names it; it forgets it after two days."""
        config: Any = {"mime_type": "jsonl", "display_name": name}
        uploaded = await self._call(lambda: self._client.aio.files.upload(file=str(file), config=config))
        return str(uploaded.name)

    async def create_job(self, name: str, uploaded: str) -> str:
        """Begin a batch job over an uploaded file, and return how the service names it."""
        config: Any = {"display_name": name}
        job = await self._call(lambda: self._client.aio.batches.create(model=self.model, src=uploaded, config=config))
        return str(job.name)

    async def find_job(self, name: str) -> str | None:
        """Return the service's name of the job that was begun under ours; None where there is none."""

        async def look() -> str | None:
            async for job in await self._client.aio.batches.list():
                if job.display_name == name:
                    return str(job.name)
            return None

        return await self._call(look)

    async def job_state(self, job: str) -> tuple[str, str | None]:
        """Return ``running``, ``succeeded`` or how else a job ended, and the file of its results where there is one."""
        found = await self._call(lambda: self._client.aio.batches.get(name=job))
        if not found.done:
            return "running", None
        state = str(found.state.name if found.state else "unknown").removeprefix("JOB_STATE_").lower()
        result = found.dest.file_name if found.dest else None
        return ("succeeded" if result else state), result

    async def download(self, file: str) -> bytes:
        """Return the content of a result file."""
        return bytes(await self._call(lambda: self._client.aio.files.download(file=file)))

    async def _call(self, call: Callable[[], Awaitable[T]]) -> T:
        error: ModelError | None = None
        try:
            return await call()
        except Exception as caught:
            error = translated(caught, self._key)
        raise error  # outside the block above: the SDK's error holds the request, and that the key


def connect(key: Secret, http: "httpx2.AsyncClient", *, base_url: str | None = None) -> "genai.Client":
    """Return an SDK client that leaves retries and time limits to us."""
    from google import genai
    from google.genai import types

    return genai.Client(
        api_key=key.reveal() or "none",  # the SDK insists on one, also where only an estimate is wanted
        vertexai=False,
        http_options=types.HttpOptions(
            base_url=base_url,
            api_version="v1beta",
            timeout=_NO_WAIT_LIMIT_MILLISECONDS,
            retry_options=types.HttpRetryOptions(attempts=1),
            httpx_async_client=http,
        ),
    )


def translated(error: Exception, key: Secret) -> ModelError:
    """Return our error for one of the SDK's, without the key that its own words or context may hold."""
    import httpx2
    from google.genai import errors

    if isinstance(error, errors.APIError):
        body = error.details if isinstance(error.details, dict) else {}
        inner = body.get("error", body)
        details = inner.get("details", []) if isinstance(inner, dict) else []
        said = key.hide_in(str(error.message or error.status or ""))
        return failure(error.code, said, [detail for detail in details if isinstance(detail, dict)])
    return sdk_failure(error, slow=(httpx2.TimeoutException,), broken=(httpx2.TransportError,))
