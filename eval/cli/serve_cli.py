"""vmem serve: a local page to look into decisions, the memory and runs."""

import secrets
from pathlib import Path
from typing import Annotated

import typer

from agent.cli import options
from eval.app.context import ServeContext
from eval.runs.log import expect_log
from eval.types import ServeError
from retrieval.support.options import EmbedderOptions, MemoryPath, flat

_CONCURRENCY = 4
_SHORTEST = 16  # characters of a token: 96 bits where they are random


_OFFERED = "model preset prompt fusion_weight shuffles thinking media_resolution max_reply_tokens timeout_seconds"


@flat(*_OFFERED.split(), "max_cost", "prices", "key_file")
def serve(
    memory: MemoryPath,
    second: options.SecondStage,
    embedder: EmbedderOptions,
    run: Annotated[
        list[Path] | None, typer.Option(metavar="RUN", help="A run folder to look into. Repeatable.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Where to listen. Anywhere but on this machine alone a token is demanded.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes one that is free.")] = 8080,
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Demand the token in this file's first line. Left out: one is made up."),
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Offer no edits of the memory.")] = False,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = False,
    k: Annotated[int | None, options.neighbors_option("How many neighbours vote at first.")] = None,
    voting: Annotated[
        str | None, options.voting_option("How they vote at first: rank, plurality, distance or softmax.")
    ] = None,
) -> None:
    """Serve a page on this machine: ask the memory about pictures, edit it, browse it and its runs.

    Nothing is loaded from elsewhere, and only --model sends anything. Ctrl-C ends it.

    Example: vmem serve pets/ --run runs/1 --model scripted
    """
    # Somebody pressed a button, so that the model is asked whatever the vote says; and presses one at a time.
    second = second.but(when="always", concurrency=_CONCURRENCY)
    token = _token(host, token_file)
    for folder in run or ():
        expect_log(folder)
    opened = embedder.open(memory)
    loaded = second.load(cache=embedder.cache)
    stages = second.stages(opened, loaded, k=k, voting=voting)  # examines the options before anybody waits
    context = ServeContext(
        memory=opened,
        runs=tuple(run or ()),
        model=loaded,
        second=second,
        read_only=read_only,
        neighbors=stages.settings.k,
        voting=stages.settings.voting,
    )
    _serve(context, host, port, token, open_browser=open_browser)


def _serve(context: ServeContext, host: str, port: int, token: str | None, *, open_browser: bool) -> None:
    from eval.app.server import listen
    from eval.app.server import run as run_server

    listening = listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{listening.getsockname()[1]}/" + (f"?token={token}" if token else "")

    def started() -> None:
        typer.echo(f"Serving {address}")
        if open_browser:
            import webbrowser

            webbrowser.open(address)

    run_server(context, listening, token=token, started=started)


def _token(host: str, file: Path | None) -> str | None:
    """Return the token that requests must bring; None where only this machine can make any.

    Raises:
        ServeError: the file holds none.
    """
    from eval.app.server import is_loopback

    if file is None:
        return None if is_loopback(host) else secrets.token_urlsafe(24)
    try:
        first = file.read_text(encoding="ascii").partition("\n")[0].strip()
    except (OSError, ValueError) as error:
        raise ServeError(f"--token-file {file} cannot be read: a line of ASCII letters and digits expected") from error
    if not _is_token(first):
        raise ServeError(
            f"--token-file {file} holds no token: {_SHORTEST} or more letters, digits, dashes and underscores expected"
        )
    return first


def _is_token(text: str) -> bool:
    return len(text) >= _SHORTEST and text.replace("-", "").replace("_", "").isalnum()
