"""vmem memory relabel, history, diff, tag, untag, checkout, undo, compact, check: edits, and their versions."""

import json
from collections import Counter
from dataclasses import asdict
from typing import Annotated, Final

import typer

from retrieval.erasing.erase import unlink_pending
from retrieval.errors import NotAMemory
from retrieval.memory import VisualMemory
from retrieval.storage.checking import Check, check_memory, go_back
from retrieval.storage.history import Entry, Version
from retrieval.support.options import AsJson, Ids, IdsFrom, MemoryPath, OfLabel, Where, listed_ids
from retrieval.support.terminal import print_table, printable, way_back

_SHOWN: Final = 50  # changes of a table
_LABELS_SHOWN: Final = 5  # that items had before
VersionOrTag = Annotated[str, typer.Argument(metavar="VERSION", help="A version's number or tag.")]


def relabel(
    memory: MemoryPath,
    to: Annotated[str, typer.Argument(metavar="NEW", help="The label that they get, known or new.")],
    ids: Ids = None,
    ids_from: IdsFrom = None,
    label: OfLabel = None,
    where: Where = None,
) -> None:
    """Give items another label; they vote for it from the next search on.

    Example: vmem memory relabel pets/ tabby --id cat/17.jpg --id cat/18.jpg
    """
    opened = VisualMemory.open(memory)
    before = opened.version
    opened.relabel(to, ids=listed_ids(ids, ids_from), label=label, where=where)
    place = printable(memory)
    was = Counter(old for old, _ in opened.diff(before).relabelled.values()).most_common()
    if not was:
        typer.echo(f"{place}: nothing was relabelled: all these items are {printable(to)} already")
        return
    changed = sum(count for _, count in was)
    items = "item" if changed == 1 else "items"
    told = ", ".join(f"{printable(old)} ({count:,})" for old, count in was[:_LABELS_SHOWN])
    told += f" and {len(was) - _LABELS_SHOWN:,} labels more" if len(was) > _LABELS_SHOWN else ""
    typer.echo(f"{place}: relabelled {changed:,} {items} from {told} to {printable(to)}, version {opened.version}")
    typer.echo(way_back(memory))


