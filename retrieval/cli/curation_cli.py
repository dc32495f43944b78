"""vmem memory prune, why and duplicates: which items mislead, what a decision hangs on, and what is there twice."""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from retrieval.curation.duplicates import DISTANCE, Twin, find_duplicates, find_leaks, open_queries
from retrieval.curation.explaining import Attribution, explain
from retrieval.curation.pruning import Pruning
from retrieval.curation.sheets import Tile, check_sheet, write_sheet
from retrieval.memory import VisualMemory
from retrieval.support.options import AsJson, EmbedderOptions, MemoryPath, Sheet, flat
from retrieval.support.terminal import print_table, printable, way_back
from retrieval.types import Neighbor
from retrieval.voting import check_method

Pictures = Callable[[Sequence[str]], list[bytes | None]]
_SHOWN: Final = 30  # rows of a table, or pairs of a sheet


def prune(
    memory: MemoryPath,
    method: Annotated[
        str,
        typer.Option(help="soft: the more often an item misleads, the less it counts. hard: leave such items out."),
    ] = "soft",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only look: show the worst items, change nothing.")
    ] = False,
    worst: Annotated[int, typer.Option(min=0, help="How many of the worst items to show.")] = _SHOWN,
    sheet: Sheet = None,
    undo: Annotated[bool, typer.Option("--undo", help="Take the last pruning back: every item counts fully.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask where more than a fifth of the items is touched.")
    ] = False,
    paper: Annotated[
        bool,
        typer.Option(
            "--paper",
            help="Count all of --neighbors, as the paper does for its Table 3. Left out: at most half as many as the"
            " class of the item asked about has items.",
        ),
    ] = False,
    neighbors: Annotated[
        int | None,
        typer.Option(
            help="Neighbours that each item is asked about with. By default 10 for soft, 100 for hard pruning."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(help="Hard pruning leaves out an item with so many wrong votes or more.")] = 128,
    scale: Annotated[float, typer.Option(help="Soft pruning lets an item count d / (c + its wrong votes): d.")] = 1.75,
    offset: Annotated[float, typer.Option(help="Soft pruning: c of the same.")] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Let items count less, or not at all, that are near pictures of other labels too often (section 3.6 of the paper).

    Every item is asked about with its nearest others. One with another label gives a wrong vote: it hurts. The more
    often an item hurts, the less it counts. The memory is then asked about its own items, each without itself, before
    and after: where fewer answers would be right, nothing is written. Nothing is deleted: `vmem memory undo` takes the
    command back, and --undo any pruning.

    Example: vmem memory prune pets/ --dry-run --sheet worst.png
    """
    if sheet:
        check_sheet(sheet)
    opened = VisualMemory.open(memory)
    if undo:
        _count_fully(memory, opened)
        return
    found = opened.prune(
        method=method,
        dry_run=True,
        paper=paper,
        neighbors=neighbors,
        limit=limit,
        scale=scale,
        offset=offset,
    )
    if not as_json:
        _print_pruning(found, worst)
    if sheet:
        _write_offenders(opened, found, worst, sheet)
    if not dry_run:
        found = opened.write_pruning(found, many=yes or _confirmed(found))
    if as_json:
        typer.echo(json.dumps(_record(opened, found, worst)))
    elif found.written:
        typer.echo(f"{printable(memory)}: pruned, version {opened.version}")
        typer.echo(way_back(memory))
    else:
        typer.echo("a dry run: nothing was written" if dry_run else "nothing to change: nothing was written")


def _count_fully(path: Path, memory: VisualMemory) -> None:
    before = memory.version
    memory.set_reliability(None)
    if memory.version == before:
        typer.echo(f"{printable(path)}: nothing to change, every item counts fully")
    else:
        typer.echo(f"{printable(path)}: every item counts fully again, version {memory.version}")
        typer.echo(way_back(path))


def _print_pruning(found: Pruning, worst: int) -> None:
    rows = [(one.id, one.label, one.helped, one.hurt, f"{one.reliability:.3f}") for one in found.worst(worst)]
    print_table(["item", "label", "helped", "hurt", "reliability"], rows)
    typer.echo(
        f"of {len(found.ids):,} items {found.left_out:,} are left out, {found.weakened:,} count less than fully;"
        f" {found.in_words}"
    )


def _confirmed(found: Pruning) -> bool:
    """Ask whether many items may be touched, where they would be and somebody is there to ask."""
    if found.is_worse or not found.is_many or not sys.stdin.isatty():
        return False
    return typer.confirm(f"Let {found.touched:,} of {len(found.ids):,} items count less?", err=True)


def _record(memory: VisualMemory, found: Pruning, worst: int) -> dict[str, Any]:
    return {
        "items": len(found.ids),
        "left_out": found.left_out,
        "weakened": found.weakened,
        "leave_one_out": {"items": found.asked, "before": found.before, "after": found.after},
        "written": found.written,
        "version": memory.version,
        "worst": [asdict(offender) for offender in found.worst(worst)],
    }


def _write_offenders(memory: VisualMemory, found: Pruning, worst: int, sheet: Path) -> None:
    offenders = found.worst(worst)
    if not offenders:
        typer.echo(f"no item hurts: {printable(sheet)} is not written", err=True)
        return
    pictures = memory.thumbnails([one.id for one in offenders])
    tiles = [
        Tile(picture, (one.label, one.id, f"hurts {one.hurt}, helps {one.helped}"))
        for one, picture in zip(offenders, pictures, strict=True)
    ]
    write_sheet(sheet, f"{memory.path}: items that hurt most", [tiles])


@flat()
def why(
    memory: MemoryPath,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="The query picture.")],
    k: Annotated[int, typer.Option("--k", min=1, help="How many neighbours vote.")] = 50,
    voting: Annotated[str, typer.Option(help="rank, plurality, distance or softmax.")] = "rank",
    *,
    embedding: EmbedderOptions,
    as_json: AsJson = False,
) -> None:
    """Show what the vote on a picture hangs on: each neighbour's part in it, and the fewest whose removal flips it.

    An item that is removed leaves no gap: the next neighbour moves in.

    Example: vmem memory why pets/ query.jpg
    """
    check_method(voting)
    opened = embedding.open(memory)
    near, found = explain(opened, image, k=k, method=voting)
    if as_json:
        typer.echo(json.dumps(_attribution_record(near, found)))
    else:
        _print_attribution(near, found)


def _attribution_record(near: tuple[Neighbor, ...], found: Attribution) -> dict[str, Any]:
    voters = zip(near, found.effects, strict=False)
    flip = found.flip and {"label": found.flip.label, "removed": [near[place].id for place in found.flip.removed]}
    return {
        "label": found.label,
        "margin": found.margin,
        "looked_at": len(near),
        "flip": flip,
        "voters": [asdict(neighbor) | {"effect": effect} for neighbor, effect in voters],
    }


def _print_attribution(near: tuple[Neighbor, ...], found: Attribution) -> None:
    removed = set(found.flip.removed) if found.flip else set()
    rows = [
        (rank + 1, f"{100 * effect:+.2f}", neighbor.label, f"{neighbor.distance:.4f}", neighbor.id,
         "removed" if rank in removed else "")
        for rank, (neighbor, effect) in enumerate(zip(near, found.effects, strict=False))
    ]  # fmt: skip
    print_table(["rank", "effect", "label", "distance", "id", "smallest flip"], rows)
    typer.echo(
        f"{printable(found.label)} leads by {100 * found.margin:.1f} % of the vote; effect: points of that lead lost"
        " without the neighbour"
    )
    if found.flip is None:
        typer.echo(f"no removal among the nearest {len(near):,} neighbours flips the vote")
        return
    farther = len([place for place in removed if place >= len(rows)])
    beyond = f" ({farther:,} of them beyond the {len(rows):,} that voted)" if farther else ""
    typer.echo(
        f"without {len(removed):,} of the nearest {max(removed) + 1:,}{beyond} it is {printable(found.flip.label)}; no"
        " smaller set flips it"
    )


@flat()
def duplicates(
    memory: MemoryPath,
    against: Annotated[
        Path | None,
        typer.Option(
            help="Queries to look for in the memory: a folder of <label>/<image>, a manifest, another memory, or"
            " features in Parquet. Without it the memory is compared with itself."
        ),
    ] = None,
    distance: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=2.0, help="Cosine distance up to which pictures are twins, by embedder. Left out: 0.05."
        ),
    ] = None,
    k: Annotated[int, typer.Option("--k", min=1, help="How many neighbours of each picture to look at.")] = 10,
    sheet: Sheet = None,
    *,
    embedding: EmbedderOptions,
    as_json: AsJson = False,
) -> None:
    """Find pictures that are in a memory twice or nearly so, or queries that have a twin in it: leakage.

    Example: vmem memory duplicates pets/ --against test-photos/ --sheet leaks.html
    """
    if sheet:
        check_sheet(sheet)
    opened = embedding.open(memory)
    limit = DISTANCE if distance is None else distance
    if against:
        _show_leaks(opened, against, limit, k, sheet, as_json)
        return
    found = find_duplicates(opened, distance=limit, k=k)
    if as_json:
        typer.echo(json.dumps({"distance": limit, "pairs": _records(found.twins), "groups": found.groups}))
    else:
        _print_twins(found.twins, ["picture", "label", "its twin", "label", "distance", ""])
        typer.echo(
            f"{len(found.groups):,} groups of twins up to a distance of {limit:g} in {found.items:,} pictures:"
            f" {_counted(found.twins)}; {found.surplus:,} pictures could go"
        )
    if sheet:
        _write_twins(opened, found.twins, opened.thumbnails, sheet)


def _show_leaks(
    memory: VisualMemory, against: Path, distance: float, k: int, sheet: Path | None, as_json: bool
) -> None:
    queries = open_queries(memory, against)
    leaks = find_leaks(memory, queries.batches(), distance=distance, k=k)
    asked = len({leak.id for leak in leaks})
    if as_json:
        numbers = {"distance": distance, "queries": queries.total, "leaked": asked, "unreadable": queries.unreadable}
        typer.echo(json.dumps(numbers | {"pairs": _records(leaks)}))
    else:
        _print_twins(leaks, ["query", "label", "twin in the memory", "label", "distance", ""])
        typer.echo(
            f"{asked:,} of {queries.total:,} queries have a twin up to a distance of {distance:g} in the memory:"
            f" {_counted(leaks)}"
        )
        if queries.unreadable:
            typer.echo(f"{len(queries.unreadable):,} files could not be used (--json lists them)")
    if sheet:
        _write_twins(memory, leaks, queries.pictures, sheet)


def _counted(twins: list[Twin]) -> str:
    exact, differing = sum(twin.exact for twin in twins), sum(not twin.same_label for twin in twins)
    return f"{len(twins):,} pairs, {exact:,} of the very same content, {differing:,} under different labels"


def _records(twins: Iterable[Twin]) -> list[dict[str, Any]]:
    return [asdict(twin) | {"same_label": twin.same_label} for twin in twins]


def _print_twins(twins: list[Twin], columns: list[str]) -> None:
    if not twins:
        return
    rows = [(t.id, t.label, t.twin_id, t.twin_label, f"{t.distance:.4f}", _remark(t)) for t in twins[:_SHOWN]]
    print_table(columns, rows)
    if len(twins) > _SHOWN:
        typer.echo(f"… and {len(twins) - _SHOWN:,} pairs more (--json lists all)")


def _remark(twin: Twin) -> str:
    said = ("same content" if twin.exact else "", "" if twin.same_label else "different labels")
    return ", ".join(filter(None, said))


def _write_twins(memory: VisualMemory, twins: list[Twin], pictures: Pictures, sheet: Path) -> None:
    """Write the nearest pairs, side by side under the same number."""
    if not twins:
        typer.echo(f"there are no pairs: {printable(sheet)} is not written", err=True)
        return
    shown = twins[:_SHOWN]
    ours, theirs = pictures([twin.id for twin in shown]), memory.thumbnails([twin.twin_id for twin in shown])
    tiles = [
        tile
        for number, (twin, one, other) in enumerate(zip(shown, ours, theirs, strict=True), start=1)
        for tile in (
            Tile(one, (f"{number}: {twin.label}", twin.id, f"distance {twin.distance:.4f}")),
            Tile(other, (f"{number}: {twin.twin_label}", twin.twin_id, _remark(twin))),
        )
    ]
    write_sheet(sheet, f"{memory.path}: twins", [tiles])
