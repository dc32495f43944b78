"""Looking for damage in a memory, and going back to a version that has none."""

import logging
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Int, Int16

from retrieval.disk import UNREADABLE, committing, in_lance, reading
from retrieval.errors import InvalidArgument, MemoryBusy, StorageError, UnknownVersion
from retrieval.indexes.fixed_point import ROWS, FixedPointRows
from retrieval.indexes.generations import withdraw
from retrieval.indexes.store import check_stored, load_stored
from retrieval.storage.layout import CENTRED_INDEX, INDEX, expect_memory
from retrieval.storage.locking import writer_lock
from retrieval.storage.places import TABLE, address_of, local_folder, table_uri
from retrieval.storage.sums import manifest, renew_sums
from retrieval.storage.survey import Survey
from retrieval.storage.table import ItemTable
from retrieval.storage.versions import read_tags, remove_tag
from retrieval.vectors import to_fixed_point

DAMAGED: Final = "damaged"  # folder in a memory's: what was put away
_BLOCK: Final = 8_192  # rows
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Check:
    """What was found."""

    version: int  # the newest that there is, or was
    versions: int
    files: int  # of the table
    bytes_read: int
    items: int | None  # of the newest version; None where it is damaged
    table: tuple[str, ...]  # what of the table is damaged
    index: tuple[str, ...]  # what of the indexes was; they were taken away and are built anew
    whole: int | None  # the newest version that can be read whole; None where there is none

    @property
    def sound(self) -> bool:
        """Whether nothing is damaged."""
        return not (self.table or self.index)


def check_memory(path: str | Path, *, progress: bool = True) -> Check:
    """Read all of a memory's table and indexes. A damaged index is taken away: the next search builds another.

    Nobody can write meanwhile.

    Args:
        path: the memory's folder.
        progress: whether to show a bar.

    Raises:
        NotAMemory: there is no memory at the path.
        MemoryBusy: another process is writing to it.
        InvalidArgument: it is on an object store.
    """
    path = _on_this_machine(path)
    with ExitStack() as held:
        try:
            held.enter_context(writer_lock(path))
        except MemoryBusy:
            raise
        except StorageError:  # a disk that can only be read: nobody writes there
            _logger.info("%s can only be read: nothing is taken away", path)
        with reading(path):
            return _check(path, progress=progress)


def _on_this_machine(path: str | Path) -> Path:
    folder = local_folder(path)
    expect_memory(folder)
    if address := address_of(folder):
        raise InvalidArgument(f"{address} is on an object store, which checks its own files: give a memory on a disk")
    return folder


def _check(path: Path, *, progress: bool) -> Check:
    survey = Survey.of(path, progress=progress)
    problems, whole = survey.problems(), survey.whole()
    table = ItemTable.open(path) if survey.newest in whole else None
    if table is not None:
        problems += _twice(table)
    problems += [
        f"tag {tag!r} is damaged: `vmem memory untag {path} {tag}` takes it away" for tag in read_tags(path)[1]
    ]
    if not problems:
        with suppress(OSError):  # what had no sum was decoded and gets one
            renew_sums(path)
    names = set[str]().union(*survey.files.values()) - survey.wrong.keys()
    return Check(
        version=survey.newest,
        versions=len(survey.files),
        files=len(names),
        bytes_read=sum((path / TABLE / name).stat().st_size for name in names),
        items=None if table is None else len(table),
        table=tuple(problems),
        index=tuple(_check_indexes(path, table)),
        whole=whole[-1] if whole else None,
    )


def _twice(table: ItemTable) -> list[str]:
    """Say which of what names items is there twice."""
    import pyarrow.compute as pc

    rows = table.light_columns()
    again = {name: len(rows) - pc.count_distinct(rows[name]).as_py() for name in ("id", "key")}
    return [f"{count} items have the {name} of another" for name, count in again.items() if count]


def _check_indexes(path: Path, table: ItemTable | None) -> list[str]:
    problems = []
    for name in (INDEX, CENTRED_INDEX):
        found = check_stored(path / name)
        if not found and name == INDEX and table is not None:
            found = _disagreement(path, table)
        if found:
            problems += found
            with suppress(OSError):  # where it can only be read
                withdraw(path / name)
    return problems


def _disagreement(path: Path, table: ItemTable) -> list[str]:
    """Say whether the index holds other vectors than the table."""
    stored = load_stored(path / INDEX)
    if stored is None or stored.folder is None or not (stored.folder / ROWS).exists():
        return []
    rows = FixedPointRows.load(stored.folder, dimension=table.dimension)
    order = np.argsort(stored.keys)
    different = 0
    for block in table.dataset.to_batches(columns=["key", "vector"], batch_size=_BLOCK):
        vectors = to_fixed_point(block["vector"].flatten().to_numpy().reshape(len(block), -1))
        different += _different(block["key"].to_numpy(), vectors, stored.keys, order, rows)
    return [f"{stored.folder} holds other vectors than the table for {different} items"] if different else []


def _different(
    keys: Int[np.ndarray, " some"],
    vectors: Int16[np.ndarray, "some dimension"],
    their: Int[np.ndarray, " items"],
    order: Int[np.ndarray, " items"],
    rows: FixedPointRows,
) -> int:
    """Return how many of some items have another vector in the index; what that lacks is searched beside it."""
    place = order[np.minimum(np.searchsorted(their, keys, sorter=order), len(their) - 1)]
    there = their[place] == keys
    return int((rows.at(place[there]) != vectors[there]).any(axis=1).sum())


def go_back(path: str | Path, version: int | str) -> None:
    """Make a version the newest one of a damaged table, and put the versions that are damaged away.

    Their manifests go into the memory's folder ``damaged``, and the tags on them go.

    Raises:
        NotAMemory: there is no memory at the path.
        UnknownVersion: the version is not there, or damaged itself.
        MemoryBusy, StorageError: another process is writing, or the disk refuses.
    """
    path = _on_this_machine(path)
    with writer_lock(path), committing(path):
        survey = Survey.of(path, progress=True)
        whole = survey.whole()
        earlier = _opened(path, version)
        if earlier is None or earlier.version not in whole:
            raise UnknownVersion(
                f"{path} has no version {version!r} that can be read: `vmem memory check {path}` says which one can"
            )
        damaged = {*survey.files, *survey.unopened}.difference(whole)
        tags, unreadable = read_tags(path)
        for tag in [*unreadable, *(tag for tag, number in tags.items() if number in damaged)]:
            remove_tag(path, tag)
        _put_away(path, survey.unopened)  # or Lance would not write another
        renew_sums(path)  # the new version may get the number of one that is away
        earlier.restore()
        _put_away(path, damaged.difference(survey.unopened))
        renew_sums(path)


def _put_away(path: Path, versions: Iterable[int]) -> None:
    for version in versions:
        (path / DAMAGED).mkdir(exist_ok=True)
        file = path / TABLE / manifest(version)
        file.replace(path / DAMAGED / file.name)


def _opened(path: Path, version: int | str) -> Any:  # noqa: ANN401 - Lance is untyped
    import lance

    with suppress(*UNREADABLE), in_lance():
        number = read_tags(path)[0].get(version) if isinstance(version, str) else version
        return lance.dataset(table_uri(path), version=number) if number else None
    return None
