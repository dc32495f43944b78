"""Looking for damage in a memory, and going back to a version that has none."""

import logging
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.compute as pc

from retrieval.errors import InvalidArgument, MemoryBusy, StorageError, UnknownVersion
from retrieval.indexes.fixed_point import ROWS, FixedPointRows
from retrieval.indexes.saved import check_stored, load_stored, withdraw
from retrieval.storage.places import (
    CENTRED_INDEX,
    INDEX,
    TABLE,
    UNREADABLE,
    address_of,
    committing,
    expect_memory,
    in_lance,
    local_folder,
    reading,
    table_uri,
    writer_lock,
)
from retrieval.storage.table import ItemTable, as_matrix
from retrieval.storage.versions import (
    MANIFESTS,
    count_deletions,
    data_files,
    deletion_files,
    digest,
    expect_sums,
    manifest,
    read_sums,
    read_tags,
    remove_tag,
    renew_sums,
    version_numbers,
    version_of,
)
from retrieval.support.terminal import track
from retrieval.vectors import to_fixed_point

DAMAGED: Final = "damaged"  # folder in a memory's: what was put away
_BLOCK: Final = 8_192  # rows
_FILES_AT_A_TIME: Final = 500  # on a command line
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Survey:
    """What became of a table's files."""

    newest: int  # version that there is, or was
    files: Mapping[int, set[str]]  # that a version is read from
    unopened: Mapping[int, str]  # version → why
    wrong: Mapping[str, str]  # file → why

    @classmethod
    def of(cls, path: Path, *, progress: bool) -> "Survey":
        """Read them all."""
        sums = read_sums(path)
        files, unopened = _files_by_version(path, sums)
        names = sorted(set[str]().union(*files.values()))
        newest = max([*files, *unopened, *map(version_of, sums)], default=0)
        return cls(newest, files, unopened, _wrong_files(path, names, sums, progress=progress))

    def whole(self) -> list[int]:
        """Return the versions that can be read whole, oldest first."""
        return sorted(version for version, needs in self.files.items() if not needs & self.wrong.keys())

    def problems(self) -> list[str]:
        """Say what is damaged, the newest version first."""
        gone = [f"version {self.newest} is gone"] if self.newest not in {*self.files, *self.unopened, 0} else []
        unopened = [
            f"version {version} cannot be opened: {self.unopened[version]}"
            for version in sorted(self.unopened, reverse=True)
        ]
        return [*gone, *unopened, *self.wrong.values()]


def _files_by_version(path: Path, sums: Mapping[str, str]) -> tuple[dict[int, set[str]], dict[int, str]]:
    """Return the files that each version is read from, and why other versions cannot be opened."""
    import lance

    files: dict[int, set[str]] = {}
    unopened: dict[int, str] = {}
    for version in version_numbers(path):
        name = manifest(version)
        try:
            expect_sums(path, [name], sums)
            with in_lance():
                fragments = [one.metadata for one in lance.dataset(table_uri(path), version=version).get_fragments()]
            files[version] = {name} | data_files(fragments) | deletion_files(fragments)
        except UNREADABLE as error:
            unopened[version] = str(error).split(", /")[0].splitlines()[0]
    return files, unopened


def _wrong_files(path: Path, names: Sequence[str], sums: Mapping[str, str], *, progress: bool) -> dict[str, str]:
    """Return what is wrong with some of the table's files, by name."""
    wrong = {}
    unknown = []
    for name in track(names, "Reading", unit=" files", shown=progress):
        file = path / TABLE / name
        try:
            if name not in sums and not name.startswith(MANIFESTS):  # those were opened
                unknown.append(name)
            elif name in sums and digest(file) != sums[name]:
                wrong[name] = f"{name} is not as it was written"
        except OSError as error:
            wrong[name] = f"{name} cannot be read: {error.strerror}"
    return wrong | {name: f"{name} cannot be decoded" for name in _undecodable(path / TABLE, unknown)}


def _undecodable(folder: Path, names: Sequence[str]) -> list[str]:
    """Return which files in a table's folder cannot be decoded, tried in another process, which they may bring down."""
    wrong: list[str] = []
    left = list(names)
    while left:
        command = [sys.executable, "-m", "retrieval.storage.checking", str(folder), *left[:_FILES_AT_A_TIME]]
        done = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
        if len(done) < min(len(left), _FILES_AT_A_TIME):
            wrong.append(left.pop(len(done)))
        left = left[len(done) :]
    return wrong


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
        vectors = to_fixed_point(as_matrix(block["vector"]))
        keys = block["key"].to_numpy()
        position = order[np.minimum(np.searchsorted(stored.keys, keys, sorter=order), len(order) - 1)]
        there = stored.keys[position] == keys  # what the index lacks is searched beside it
        different += int((rows.at(position[there]) != vectors[there]).any(axis=1).sum())
    return [f"{stored.folder} holds other vectors than the table for {different} items"] if different else []


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


def _decode(folder: Path, names: Iterable[str]) -> None:
    from lance.file import LanceFileReader

    for name in names:
        if name.endswith(".lance"):
            for _ in LanceFileReader(str(folder / name)).read_all(batch_size=_BLOCK).to_batches():
                pass
        else:
            count_deletions(folder / name)
        print(name, flush=True)


if __name__ == "__main__":
    _decode(Path(sys.argv[1]), sys.argv[2:])
