"""SHA-256 of each file of a memory's table, in the form that ``sha256sum --check`` reads.

Lance writes none. Of 150 single bits flipped in data files, half changed what was read and nobody noticed. A flipped
bit among the deletions may bring a forgotten item back, or have Lance ask for more memory than there is, which ends the
process. So the small files are compared when a memory is opened, and all of them by `retrieval.storage.checking`. A
table on an object store has no sums: the store keeps its own.
"""

import hashlib
import logging
import os
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from retrieval.storage.places import TABLE

SUMS: Final = "SHA256SUMS"  # in the table's folder, with which it is copied
MANIFESTS: Final = "_versions"
_FOLDERS: Final = ("data", "_deletions", MANIFESTS)
_FRESH: Final = ".new"
_LINE: Final = re.compile(rb"([0-9a-f]{64})  ([\w./-]+)")
_MANIFEST: Final = re.compile(rf"{MANIFESTS}/(\d+)\.manifest")
_COUNTED_FROM: Final = 2**64 - 1  # Lance names manifests by what is left to here, so that the newest comes first
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
        lines = "".join(f"{digest(path / TABLE / name)}  {name}\n" for name in files)
        with (path / TABLE / SUMS).open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read() != b"\n":  # a writer was killed in the middle of a line
                    lines = f"\n{lines}"
            file.write(lines.encode())
    except OSError as error:  # the commit stands all the same
        _logger.warning("The sums of new files cannot be written to %s: %s", path / TABLE / SUMS, error)


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
