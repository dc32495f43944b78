"""vmem classify and vmem doctor."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from agent.card import prediction_lines
from agent.classify import decide_stream
from agent.cli import options
from agent.cli.doctor import examine, time_first_answer
from agent.types import Prediction, prediction_record
from retrieval.embedding import Failure
from retrieval.errors import FolderError, InvalidArgument
from retrieval.images import ImageLike
from retrieval.sources import files_below
from retrieval.support.options import EmbedderOptions, flat
from retrieval.support.terminal import print_table, printable, track


@flat()
def classify(
    images: Annotated[
        list[Path],
        typer.Argument(metavar="IMAGE...", help="The pictures to classify, and folders of them, at any depth."),
    ],
    memory: Annotated[Path, typer.Option(help="The memory to decide by.")],
    second: options.SecondStage,
    embedder: EmbedderOptions,
    k: Annotated[int | None, options.neighbors_option("How many neighbours vote.")] = None,
    voting: Annotated[
        str | None,
        options.voting_option(
            "Weight of a neighbour: rank 1/(2 + rank), plurality 1, distance exp(-d), softmax exp((1 - d)/0.07)."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Say what pictures show, by the vote of their nearest neighbours in a memory, and a model's second look.

    A picture that cannot be used gets one line on standard error; the others are answered, and the exit code is 2.
    Every file of a folder is taken for a picture, and answered as it is found; names of folders are no labels here.

    Example: vmem classify --memory pets/ query.jpg --model gemini-3.5-flash-lite
    """
    loaded = second.load(cache=embedder.cache)
    opened = embedder.open(memory)
    stages = second.stages(opened, loaded, k=k, voting=voting)
    failed = False
    # Answers that appear on the terminal one by one are progress enough, and a bar would tear them apart.
    total = None if any(map(os.path.isdir, images)) else len(images)
    queue = track(_files(images), "Classifying", total=total, shown=not sys.stdout.isatty())
    for image, found in decide_stream(
        stages, ((image, image) for image in queue), concurrency=second.said["concurrency"]
    ):
        if isinstance(found, Failure):
            failed = True
            if as_json:
                typer.echo(_as_json(image, found))
            typer.echo(f"Error: {printable(found.error, longest=2000)}", err=True)
        elif as_json:
            typer.echo(_as_json(image, found))
        else:
            typer.echo(f"{printable(image)}: " + "\n".join(prediction_lines(found)))
    if loaded and loaded.meter.prompt_tokens:
        typer.echo(str(loaded.meter), err=True)
    if failed:
        raise typer.Exit(2)


def _files(images: list[Path]) -> Iterator[Path]:
    """Yield pictures, and what lies in folders as it is found."""
    for image in images:
        if not os.path.isdir(image):
            yield image
            continue
        found = files_below(image)
        first = next(found, None)
        if first is None:
            raise FolderError(f"{image} holds no files: a folder of pictures expected")
        yield first
        yield from found


def doctor(
    memory: Annotated[Path | None, typer.Option(help="A memory to examine as well.")] = None,
    timed: Annotated[
        bool, typer.Option("--time", help="Say instead where the time to a first answer from --memory goes.")
    ] = False,
) -> None:
    """Examine this installation: versions, devices, weights, key, and a memory's health, each with its cure.

    Example: vmem doctor --memory pets/
    """
    if timed:
        _print_times(memory)
        return

    findings = examine(memory)
    for finding in findings:
        typer.echo(f"{finding.mark} {finding.subject:24} {printable(finding.state, longest=2000)}")
        if finding.cure:
            typer.echo(f"{'':27}→ {printable(finding.cure, longest=2000)}")
    if any(finding.broken for finding in findings):
        raise typer.Exit(1)


def _print_times(memory: Path | None) -> None:

    if memory is None:
        raise InvalidArgument("--time needs a memory to ask: add --memory MEMORY")

    steps = time_first_answer(memory)
    print_table(["step", "ms"], [(name, f"{1000 * seconds:,.1f}") for name, seconds in steps])
    before, after = steps[:-2], steps[-2:]
    first, then = (1000 * sum(seconds for _, seconds in part) for part in (before, after))
    typer.echo(
        f"First answer after {first:,.0f} ms, beside the start of Python itself; a further one after {then:,.0f} ms"
    )


def _as_json(image: Path, prediction: Prediction | Failure[ImageLike]) -> str:

    return json.dumps({"image": str(image)} | prediction_record(prediction))
