"""SHA-256 of each file of a memory's table, in the form that ``sha256sum --check`` reads.

Lance writes none. Of 150 single bits flipped in data files, half changed what was read and nobody noticed. A flipped
bit among the deletions may bring a forgotten item back, or have Lance ask for more memory than there is, which ends the
process. So whatever is read is compared first, once in a process: small files whole, and of large ones, by sums of
their parts, the columns that are read. Only the pictures in large files are left to `retrieval.storage.checking`, which
compares all: to show ten of them, whole files would have to be read. A table on an object store has no sums: the store
keeps its own.
"""

import hashlib
import json
import logging
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from retrieval.storage.places import TABLE
from retrieval.support.outside import parse_json

SUMS: Final = "SHA256SUMS"  # in the table's folder, with which it is copied
MANIFESTS: Final = "_versions"
_FOLDERS: Final = ("data", "_deletions", MANIFESTS)
PARTS: Final = "PARTS.jsonl"  # beside it: of large data files, column, first byte, end and sum of each part
PICTURES: Final = "thumbnail"
_FRESH: Final = ".new"
_LARGE: Final = 2**20  # bytes
_REST: Final = ""  # stands for the column of what belongs to none, which says where all others are
_LINE: Final = re.compile(rb"([0-9a-f]{64})  ([\w./-]+)")
_MANIFEST: Final = re.compile(rf"{MANIFESTS}/(\d+)\.manifest")
_COUNTED_FROM: Final = 2**64 - 1  # Lance names manifests by what is left to here, so that the newest comes first
_compared: set[tuple[str, int, int, int, str]] = set()  # file, inode, time, size and column; "*" for all of it
_logger = logging.getLogger(__name__)


def add_sums(path: Path, names: Collection[str], *, versions: Iterable[int] = ()) -> None:
    """Write down the sums of files of the table, as they are now; whoever writes them holds the writer's lock.

    Args:
        path: the memory's folder.
        names: of files, in the table's folder.
        versions: whose manifests are added to these.
    """
    files = [name for name in (*sorted(names), *map(manifest, versions)) if (path / TABLE / name).is_file()]
    if not files:
        return
    try:
        _append(path / TABLE / SUMS, "".join(f"{digest(path / TABLE / name)}  {name}\n" for name in files))
        _append(path / TABLE / PARTS, "".join(_line_of_parts(path / TABLE, name) for name in files))
        _compared.update((*_state(path / TABLE / name), "*") for name in files)
    except OSError as error:  # the commit stands all the same
        _logger.warning("The sums of new files cannot be written to %s: %s", path / TABLE / SUMS, error)


def _append(file: Path, lines: str) -> None:
    if not lines:
        return
    with file.open("ab+") as opened:
        if opened.tell():
            opened.seek(-1, os.SEEK_END)
            if opened.read() != b"\n":  # a writer was killed in the middle of a line
                lines = f"\n{lines}"
        opened.write(lines.encode())


def _line_of_parts(folder: Path, name: str) -> str:
    """Return the sums of a large data file's parts as a line of JSON; nothing for another file."""
    from lance.file import LanceFileReader

    file = folder / name
    if not name.startswith("data/") or file.stat().st_size <= _LARGE:
        return ""
    about = LanceFileReader(str(file)).metadata()
    buffers = sorted(
        (buffer.position, column)
        for column, pages in zip(about.schema.names, about.columns, strict=True)
        for page in pages.pages
        for buffer in page.buffers
        if buffer.size
    )
    pages_end = max(b.position + b.size for c in about.columns for page in c.pages for b in page.buffers)
    starts = [(0, buffers[0][1]), *buffers[1:], (pages_end, _REST)]
    ends = [start for start, _ in starts[1:]] + [file.stat().st_size]
    joined: list[list[Any]] = []
    for (start, column), end in zip(starts, ends, strict=True):  # they leave no byte out
        if joined and joined[-1][0] == column:
            joined[-1][2] = end
        else:
            joined.append([column, start, end])
    return json.dumps({name: [[*part, _digest_of_part(file, part[1], part[2])] for part in joined]}) + "\n"


def _digest_of_part(file: Path, start: int, end: int) -> str:
    with file.open("rb") as opened:
        opened.seek(start)
        return hashlib.sha256(opened.read(end - start)).hexdigest()


def _read_parts(path: Path) -> dict[str, list[tuple[str, int, int, str]]]:
    parts: dict[str, list[tuple[str, int, int, str]]] = {}
    with suppress(FileNotFoundError):
        for line in (path / TABLE / PARTS).read_bytes().splitlines():
            with suppress(ValueError, TypeError, AttributeError):  # torn: what it is about is compared whole
                for name, found in parse_json(line).items():
                    parts[name] = [(str(column), int(start), int(end), str(sum_)) for column, start, end, sum_ in found]
    return parts


def _state(file: Path) -> tuple[str, int, int, int]:
    about = file.stat()
    return str(file), about.st_ino, about.st_mtime_ns, about.st_size


