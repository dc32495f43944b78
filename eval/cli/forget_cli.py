"""vmem memory forget and vmem memory verify-forgotten: above retrieval, since replies and runs keep traces too."""

import json
import sys
from collections.abc import Callable, Collection
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer

from eval.runs.log import expect_runs, predictions_with
from retrieval.erasing.erase import erase_items, finish_pending, keys_of_ids, plan_erasure
from retrieval.erasing.receipts import UNACCOUNTED, Check, Receipt, read_receipt, verify
from retrieval.errors import InvalidArgument, StorageError
from retrieval.memory import VisualMemory
from retrieval.storage.places import address_of, expect_memory, is_memory, local_folder
from retrieval.storage.table import ItemTable
from retrieval.support.options import AsJson, Ids, IdsFrom, MemoryPath, OfLabel, Where, listed_ids
from retrieval.support.terminal import counted, print_table, printable, way_back
from retrieval.version import Snapshot

Runs = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="DIR",
        help="List the predictions of these runs, or of all runs below a folder, in which the items took part. The logs"
        " themselves stay as they are.",
    ),
]
_LISTED: Final = 20  # predictions, and findings of a check, that are shown


def forget(
    memory: MemoryPath,
    ids: Ids = None,
    label: OfLabel = None,
    where: Where = None,
    ids_from: IdsFrom = None,
    erase: Annotated[
        bool, typer.Option("--erase", help="Leave nothing of them on disk, in any version; write a receipt.")
    ] = False,
    prove_later: Annotated[
        bool,
        typer.Option(
            "--prove-later", help="Erase without searching every file for what is left: verify-forgotten does."
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Erase without asking.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Finish erasing what a run that was cut off began.")] = False,
    runs: Runs = None,
) -> None:
    """Take items out of every decision from now on; with --erase, leave nothing of them on disk.

    Without --erase they stay in earlier versions, to which `vmem memory checkout` goes back.

    With --erase their vectors, thumbnails and ids go from all files and versions of the memory, from its index and
    from the kept features. Kept replies whose prompts showed them go, too. So do versions that held them, and their
    tags. Ids that were forgotten before can be erased as well. The receipt that is written names none of them;
    `vmem memory verify-forgotten` proves by it that nothing is left. Copies and backups are yours to delete.

    Examples, of one item, and of a whole label for good:

    vmem memory forget pets/ --id cats/17.jpg

    vmem memory forget pets/ --label cats --erase
    """
    chosen = listed_ids(ids, ids_from)
    if runs:  # before anything is done that cannot be undone
        expect_runs(runs)
    if resume:
        if any(choice is not None for choice in (chosen, label, where)):
            raise InvalidArgument(
                "--resume finishes what was begun, and takes no items: erase others by a second command"
            )
        _resume(_searchable(memory))
    elif erase:
        folder = _searchable(memory)
        if chosen is not None and label is None and where is None:
            keys = keys_of_ids(folder, chosen)
        else:
            snapshot = Snapshot(ItemTable.open(folder), folder)
            keys = snapshot.rows.keys(snapshot.select(ids=chosen, label=label, where=where))
        if yes or _confirmed(folder, keys):
            receipt = erase_items(folder, keys, prove=not prove_later)
            _print_receipt(folder, receipt)
            _list_runs(runs, receipt.known.marks.is_id, receipt.memory_id)
    else:
        _unlink(memory, chosen, label, where, runs)


def verify_forgotten(
    receipt: Annotated[Path, typer.Argument(metavar="RECEIPT", help="A file in MEMORY/receipts.")],
    memory: Annotated[
        Path | None, typer.Option(help="The memory, where the receipt lies in another place than its folder.")
    ] = None,
    runs: Runs = None,
    as_json: AsJson = False,
) -> None:
    """Prove by a receipt that nothing is left of what was erased: every row decoded, every file searched.

    Exits with 1 where something is left or is there again, and where the receipt is not what the memory wrote.

    Example: vmem memory verify-forgotten pets/receipts/20260101T1200000000-1f2e3d4c.json
    """
    read = read_receipt(receipt)
    beside = receipt.absolute().parent.parent
    there = memory or (beside if is_memory(beside) else Path(read.memory))
    found = verify(read, there)
    if as_json:
        typer.echo(json.dumps({"proven": found.proven, "checks": [asdict(check) for check in found.checks]}))
    else:
        _print_checks(found.checks)
    _list_runs(runs, read.known.marks.is_id, read.memory_id)
    if not found.proven:
        raise typer.Exit(1)


def _searchable(memory: Path) -> Path:
    """Return the folder of a memory; StorageError where its files do not lie there, but on an object store."""
    folder = local_folder(memory)
    if address := address_of(folder):
        raise StorageError(f"{address} cannot be searched byte by byte: erase from a memory in a folder, or forget")
    return folder


def _confirmed(memory: Path, keys: np.ndarray) -> bool:

    plan = plan_erasure(memory, keys)
    typer.echo(f"{printable(memory)}: to be erased for good: {counted(len(keys), 'item')}")
    if plan.versions:
        numbers = printable(", ".join(map(str, plan.versions)))
        typer.echo(f"Versions that hold them, and that go with them: {numbers}")
    for tag, version in plan.tags.items():
        typer.echo(f"The tag {printable(tag)} of version {version} goes, too")
    if not sys.stdin.isatty():
        raise InvalidArgument("erasing cannot be undone, and there is nobody to ask: say --yes")
    return typer.confirm("Erase them?")


def _unlink(memory: Path, ids: list[str] | None, label: str | None, where: str | None, runs: list[Path] | None) -> None:
    opened = VisualMemory.open(memory)
    listed: Collection[str] = ()
    if runs:
        snapshot = Snapshot(ItemTable.open(memory), memory)
        listed = set(ids or snapshot.rows.ids(snapshot.select(label=label, where=where)))
    count = opened.forget(ids=ids, label=label, where=where)
    typer.echo(f"{printable(memory)}: forgot {counted(count, 'item')}, {len(opened):,} left, version {opened.version}")
    if count:
        typer.echo(f"{way_back(memory)}: earlier versions still hold them; --erase leaves nothing")
    _list_runs(runs, listed.__contains__, opened.settings.memory_id)


def _resume(memory: Path) -> None:

    expect_memory(memory)
    receipts, waiting = finish_pending(memory)
    for receipt in receipts:
        _print_receipt(memory, receipt)
    if waiting:
        typer.echo(f"{waiting:,} others were begun in Python, with `traces` of their own: `finish_pending` goes on")
    elif not receipts:
        typer.echo(f"{printable(memory)}: nothing was cut off")


def _print_receipt(memory: Path, receipt: Receipt) -> None:

    changes = receipt.changes
    typer.echo(f"{printable(memory)}: erased {counted(receipt.items, 'item')}, version {changes.version_after}")
    rows = [("versions dropped", len(changes.dropped_versions)), ("files removed", len(changes.files_removed))]
    rows += [("files written", len(changes.files_written))]
    rows += [(f"entries dropped: {place}", count) for place, count in changes.entries_dropped.items()]
    print_table(["of the memory and beside it", "count"], [(what, f"{count:,}") for what, count in rows])
    for tag, version in changes.dropped_tags.items():
        typer.echo(f"The tag {printable(tag)} of version {version} is gone")
    if changes.windows_shared:
        typer.echo(
            f"Other items hold {changes.windows_shared:,} of {changes.windows:,} pieces of their bytes: duplicates stay"
        )
    if not changes.searched:
        typer.echo("Not proven yet: `vmem memory verify-forgotten RECEIPT` searches every file")
    typer.echo(f"Receipt: {printable(receipt.path, longest=1000)}")


def _print_checks(checks: tuple[Check, ...]) -> None:

    print_table(["looked at", "left", "how"], [(check.what, len(check.left), check.how) for check in checks])
    failed = [check.what for check in checks if check.left]
    for check in checks:
        word = "DOUBT" if check.what == "receipt" else "LEFT"
        for what in check.left[:_LISTED]:
            typer.echo(f"{word}  {check.what}: {printable(what, longest=500)}")
    if failed:
        typer.echo(f"Not proven, because of: {', '.join(failed)}")
    elif any(UNACCOUNTED in check.how for check in checks):
        typer.echo(
            "Proven: nothing is left of what this memory knows. An earlier version of an item may have had another"
            " picture, of which features or replies may be kept: `vmem cache clear` removes all of them"
        )
    else:
        typer.echo("Proven: nothing is left")


def _list_runs(runs: list[Path] | None, is_forgotten: Callable[[str], bool], memory_id: str) -> None:

    if not runs:
        return
    rows = []
    count = 0
    for one in predictions_with(runs, is_forgotten, memory_id=memory_id):
        count += 1
        if count <= _LISTED:
            rows.append((one.query, one.dataset, one.run.name, one.rank, "yes" if one.named else ""))
    shown = f"; the first {_LISTED} of them" if count > _LISTED else ""
    typer.echo(f"{counted(count, 'prediction')} of these runs had one of the items among the neighbours{shown}")
    if rows:
        print_table(["query", "data set", "run", "nearest rank", "named by the model"], rows)
