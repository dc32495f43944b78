"""The server behind ``vmem serve``: its pages, its pictures, and what stands before them."""

import asyncio
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, PlainTextResponse
from nicegui import app as pages
from nicegui import ui
from starlette.requests import ClientDisconnect

from eval.errors import ServeError
from eval.serve import memory_page, query_page, run_page
from eval.serve.context import ServeContext
from eval.serve.guard import Guard
from eval.serve.layout import picture_response
from prompts.types import ImagePart
from retrieval.errors import ImageError, VisualMemoryError

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
    for page in (query_page, memory_page, run_page):
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
        return FileResponse(_FOLDER / "serve.css", headers={"Cache-Control": "no-cache"})

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
