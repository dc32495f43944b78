"""What became of a table's files: every one is read once, however many versions share it.

A file that has a sum is compared with it. One that has none, of the first release or of a writer that was killed before
it wrote the sum down, is decoded: in another process, since damaged files may have Lance end its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from retrieval.disk import UNREADABLE, in_lance
from retrieval.progress import track
from retrieval.storage.decoding import undecodable
from retrieval.storage.places import TABLE, table_uri
from retrieval.storage.sums import (
    MANIFESTS,
    data_files,
    deletion_files,
    digest,
    expect_sums,
    manifest,
    read_sums,
    version_of,
)
from retrieval.storage.versions import version_numbers


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
    return wrong | {name: f"{name} cannot be decoded" for name in undecodable(path / TABLE, unknown)}
