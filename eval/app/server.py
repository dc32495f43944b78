"""The server behind ``vmem serve``: its pages, its pictures, and what stands before them."""

import asyncio
import hashlib
import hmac
import ipaddress
import logging
import socket
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import PlainTextResponse
from nicegui import app as pages
from nicegui import ui
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, cookie_parser
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eval.app import memory_pages, query_page, run_pages
from eval.app.context import MAX_UPLOAD_BYTES, ServeContext
from eval.app.frame import picture_response
from eval.report.page import palette
from eval.types import ServeError
from prompts.types import ImagePart
from retrieval.errors import ImageError, VisualMemoryError

_LOCAL_NAMES: Final = ("localhost", "localhost.")


def is_loopback(host: str) -> bool:
    """Tell whether an address or a name is this machine's own, seen from nowhere else."""
    if host.lower() in _LOCAL_NAMES:
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


_HEADERS: Final = {
    # NiceGUI starts its pages by scripts inside them and makes functions of texts, so neither can be forbidden; what
    # counts is that nothing is loaded from or sent to anywhere else.
    "Content-Security-Policy": "default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval';"
    " style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self'; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_POLICY_VIOLATED: Final = 1008  # how a websocket is closed (RFC 6455)


class Guard:
    """Lets through to an app what comes from its own pages, and where a token is set, from who knows it."""

    def __init__(self, app: ASGIApp, *, token: str | None) -> None:
        """Stand before an app.

        Args:
            app: what is guarded.
            token: what every request must bring: in the address once, from then on by a cookie. None: requests must be
                addressed to this machine by a name of its own, which another site's cannot be.
        """
        self._app = app
        self._token = token
        # A cookie that is found tells nothing of the token, which may serve elsewhere too.
        self._cookie = hmac.new(token.encode(), b"vmem serve", hashlib.sha256).hexdigest() if token else ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            if scope["type"] == "websocket":
                return await send({"type": "websocket.close", "code": _POLICY_VIOLATED})
            return await refusal(scope, receive, _with_headers(send))
        await self._app(scope, _limited(receive), _with_headers(send))

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        host = headers.get("host", "")
        if self._token is None and not is_loopback(urllib.parse.urlsplit(f"//{host}").hostname or ""):
            return _refuse(403, "This server answers on this machine's own names only, such as 127.0.0.1.")
        origin = headers.get("origin")
        if origin is not None and urllib.parse.urlsplit(origin).netloc != host:
            return _refuse(403, "Another site's page asked for this: refused.")
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > MAX_UPLOAD_BYTES:
            return _refuse(413, f"Too large: {MAX_UPLOAD_BYTES // 2**20} MiB at most.")
        return None if self._token is None else self._unknown(scope, headers)

    def _unknown(self, scope: Scope, headers: Headers) -> Response | None:
        """Return what is answered to who does not bring the token in a cookie; None to who does."""
        name = f"vmem_{(scope.get('server') or ('', 0))[1]}"  # cookies do not tell ports apart
        if _equal(cookie_parser(headers.get("cookie", "")).get(name, ""), self._cookie):
            return None
        asked = urllib.parse.parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        token = next((value for key, value in asked if key == "token"), "")
        if scope["type"] != "http" or not _equal(token, self._token or ""):
            return _refuse(401, "A token is needed: open the address that `vmem serve` printed.")
        # Away from the address: it stays in no history, and in nothing that is copied from the address bar.
        rest = urllib.parse.urlencode([(key, value) for key, value in asked if key != "token"])
        path = "/" + urllib.parse.quote(scope["path"].lstrip("/\\"))
        answer = RedirectResponse(path + (f"?{rest}" if rest else ""), 303)
        answer.set_cookie(name, self._cookie, httponly=True, samesite="strict")
        return answer


def _equal(came: str, expected: str) -> bool:
    return hmac.compare_digest(came.encode(), expected.encode())


def _refuse(status: int, sentence: str) -> Response:
    return PlainTextResponse(sentence + "\n", status)


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.update(_HEADERS)
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return sending


def _limited(receive: Receive) -> Receive:
    """Return what breaks a request off that sends more than it may, whatever it said before."""
    taken = 0

    async def receiving() -> Message:
        nonlocal taken
        message: dict[str, Any] = dict(await receive())
        taken += len(message.get("body", b""))
        too_much = taken > MAX_UPLOAD_BYTES and message["type"] == "http.request"
        return {"type": "http.disconnect"} if too_much else message

    return receiving


_FOLDER: Final = Path(__file__).parent
_REFRESH_SECONDS: Final = 2.0  # how soon another process's edits are noticed
_PATIENCE_SECONDS: Final = 2  # for open pages, once the server is told to end
_PICTURE_SECONDS: Final = 3600  # how long browsers keep one: its address never shows anything else


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 takes one that is free.

    Raises:
        ServeError: the address cannot be listened on.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ServeError(f"{host}:{port} cannot be listened on: {reason}; choose another --host or --port") from error
    return listening


def run(context: ServeContext, listening: socket.socket, *, token: str | None, started: Callable[[], None]) -> None:
    """Serve until the process is told to end.

    Args:
        context: what the pages show.
        listening: from `listen`.
        token: see `Guard`.
        started: called once pages can be asked for.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    add_pictures(app, context)
    for page in (query_page, memory_pages, run_pages):
        page.register(context)
    pages.on_startup(started)
    pages.on_startup(lambda: _keep_up(context))
    ui.run_with(
        app, title="vmem", dark=None, language="en-GB", tailwind=False, show_welcome_message=False, reconnect_timeout=30
    )
    # Neither addresses, which hold a token once, nor ids in them are logged.
    config = uvicorn.Config(
        Guard(app, token=token),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_PATIENCE_SECONDS,
    )
    uvicorn.Server(config).run(sockets=[listening])


def add_pictures(app: FastAPI, context: ServeContext) -> None:
    """Add the routes of everything that is no page."""

    @app.get("/serve.css")
    def _style() -> Response:
        style = palette() + (_FOLDER / "serve.css").read_text(encoding="utf-8")
        return Response(style, media_type="text/css", headers={"Cache-Control": "no-cache"})

    @app.get("/thumbnail/{stamp}/{row}")
    def _thumbnail(stamp: str, row: int) -> Response:
        return picture_response(context.thumbnails.read(stamp, row), kept_seconds=_PICTURE_SECONDS)

    @app.get("/uploaded/{name}")
    def _uploaded(name: str) -> Response:
        return picture_response(context.shown(name), kept_seconds=_PICTURE_SECONDS)

    @app.get("/prompt/{name}/{part}")
    def _prompt_part(name: str, part: int) -> Response:
        prompt = context.prompts.get(name)
        found = prompt.parts[part] if prompt and 0 <= part < len(prompt.parts) else None
        jpeg = found.encoded if isinstance(found, ImagePart) else None
        return picture_response(jpeg, kept_seconds=_PICTURE_SECONDS)

    @app.post("/upload")
    async def _upload(request: Request) -> Response:
        try:
            picture = await request.body()
            return PlainTextResponse(await asyncio.to_thread(context.keep, picture))
        except ImageError as error:
            return PlainTextResponse(str(error), 422)
        except ClientDisconnect:  # or it sent more than it said, and the guard broke it off
            return PlainTextResponse("The picture did not come whole, or is too large.", 413)


async def _keep_up(context: ServeContext) -> None:
    """Load what the first query needs, and from then on what other processes write."""
    await asyncio.to_thread(context.warm)
    while True:
        await asyncio.sleep(_REFRESH_SECONDS)
        try:
            if await asyncio.to_thread(context.memory.refresh):
                await asyncio.to_thread(context.memory.build_index)
        except VisualMemoryError as error:
            logging.getLogger(__name__).warning("%s", error)
