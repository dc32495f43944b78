"""Which versions a table has, the names that were given to them, and how versions are dropped."""

import hashlib
import json
import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from retrieval.errors import InvalidArgument, StorageError, UnknownVersion
from retrieval.storage.places import TABLE, UNREADABLE, address_of, in_lance, shown, table_uri
from retrieval.storage.sums import MANIFESTS, manifest, version_of
from retrieval.support.outside import parse_json

_TAG: Final = re.compile(r"[A-Za-z]([A-Za-z0-9_-]|\.(?=[A-Za-z0-9_-])){0,63}")
"""Begins with a letter, so that it is no version's number; Lance takes no dot at the end or beside another."""
_TAGS: Final = Path(TABLE, "_refs", "tags")  # one JSON file a tag, in Lance's form
_SUM: Final = "visual-memory-sum"  # in a tag's metadata: of its name and version, which no other sum covers
_TRANSACTIONS: Final = "_transactions"
_EVER: Final = timedelta(days=36_500)  # older than any version


def version_numbers(path: Path) -> list[int]:
    """Return the numbers of the versions there are, oldest first, without reading any of them.

    Raises:
        OSError, ValueError: the table cannot be listed.
    """
    if address_of(path):
        import lance

        return sorted(found["version"] for found in lance.dataset(table_uri(path)).version_refs())
    return sorted(filter(None, (version_of(f"{MANIFESTS}/{name}") for name in os.listdir(path / TABLE / MANIFESTS))))


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
    """Return the tags of some versions, with these.

    Raises:
        as `tags_of`.
    """
    wanted = set(versions)
    return {tag: version for tag, version in tags_of(path).items() if version in wanted}


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
    for file in (path / TABLE / _TRANSACTIONS).glob("*.txn"):  # of which Lance leaves those younger than some version
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


_MESSAGE: Final = "__lance_commit_message"
_COMMAND: Final = "visual-memory-command"
_NOTE: Final = ".command"  # in the memory's folder while a command runs that may be run again where it is cut off


@dataclass(frozen=True, slots=True)
class Command:
    """What the versions of one command have in common."""

    name: str = ""  # build, add; empty for one that is called by what its versions did
    first: int = 0  # its first version; 0 before there is one, and for versions of before
    to: int = 0  # the version that it went back to, where it did

    @classmethod
    def of(cls, change: Any) -> "Command":  # noqa: ANN401 - Lance is untyped
        """Return the command that a version says it belongs to, by Lance's record of its change."""
        with suppress(ValueError, TypeError, KeyError, AttributeError):
            return cls(**parse_json(change.transaction_properties[_COMMAND]))
        return cls()


@dataclass(slots=True)
class _Running:
    command: Command
    what: str = ""  # it does, where the same command may go on
    note: Path | None = None  # to be written


_running: ContextVar[_Running | None] = ContextVar("running", default=None)


@contextmanager
def command(name: str = "") -> Iterator[None]:
    """Let all versions that are made within belong together; within another command they belong to that."""
    with _run(_Running(Command(name))):
        yield


@contextmanager
def resumable(folder: Path, name: str, what: str, *, newest: Command) -> Iterator[None]:
    """Do the same, and go on with the same command where it was cut off and nothing was done since.

    Args:
        folder: the memory's.
        name: of the command.
        what: it does: only the same goes on.
        newest: what the memory's newest version belongs to.

    Raises:
        OSError: the disk refuses.
    """
    going_on = newest.first > 0 and newest.name == name and _noted(folder) == [what, newest.first]
    with _run(_Running(newest if going_on else Command(name), what, folder / _NOTE)) as outermost:
        yield
    if outermost:
        (folder / _NOTE).unlink(missing_ok=True)


@contextmanager
def _run(running: _Running) -> Iterator[bool]:
    if _running.get():
        yield False
        return
    before = _running.set(running)
    try:
        yield True
    finally:
        _running.reset(before)


def _noted(folder: Path) -> Any:  # noqa: ANN401 - JSON
    with suppress(OSError, ValueError, RecursionError):
        return parse_json((folder / _NOTE).read_bytes())
    return None


def said_of(version: int, deed: str, *, to: int = 0) -> dict[str, str]:
    """Return what Lance's record of a change is to say.

    Args:
        version: that it makes.
        deed: what it does, in a word.
        to: the version that it goes back to, where it does.

    Raises:
        OSError: the disk refuses.
    """
    running = _running.get()
    if running is None:
        return {_MESSAGE: deed}
    if not running.command.first:
        running.command = replace(running.command, first=version)
    if running.note and version > 1:  # a new memory's folder is to be empty
        running.note.write_text(json.dumps([running.what, running.command.first]), encoding="utf-8")
        running.note = None
    return {_MESSAGE: deed, _COMMAND: json.dumps(asdict(replace(running.command, to=to)))}


def deed_said(change: Any) -> str | None:  # noqa: ANN401 - Lance is untyped
    """Return what a change says that it does; None where Lance made it by itself."""
    said = (change.transaction_properties or {}).get(_MESSAGE)
    return None if said is None else str(said)
