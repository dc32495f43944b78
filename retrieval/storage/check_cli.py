"""vmem memory check: whether a memory's files are what they should be."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from retrieval.options import AsJson, MemoryPath

if TYPE_CHECKING:
    from retrieval.storage.checking import Check

_LISTED = 20


def check(memory: MemoryPath, as_json: AsJson = False) -> None:
    """Read every file of a memory, and say what is damaged and which version to go back to.

    A damaged index is taken away; the next search builds another. Exits with 1 where something was damaged.

    Example: vmem memory check pets/
    """
    from retrieval.storage.checking import check_memory
    from retrieval.terminal import printable

    found = check_memory(memory)
    if as_json:
        typer.echo(json.dumps({"sound": found.sound, **asdict(found)}))
    else:
        typer.echo(
            f"{printable(memory)}: read {found.files:,} files of {found.versions:,} versions,"
            f" {found.bytes_read / 1e6:,.1f} MB"
        )
        _print(found, name=printable(memory))
    if not found.sound:
        raise typer.Exit(1)


def _print(found: "Check", *, name: str) -> None:
    from retrieval.terminal import printable

    for what in (*found.table, *found.index)[:_LISTED]:
        typer.echo(f"DAMAGED  {printable(what, longest=500)}")
    more = len(found.table) + len(found.index) - _LISTED
    if more > 0:
        typer.echo(f"… and {more:,} more (--json lists all)")
    if found.index:
        typer.echo("The index is taken away: the next search builds another from the table")
    if not found.table:
        typer.echo(f"The table is sound: {found.items:,} pictures, version {found.version}")
    elif found.whole is None:
        typer.echo("No version can be read whole: bring the memory's files back from a copy")
    else:
        typer.echo(
            f"The newest version that can be read whole is {found.whole}: `vmem memory checkout {name} {found.whole}"
            " --repair` goes back to it, and puts the damaged ones away"
        )
