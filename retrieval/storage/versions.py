"""The files of a table's versions: their names and sums, the versions there are, their tags, and how they are dropped.

The sums are SHA-256 of each file, in the form that ``sha256sum --check`` reads. Lance writes none. Of 150 single bits
flipped in data files, half changed what was read and nobody noticed. A flipped bit among the deletions may bring a
forgotten item back, or have Lance ask for more memory than there is, which ends the process. So whatever is read is
compared first, once in a process: small files whole, and of large ones, by sums of their parts, the columns that are
read. Only the pictures in large files are left to `retrieval.storage.checking`, which compares all: to show ten of
them, whole files would have to be read. A table on an object store has no sums: the store keeps its own.
"""

import hashlib
import json
import logging
import os
import re
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from retrieval.errors import InvalidArgument, NotAMemory, StorageError, UnknownVersion
from retrieval.storage.places import TABLE, UNREADABLE, address_of, in_lance, reading, shown, table_uri
from retrieval.support.parsing import parse_json

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
_PLAIN: Final = 12346  # how a bitmap of deletions begins
_WITH_RUNS: Final = 12347
_LIST_UP_TO: Final = 4096  # numbers; a container of more is 65,536 bits
_OFFSETS_FROM: Final = 4  # containers, where there are runs
_TAG: Final = re.compile(r"[A-Za-z]([A-Za-z0-9_-]|\.(?=[A-Za-z0-9_-])){0,63}")
"""Begins with a letter, so that it is no version's number; Lance takes no dot at the end or beside another."""
_TAGS: Final = Path(TABLE, "_refs", "tags")  # one JSON file a tag, in Lance's form
_SUM: Final = "visual-memory-sum"  # in a tag's metadata: of its name and version, which no other sum covers
_EVER: Final = timedelta(days=36_500)  # older than any version
_compared: set[tuple[str, int, int, int, str]] = set()  # file, inode, time, size and column; "*" for all of it
_logger = logging.getLogger(__name__)


