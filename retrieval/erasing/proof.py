"""Looking for what is left of erased items: in rows of all versions, in the index, and in the bytes of every file."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from retrieval.erasing.dropped import DroppedRows
from retrieval.erasing.files import TableFiles
from retrieval.erasing.receipts import RECORD, Check, Deed, Known, Receipt, notes
from retrieval.erasing.secrets import Secrets
from retrieval.erasing.traces import Marks, Traces, every_trace
from retrieval.errors import InvalidArgument
from retrieval.indexes.saved import count_stored
from retrieval.storage.places import ASIDE, CENTRED_INDEX, INDEX, PASSED_OVER, reading, writing
from retrieval.storage.table import ItemTable
from retrieval.support.outside import parse_json

UNACCOUNTED: Final = "versions were dropped before the memory kept account of such rows"
_LEFT_OVERS: Final = (f"{ASIDE}*", "index*.new-*")  # of killed runs, in a memory's folder


@dataclass(frozen=True, slots=True)
class Verification:
    """What a receipt says, looked at again."""

    receipt: Receipt
    checks: tuple[Check, ...]

    @property
    def proven(self) -> bool:
        """Whether nothing was found."""
        return not any(check.left for check in self.checks)


def verify(
    receipt: Receipt, path: Path, *, traces: Sequence[Traces] | None = None, progress: bool = True
) -> Verification:
    """Look again whether anything is left of what a receipt says was erased, or has come back since.

    Args:
        receipt: what was erased.
        path: the memory's folder.
        traces: where else something of the items may be kept; None for every place.
        progress: whether to show a bar while files are searched.

    Raises:
        NotAMemory: there is no memory at the path.
        InvalidArgument: it is another memory than the receipt's.
        StorageError: a cache cannot be read.
    """
    table = ItemTable.open(path)
    if table.settings.memory_id != receipt.memory_id:
        raise InvalidArgument(f"the receipt is of another memory than {path}: give the one that was {receipt.memory}")
    known = receipt.known
    places = every_trace() if traces is None else traces
    found = search(path, known.secrets, places, progress=progress)
    if found and not receipt.deed.searched:  # nobody has told duplicates that stayed from what is left yet
        known = without_shared(known, path)
        found = still_secret(found, known)
    checks = examine(path, known, replace(receipt.deed, searched=True), found, places, anew=True)
    with reading(path):
        again = TableFiles(table.uri, anew=True).again(known.marks)
    origin = Check("receipt", f"whether the memory wrote it, by its digest in {RECORD}", _doubts(receipt, path))
    added = Check("added again", "ids and digests of the pictures of all rows, decoded and compared", tuple(again))
    return Verification(receipt, (origin, *checks, added))


def _doubts(receipt: Receipt, path: Path) -> tuple[str, ...]:
    """Say why a receipt proves nothing, whatever it names is gone."""
    if not receipt.is_of(path):
        return (
            f"{path / RECORD} has no record of it: the receipt was changed, or an earlier release wrote it, which kept"
            " no record, or this memory is a copy made before the erasure",
        )
    return () if receipt.items == len(receipt.known.marks.ids) > 0 else ("it names no item",)


def examine(
    path: Path, known: Known, deed: Deed, found: Mapping[Path, set[str]], traces: Sequence[Traces], *, anew: bool
) -> list[Check]:
    """Look for erased items wherever something of them was.

    Args:
        path: the memory's folder.
        known: what tells the items.
        deed: what was done.
        found: what `search` found in files.
        traces: where else something of the items may be kept.
        anew: whether to decode what was decoded before in this process and has not changed.
    """
    table = ItemTable.open(path)
    with reading(path):
        files = TableFiles(table.uri, anew=anew)
        rows = tuple(files.remaining(known.key_array))
        names = tuple(f"version {version}" for version in files.naming(known.marks))
        there = tuple(f"version {version}" for version in files.versions() if version in set(deed.dropped_versions))
        stray = {name: count_stored(path / name, but=files.keys()) for name in (INDEX, CENTRED_INDEX)}
    dropped = DroppedRows.of(table, files.versions())
    searched = tuple(f"{len(windows)} windows in {file}" for file, windows in found.items())
    what_files = f"{len(known.secrets.windows)} windows of their bytes, searched for in every file at every offset"
    if not deed.searched:
        what_files = "not searched yet: `vmem memory verify-forgotten` does"
    return [
        Check("rows", f"keys of all rows of {len(files.versions())} versions, deleted rows included, decoded", rows),
        Check("commands", "what each version's command says", names),
        Check("versions", f"{len(deed.dropped_versions)} versions that held them are gone", there),
        Check(
            "index",
            "keys of all positions, compared with those of all rows of all versions",
            tuple(f"{count} positions in {name} that no version knows" for name, count in stray.items() if count),
        ),
        Check(
            "dropped rows",
            f"keys and ids of {len(dropped.rows)} rows that are in no version any more"
            + ("" if dropped.complete else f"; {UNACCOUNTED}"),
            tuple(dropped.remaining(known)),
        ),
        Check("bytes", what_files, searched),
        Check("lists", "ids in the lists of unusable files", tuple(_in_lists(path, known.marks))),
        *(Check(place.name, "every entry, decoded", tuple(place.remains(known.marks))) for place in traces),
        Check("left over", "files of runs that were killed", tuple(str(file) for file in left_overs(path))),
        Check("under way", "notes of other erasures", tuple(str(note) for note in notes(path))),
    ]


def search(path: Path, secrets: Secrets, traces: Sequence[Traces], *, progress: bool) -> dict[Path, set[str]]:
    """Return which files of a memory and of the places beside it hold bytes of erased items."""
    folders = [path, *(folder for place in traces for folder in place.folders())]
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file() and not file.is_symlink()]
    with reading(path):
        return secrets.in_files(files, progress=progress)


def listings(path: Path) -> list[Path]:
    """Return the lists of unusable files in a memory's folder: one, and one of each shard that was added."""
    name = Path(PASSED_OVER)
    return sorted(path.glob(f"{name.stem}*{name.suffix}"))