def expect_data(path: Path, fragments: Iterable[Any], columns: Iterable[str] | None = None) -> None:
    """Compare what is about to be read of fragments, given their metadata, unless this process has compared it before.

    Args:
        path: the memory's folder.
        fragments: whose files are read.
        columns: that are read; None for all. Of large files, pictures are never compared.

    Raises:
        ValueError: it is not as it was written.
        OSError: a file is gone.
    """
    wanted = None if columns is None else frozenset(columns)
    states = {name: _state(path / TABLE / name) for name in data_files(fragments)}
    new = {name: state for name, state in states.items() if (*state, "*") not in _compared}
    if wanted is not None:
        new = {
            name: state for name, state in new.items() if any((*state, column) not in _compared for column in wanted)
        }
    if not new:
        return
    sums = read_sums(path)
    parts = _read_parts(path) if any(state[3] > _LARGE for state in new.values()) else {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for seen in pool.map(lambda name: _compare(path, name, new[name], wanted, sums, parts.get(name)), new):
            _compared.update(seen)


def _compare(
    path: Path,
    name: str,
    state: tuple[str, int, int, int],
    wanted: frozenset[str] | None,
    sums: Mapping[str, str],
    parts: Sequence[tuple[str, int, int, str]] | None,
) -> list[tuple[str, int, int, int, str]]:
    """Compare a file, or what is wanted of it; return what was compared, in the form of `_compared`."""
    if parts is None:
        expect_sums(path, [name], sums)
        return [(*state, "*")]
    held = {column for column, *_ in parts}
    columns = (held if wanted is None else wanted & held) - {PICTURES} | {_REST}
    for column, start, end, sum_ in parts:
        if column in columns and _digest_of_part(path / TABLE / name, start, end) != sum_:
            raise ValueError(f"{name} is not as it was written")
    return [(*state, column) for column in columns | (wanted or set())]


def read_sums(path: Path) -> dict[str, str]:
    """Return the sums that are written down, by the files' names in the table's folder."""
    try:
        lines = (path / TABLE / SUMS).read_bytes().splitlines()
    except FileNotFoundError:  # made by the first release
        return {}
    found = filter(None, map(_LINE.fullmatch, lines))
    return {match[2].decode(): match[1].decode() for match in found}


def newest_version(path: Path, sums: Mapping[str, str]) -> int:
    """Return the newest version there is; its writer may have been killed before the sum was there.

    Raises:
        ValueError: the newest one that was written is gone.
        OSError: there is no list of versions.
    """
    newest = max(map(version_of, sums), default=0)
    if not (path / TABLE / manifest(newest)).exists():  # there are no sums, or another process is dropping versions now
        listed = max((version_of(f"{MANIFESTS}/{name}") for name in os.listdir(path / TABLE / MANIFESTS)), default=0)
        if listed <= newest:
            raise ValueError(f"its version {newest} is gone" if newest else "it has no version")
        newest = listed
    while (path / TABLE / manifest(newest + 1)).exists():
        newest += 1
    return newest


def renew_sums(path: Path) -> None:
    """Forget the sums of files that are gone, and add those of files that have none.

    Raises:
        OSError: the disk refuses.
    """
    known = read_sums(path)
    folder = path / TABLE
    if not folder.is_dir():
        return
    names = [f"{part}/{file.name}" for part in _FOLDERS for file in folder.glob(f"{part}/*") if _belongs(part, file)]
    lines = (f"{known.get(name) or digest(folder / name)}  {name}\n" for name in sorted(names))
    fresh = folder / f"{SUMS}{_FRESH}"
    fresh.write_text("".join(lines), encoding="utf-8")
    fresh.replace(path / TABLE / SUMS)
    there, before = set(names), _read_parts(path)
    if before.keys() - there:
        lines = (json.dumps({name: parts}) + "\n" for name, parts in before.items() if name in there)
        fresh.write_text("".join(lines), encoding="utf-8")
        fresh.replace(path / TABLE / PARTS)


def _belongs(part: str, file: Path) -> bool:
    return file.is_file() and (part != MANIFESTS or version_of(f"{part}/{file.name}") > 0)


def expect_sums(path: Path, names: Iterable[str], sums: Mapping[str, str]) -> None:
    """Compare files with their sums, of those that have one: before Lance reads them, which damage may have crash.

    Raises:
        ValueError: a file is not as it was written.
        OSError: a file is gone.
    """
    for name in names:
        if name in sums and digest(path / TABLE / name) != sums[name]:
            raise ValueError(f"{name} is not as it was written")


def data_files(fragments: Iterable[Any]) -> set[str]:
    """Return the names of the files that hold the rows of fragments, given their metadata."""
    return {f"data/{file.path}" for fragment in fragments for file in fragment.files}


def deletion_files(fragments: Iterable[Any]) -> set[str]:
    """Return the names of the files that say which rows of fragments are gone, given their metadata."""
    return {str(one.deletion_file.path(one.id)) for one in fragments if one.deletion_file}


def manifest(version: int) -> str:
    """Return the name of the file that says what belongs to a version."""
    return f"{MANIFESTS}/{_COUNTED_FROM - version}.manifest"


def version_of(name: str) -> int:
    """Return the version whose manifest has a name; 0 for another file."""
    match = _MANIFEST.fullmatch(name)
    return _COUNTED_FROM - int(match[1]) if match else 0


def digest(file: Path) -> str:
    """Return the sum of a file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
