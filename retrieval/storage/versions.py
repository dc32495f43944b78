"""Which versions a table has, the names that were given to them, and how versions are dropped."""

import hashlib
import json
import os
import re
from collections.abc import Collection
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from retrieval.disk import UNREADABLE, in_lance
from retrieval.errors import InvalidArgument, StorageError, UnknownVersion
from retrieval.outside import parse_json
from retrieval.storage.places import TABLE, address_of, shown, table_uri
from retrieval.storage.sums import MANIFESTS, manifest, version_of

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