def listed(listing: Path, marks: Marks) -> tuple[list[str], list[str]]:
    """Return the lines of a list of unusable files that name no forgotten id, and those that name one."""
    lines = listing.read_text(encoding="utf-8").splitlines(keepends=True)
    kept: list[str] = []
    naming: list[str] = []
    for line in lines:
        (naming if _names_one(line, marks) else kept).append(line)
    return kept, naming


def _names_one(line: str, marks: Marks) -> bool:
    try:
        return marks.is_id(str(parse_json(line.partition("\t")[0])))
    except ValueError:
        return False  # torn, or not ours


def left_overs(path: Path) -> Iterator[Path]:
    """Yield what killed runs left in a memory's folder."""
    for pattern in _LEFT_OVERS:
        yield from path.glob(pattern)


def sweep(path: Path, marks: Marks) -> int:
    """Drop what killed runs left, and forgotten ids from the list of unusable files; return how many lines.

    The caller holds the writer's lock, so nobody is making any of it.
    """
    with writing(path):
        for left_over in left_overs(path):
            shutil.rmtree(left_over) if left_over.is_dir() else left_over.unlink()
        return sum(_strike(listing, marks) for listing in listings(path))


def _strike(listing: Path, marks: Marks) -> int:
    kept, naming = listed(listing, marks)
    if naming:
        aside = listing.with_name(f"{ASIDE}{listing.name}")
        aside.write_text("".join(kept), encoding="utf-8")
        aside.replace(listing)
    return len(naming)


def _in_lists(path: Path, marks: Marks) -> Iterator[str]:
    for listing in listings(path):
        yield from (listing.name for _ in listed(listing, marks)[1])


def still_secret(found: Mapping[Path, set[str]], known: Known) -> dict[Path, set[str]]:
    """Return what was found of the windows that still tell the items, for the files that hold any."""
    left = {file: windows & known.secrets.windows.keys() for file, windows in found.items()}
    return {file: windows for file, windows in left.items() if windows}


def without_shared(known: Known, path: Path) -> Known:
    """Return what tells the items from those that stay, where duplicates share some of it."""
    with reading(path):
        secrets, marks = TableFiles(ItemTable.open(path).uri).shared(known.secrets, known.marks)
    return replace(known, secrets=secrets, marks=marks)
