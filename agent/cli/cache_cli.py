"""vmem cache: what is kept so that it need not be computed, or paid for, again."""

import shutil
from pathlib import Path
from typing import Annotated, Final

import typer

from agent.calls.cached import ReplyStore, key_of
from agent.calls.ready import parse_name
from agent.cli import options
from agent.types import Request
from retrieval.embedders.openvino_backend import converted_models
from retrieval.embedding import cached_features
from retrieval.errors import InvalidArgument
from retrieval.memory import VisualMemory
from retrieval.storage.places import writing
from retrieval.support.cachedir import cache_folder, folder_bytes
from retrieval.support.options import EmbedderOverride, flat
from retrieval.support.terminal import print_table, printable

_FOLDERS: Final = {
    "features": ("features",),
    "models": ("models", "measured"),
    "replies": ("replies",),
    "all": ("features", "models", "measured", "replies"),
}


def stats() -> None:
    """Show what is kept, and how much room it takes.

    Example: vmem cache stats
    """
    rows = [("features", about, f"{count:,}", f"{size / 1e6:,.1f}") for about, count, size in cached_features()]
    rows += [("model", about, "", f"{size / 1e6:,.1f}") for about, size in converted_models()]
    if cache_folder("replies").exists():
        replies, pictures = ReplyStore().counts()
        size = folder_bytes(cache_folder("replies")) / 1e6
        rows.append(("replies", f"vision-language models, with {pictures:,} pictures", f"{replies:,}", f"{size:,.1f}"))
    whole = sum(folder_bytes(cache_folder(folder)) for folder in _FOLDERS["all"])
    typer.echo(f"{printable(cache_folder('.').resolve())}: {whole / 1e6:,.1f} MB")
    if rows:
        print_table(["kept", "of", "entries", "MB"], rows)


def clear(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="[KIND]", help="features, models (converted ones and what was measured), replies, or all."
        ),
    ] = "all",
) -> None:
    """Delete what is kept. Memories and runs lose nothing; the next use computes it, or pays for it, again.

    Example: vmem cache clear features
    """
    chosen = _FOLDERS.get(kind)
    if chosen is None:
        raise InvalidArgument(f"nothing kept is called {kind!r}: choose one of {', '.join(_FOLDERS)}")
    freed = 0
    for folder in map(cache_folder, chosen):
        freed += folder_bytes(folder)
        if folder.exists():
            with writing(folder):
                shutil.rmtree(folder)
    typer.echo(f"Freed {freed / 1e6:,.1f} MB")


@flat("preset", "prompt", "temperature", "thinking", "media_resolution", "max_reply_tokens")
def explain(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="The query picture.")],
    memory: Annotated[Path, typer.Option(help="The memory that it is asked of.")],
    model: Annotated[str, typer.Option(help="The model, as --model takes it elsewhere.")],
    second: options.SecondStage,
    k: Annotated[int | None, options.neighbors_option("How many neighbours.")] = None,
    voting: Annotated[str | None, options.voting_option("rank, plurality, distance or softmax.")] = None,
    embedder: EmbedderOverride = None,
) -> None:
    """Say whether a model's reply about a picture is kept, and if not, in what the nearest kept one differs.

    Nothing is sent.

    Example: vmem cache explain query.jpg --memory pets/ --model gemini-3.5-flash-lite
    """
    opened = VisualMemory.open(memory, embedder=embedder)
    stages = second.stages(opened, None, k=k, voting=voting)
    (question,) = stages.questions([image], opened.embed([image]))
    asked, _ = question.prompt(stages.template, opened)
    store, key = ReplyStore(), key_of(str(parse_name(model)), Request(asked, stages.settings.generation))
    kept = store.get(key)
    if kept is not None:
        typer.echo(f"Kept: {printable(kept.text)} ({printable(kept.served_by or kept.model)})")
        return
    nearest = store.nearest(key)
    if nearest is None:
        typer.echo("Not kept, and nothing else is")
        return
    entry, differing = nearest
    typer.echo(f"Not kept. The nearest of the kept ones differs in: {', '.join(differing)}")
    for name in differing:
        typer.echo(
            f"  {name}: {printable(entry.parts.get(name, 'none'))} there, {printable(key.parts.get(name, 'none'))} here"
        )