def history(
    memory: MemoryPath,
    limit: Annotated[int, typer.Option("--limit", min=0, help="How many, the newest; 0 for all.")] = 20,
    every: Annotated[bool, typer.Option("--all", help="One line for each version that a command made.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the commands that were given to a memory, the newest first, each with the version that it left.

    A command over many pictures, such as a build, makes several versions, and stands here as one: 1–4. `diff`,
    `checkout` and `tag` take any of them.

    Example: vmem memory history pets/
    """
    opened = VisualMemory.open(memory)
    listed: list[Version | Entry] = [*(opened.history if every else opened.commands)(limit=limit or None)]
    if as_json:
        typer.echo(json.dumps([asdict(one) | {"when": one.when.isoformat()} for one in listed]))
        return
    rows = [
        (
            f"{one.number}" if isinstance(one, Version) or one.first == one.number else f"{one.first}–{one.number}",
            one.when.strftime("%Y-%m-%d %H:%M:%S"),
            one.deed,
            f"{one.change:+,}" if one.change else "",
            f"{one.items:,}",
            ", ".join(one.tags),
        )
        for one in listed
    ]
    print_table(["version", "when", "edit", "change", "pictures", "tags"], rows)


def diff(
    memory: MemoryPath,
    before: VersionOrTag,
    after: Annotated[
        str | None, typer.Argument(metavar="VERSION", help="The later one; the latest where none is given.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what changed between two versions: pictures added, forgotten, relabelled, replaced, pruned.

    Example: vmem memory diff pets/ 12 before-pruning
    """
    opened = VisualMemory.open(memory)
    changes = (opened if after is None else opened.at(as_version(after))).diff(as_version(before))
    if as_json:
        typer.echo(json.dumps(asdict(changes)))
        return
    rows = [("added", id_, "") for id_ in changes.added] + [("forgotten", id_, "") for id_ in changes.forgotten]
    rows += [("relabelled", id_, f"{was} → {now}") for id_, (was, now) in changes.relabelled.items()]
    rows += [("replaced", id_, "") for id_ in changes.replaced]
    if rows:
        print_table(["change", "id", "label"], rows[:_SHOWN])
    if len(rows) > _SHOWN:
        typer.echo(f"… and {len(rows) - _SHOWN:,} changes more (--json lists all)")
    typer.echo(
        f"{len(changes.added):,} added, {len(changes.forgotten):,} forgotten, {len(changes.relabelled):,} relabelled,"
        f" {len(changes.replaced):,} replaced, {len(changes.reweighted):,} relied on more or less"
    )


def tag(
    memory: MemoryPath,
    name: Annotated[str, typer.Argument(metavar="TAG", help="The name: letters, digits, dots and dashes.")],
    version: Annotated[
        int | None, typer.Option("--version", help="The version; the latest where none is given.")
    ] = None,
) -> None:
    """Give a version a name, which keeps it from being cleaned away.

    Example: vmem memory tag pets/ before-pruning
    """
    opened = VisualMemory.open(memory)
    opened.tag(name, version=version)
    typer.echo(f"version {opened.version if version is None else version} is tagged {name}")


def untag(
    memory: MemoryPath, name: Annotated[str, typer.Argument(metavar="TAG", help="The name to take away.")]
) -> None:
    """Take a name from its version.

    Example: vmem memory untag pets/ before-pruning
    """
    VisualMemory.open(memory).untag(name)
    typer.echo(f"the tag {name} is gone")


def checkout(
    memory: MemoryPath,
    version: VersionOrTag,
    repair: Annotated[
        bool, typer.Option("--repair", help="Read everything, and put versions that are damaged into MEMORY/damaged.")
    ] = False,
) -> None:
    """Go back to an earlier version. It becomes the newest one, so that this can be undone as well.

    Where a memory is damaged, `vmem memory check` says to which.

    Example: vmem memory checkout pets/ before-pruning
    """
    before = 0
    try:
        if not repair:
            opened = VisualMemory.open(memory)
            before = len(opened)
            opened.checkout(as_version(version))
    except NotAMemory:  # or one that is damaged
        repair = True
    if repair:
        go_back(memory, as_version(version))
        unlink_pending(memory)
    opened = VisualMemory.open(memory)
    typer.echo(
        f"{printable(memory)}: went back to version {printable(version)}, {len(opened):,} pictures"
        f"{_loss(before, len(opened))}, version {opened.version}"
    )
    if not repair:
        typer.echo(way_back(memory))


def undo(memory: MemoryPath) -> None:
    """Take back the last command that changed a memory, with all versions that it made; again, the one before it.

    It makes a new version. What it took back is still there: `vmem memory checkout` brings it back.

    Example: vmem memory undo pets/
    """
    opened = VisualMemory.open(memory)
    version, before = opened.version, len(opened)
    undone = opened.undo()
    many = f"versions {undone.first} to" if undone.first != undone.number else "version"
    typer.echo(
        f"{printable(memory)}: took back {undone.deed} ({many} {undone.number}) and went back to version"
        f" {undone.first - 1}, {len(opened):,} pictures{_loss(before, len(opened))}, version {opened.version}"
    )
    typer.echo(way_back(memory, version))


def _loss(before: int, now: int) -> str:
    """Say how many pictures went."""
    return f" ({before - now:,} of {before:,} went)" if now < before else ""


def compact(
    memory: MemoryPath,
    keep: Annotated[
        int, typer.Option(min=1, help="How many versions stay, the newest; those with a tag stay, too.")
    ] = 20,
) -> None:
    """Write many small files together and drop old versions, which makes a memory of many adds smaller and faster.

    Example: vmem memory compact pets/ --keep 5
    """
    opened = VisualMemory.open(memory)
    before = opened.stats().bytes_on_disk
    dropped = opened.compact(keep=keep)
    after = opened.stats().bytes_on_disk
    typer.echo(f"{printable(memory)}: {before / 1e6:,.1f} MB → {after / 1e6:,.1f} MB, {dropped:,} versions dropped")
    if after > before:
        typer.echo("The versions that stay still need the old files: a smaller --keep and fewer tags let them go.")


def as_version(text: str) -> int | str:
    """Return a version's number, or its tag."""
    return int(text) if text.isdecimal() else text


_LISTED = 20


def check(memory: MemoryPath, as_json: AsJson = False) -> None:
    """Read every file of a memory, and say what is damaged and which version to go back to.

    A damaged index is taken away; the next search builds another. Exits with 1 where something was damaged.

    Example: vmem memory check pets/
    """
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


def _print(found: Check, *, name: str) -> None:
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