def add_sums(path: Path, names: Collection[str], *, versions: Iterable[int] = ()) -> None:
    """Write down the sums of files of the table, and of some versions' manifests, as they are now.

    Whoever writes them holds the writer's lock.
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

    Of large files, only some columns are compared where these are given, and the pictures never.

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
    """Forget the sums of files that are gone, and add those of files that have none."""
    known = read_sums(path)
    folder = path / TABLE
    if not folder.is_dir():
        return
    names = [f"{part}/{file.name}" for part in _FOLDERS for file in folder.glob(f"{part}/*") if file.is_file()]
    names = [name for name in names if not name.startswith(MANIFESTS) or version_of(name)]
    lines = (f"{known.get(name) or digest(folder / name)}  {name}\n" for name in sorted(names))
    fresh = folder / f"{SUMS}{_FRESH}"
    fresh.write_text("".join(lines), encoding="utf-8")
    fresh.replace(path / TABLE / SUMS)
    there, before = set(names), _read_parts(path)
    if before.keys() - there:
        lines = (json.dumps({name: parts}) + "\n" for name, parts in before.items() if name in there)
        fresh.write_text("".join(lines), encoding="utf-8")
        fresh.replace(path / TABLE / PARTS)


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


def count_deletions(file: Path) -> int:
    """Return how many rows a file of deletions lists; ValueError says that it is not whole."""
    if file.suffix != ".bin":
        with pa.ipc.open_file(file) as opened:  # Arrow's errors are ValueErrors
            return int(opened.read_all().num_rows)
    content = file.read_bytes()
    try:
        counts, length = _layout(content)
    except (struct.error, ValueError, IndexError) as error:
        raise ValueError("a bitmap that breaks off") from error
    if length != len(content):
        raise ValueError(f"a bitmap of {len(content)} bytes: {length} expected")
    return int(counts.sum())


def _layout(content: bytes) -> tuple[np.ndarray, int]:
    """Return how many numbers each of a bitmap's containers holds, and how long it is in all."""
    (cookie,) = struct.unpack_from("<I", content)
    if cookie == _PLAIN:
        (containers,) = struct.unpack_from("<I", content, 4)
        at, runs, offsets = 8, np.zeros(containers, bool), True
    elif cookie & 0xFFFF == _WITH_RUNS:
        containers = (cookie >> 16) + 1
        at = 4 + -(-containers // 8)
        bits = np.unpackbits(np.frombuffer(content[4:at], np.uint8), bitorder="little")
        runs, offsets = bits[:containers].astype(bool), containers >= _OFFSETS_FROM
    else:
        raise ValueError("no bitmap")
    counts = np.frombuffer(content, "<u2", 2 * containers, at)[1::2].astype(np.int64) + 1
    at += (8 if offsets else 4) * containers
    for count, run in zip(counts.tolist(), runs.tolist(), strict=True):
        if run:
            at += 2 + 4 * int(struct.unpack_from("<H", content, at)[0])
        else:
            at += 2 * count if count <= _LIST_UP_TO else 8192
    return counts, at


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


def version_numbers(path: Path) -> list[int]:
    """Return the numbers of the versions there are, oldest first, without reading any of them."""
    if address_of(path):
        import lance

        return sorted(found["version"] for found in lance.dataset(table_uri(path)).version_refs())
    return sorted(filter(None, (version_of(f"{MANIFESTS}/{name}") for name in os.listdir(path / TABLE / MANIFESTS))))


@contextmanager
def unless_dropped(path: Path, version: int) -> Iterator[None]:
    """Translate what reading a version raises: another process may have dropped it meanwhile.

    Raises:
        UnknownVersion: it is not there any more.
        NotAMemory: it is there, and cannot be read.
    """
    try:
        with reading(path):
            yield
    except NotAMemory as error:
        with reading(path):
            gone = version not in version_numbers(path)
        if gone:
            raise dropped_meanwhile(path, version) from error
        raise


def dropped_meanwhile(path: Path, version: int) -> UnknownVersion:
    """Return the error about a version that was there."""
    return UnknownVersion(f"version {version} of {shown(path)} was dropped by another process: open the memory again")


def tags_of(path: Path) -> dict[str, int]:
    """Return the versions that have a tag, by the tags.

    On a disk they are read and written here: Lance takes one damaged tag for all, and leaves an empty folder beside a
    memory whose path has letters that an address may not have. Tags of before have no sum, and are taken as they are.

    Raises:
        StorageError: a tag is damaged.
        OSError, ValueError: the object store does not answer.
    """
    if address_of(path):
        return {tag: kept["version"] for tag, kept in _remote_tags(path).list().items()}
    tags, damaged = read_tags(path)
    if damaged:
        name = shown(path)
        raise StorageError(
            f"tag {damaged[0]!r} of {name} is damaged, so that nobody knows which version it names: take it away with"
            f" `vmem memory untag {name} {damaged[0]}`, and tag the version anew"
        )
    return tags


def read_tags(path: Path) -> tuple[dict[str, int], list[str]]:
    """Return the tags of a memory on a disk, and the names of the damaged ones."""
    tags: dict[str, int] = {}
    damaged: list[str] = []
    for file in sorted((path / _TAGS).glob("*.json")):
        try:
            kept = parse_json(file.read_bytes())
            version, sum_ = kept["version"], (kept.get("metadata") or {}).get(_SUM)
            if type(version) is not int or sum_ not in (None, _sum(file.stem, version)) or kept.get("branch"):
                raise ValueError(file.name)
            tags[file.stem] = version
        except FileNotFoundError:  # another process took it away
            continue
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            damaged.append(file.stem)
    return tags, damaged


def set_tag(path: Path, name: str, version: int) -> None:
    """Give a version that is there a name; the caller holds the writer's lock.

    Raises:
        InvalidArgument: it is no name, or another version's.
        OSError: the disk refuses.
    """
    if not _TAG.fullmatch(name) or name.endswith(".lock"):
        raise InvalidArgument(
            f"{name!r} is no tag: letters, digits, dashes and single dots, beginning with a letter, expected"
        )
    tags = tags_of(path)
    if tags.get(name, version) != version:
        raise InvalidArgument(f"tag {name!r} is version {tags[name]}'s: untag it first, or choose another")
    if name in tags:  # a command that was killed is run again
        return
    if address_of(path):
        _remote_tags(path).create(name, version)
        return
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    size = (path / TABLE / manifest(version)).stat().st_size
    kept = {"branch": None, "version": version, "createdAt": now, "updatedAt": now, "manifestSize": size}
    aside = path / f".new-tag-{name}"
    aside.write_text(json.dumps(kept | {"metadata": {_SUM: _sum(name, version)}}), encoding="utf-8")
    (path / _TAGS).mkdir(parents=True, exist_ok=True)
    aside.replace(path / _TAGS / f"{name}.json")


def remove_tag(path: Path, name: str) -> None:
    """Take a name, or what is left of a damaged one, from its version; the caller holds the writer's lock.

    Raises:
        UnknownVersion: no version has it.
        OSError: the disk refuses.
    """
    remote = bool(address_of(path))
    if name not in (tags_of(path) if remote else {file.stem for file in (path / _TAGS).glob("*.json")}):
        raise UnknownVersion(f"{shown(path)} has no tag {name!r}: `vmem memory history {shown(path)}` lists them")
    if remote:
        _remote_tags(path).delete(name)
    else:
        (path / _TAGS / f"{name}.json").unlink(missing_ok=True)


def tags_on(path: Path, versions: Collection[int]) -> dict[str, int]:
    """Return the tags of some versions, with these; errors are those of `tags_of`."""
    return {tag: version for tag, version in tags_of(path).items() if version in versions}


def drop_versions(path: Path, versions: Collection[int]) -> dict[str, int]:
    """Drop versions, their tags, and every file that no version needs any more; return the tags that went.

    A version goes from the list before its files go. Who is killed in between leaves files that no version lists, which
    the next call takes away. The caller holds the writer's lock, so that nobody is writing such files now.

    Raises:
        StorageError: a tag is damaged.
        OSError, ValueError: the disk refuses, or a version that stays cannot be read.
    """
    import lance

    tags = tags_on(path, versions)
    for tag in tags:
        remove_tag(path, tag)
    if address_of(path):  # whose objects only Lance can remove, in its own order
        if versions:
            lance.dataset(table_uri(path)).cleanup_old_versions(versions=sorted(versions))
        return tags
    dataset = lance.dataset(table_uri(path))
    texts = set(filter(None, (_transaction(dataset, version) for version in versions)))
    for version in sorted(versions):
        (path / TABLE / manifest(version)).unlink(missing_ok=True)
    dataset.cleanup_old_versions(older_than=_EVER, delete_unverified=True)
    left = set(version_numbers(path))
    for file in (path / TABLE / "_transactions").glob("*.txn"):  # of which Lance leaves those younger than some version
        read = file.name.partition("-")[0]
        if file.name in texts or (read.isdecimal() and int(read) + 1 not in left):
            file.unlink(missing_ok=True)
    return tags


def _transaction(dataset: Any, version: int) -> str | None:  # noqa: ANN401 - Lance is untyped
    """Return the name of the file with Lance's record of the change that made a version; None where it is damaged."""
    with suppress(*UNREADABLE), in_lance():
        change = dataset.read_transaction(version)
        return f"{change.read_version}-{change.uuid}.txn"
    return None


def _remote_tags(path: Path) -> Any:  # noqa: ANN401 - Lance is untyped
    import lance

    return lance.dataset(table_uri(path)).tags


def _sum(name: str, version: int) -> str:
    return hashlib.sha256(f"{name} {version}".encode()).hexdigest()[:16]
