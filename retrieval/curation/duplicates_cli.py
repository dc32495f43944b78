"""vmem memory duplicates: pictures that are there twice or nearly so, in a memory or between queries and a memory."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retrieval.options import AsJson, Backend, Cache, Device, EmbedderOverride, MemoryPath, Precision, Sheet

if TYPE_CHECKING:
    from retrieval.curation.duplicates import Twin
    from retrieval.memory import VisualMemory

    Pictures = Callable[[Sequence[str]], list[bytes | None]]

_SHOWN = 30  # pairs of a table or a sheet


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
            min=0.0,
            max=2.0,
            help="Cosine distance up to which pictures are twins, by embedder. Left out: 0.05.",
        ),
    ] = None,
    k: Annotated[int, typer.Option("--k", min=1, help="How many neighbours of each picture to look at.")] = 10,
    sheet: Sheet = None,
    embedder: EmbedderOverride = None,
    device: Device = "auto",
    backend: Backend = "auto",
    precision: Precision = "auto",
    cache: Cache = True,
    as_json: AsJson = False,
) -> None:
    """Find pictures that are in a memory twice or nearly so, or queries that have a twin in it: leakage.

    Example: vmem memory duplicates pets/ --against test-photos/ --sheet leaks.html
    """
    from retrieval.curation.contact_sheet import check_sheet
    from retrieval.curation.duplicates import DISTANCE, find_duplicates
    from retrieval.memory import VisualMemory

    if sheet:
        check_sheet(sheet)
    opened = VisualMemory.open(
        memory, embedder=embedder, device=device, backend=backend, precision=precision, cache=cache
    )
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
    memory: "VisualMemory", against: Path, distance: float, k: int, sheet: Path | None, as_json: bool
) -> None:
    from retrieval.curation.comparing import open_queries
    from retrieval.curation.duplicates import find_leaks

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


def _counted(twins: "list[Twin]") -> str:
    exact, differing = sum(twin.exact for twin in twins), sum(not twin.same_label for twin in twins)
    return f"{len(twins):,} pairs, {exact:,} of the very same content, {differing:,} under different labels"


def _records(twins: "Iterable[Twin]") -> list[dict[str, Any]]:
    return [asdict(twin) | {"same_label": twin.same_label} for twin in twins]


def _print_twins(twins: "list[Twin]", columns: list[str]) -> None:
    from retrieval.terminal import print_table

    if not twins:
        return
    rows = [(t.id, t.label, t.twin_id, t.twin_label, f"{t.distance:.4f}", _remark(t)) for t in twins[:_SHOWN]]
    print_table(columns, rows)
    if len(twins) > _SHOWN:
        typer.echo(f"… and {len(twins) - _SHOWN:,} pairs more (--json lists all)")


def _remark(twin: "Twin") -> str:
    said = ("same content" if twin.exact else "", "" if twin.same_label else "different labels")
    return ", ".join(filter(None, said))


def _write_twins(memory: "VisualMemory", twins: "list[Twin]", pictures: "Pictures", sheet: Path) -> None:
    """Write the nearest pairs, side by side under the same number."""
    from retrieval.curation.contact_sheet import Tile, write_sheet
    from retrieval.terminal import printable

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
