"""Where the vectors of an index by Milvus are: its one small file."""

import hashlib
import json
import os
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from retrieval.indexes.milvus_collection import Collection
from retrieval.indexes.milvus_server import embed, reach
from retrieval.outside import parse_json

ABOUT: Final = "milvus.json"  # in the index's folder


@dataclass(frozen=True, slots=True)
class About:
    """Where an index's vectors are, and how many."""

    uri: str  # empty: embedded
    name: str  # of the collection
    items: int
    dimension: int
    erased: int
    digests: dict[str, str]  # of the embedded database's files

    @classmethod
    def read(cls, folder: Path) -> "About":
        """Read it from an index's folder.

        Raises:
            OSError, ValueError: it is not there, or of another form.
        """
        try:
            about = cls(**parse_json((folder / ABOUT).read_text(encoding="utf-8")))
        except TypeError as error:
            raise ValueError(f"{folder / ABOUT} is of another form") from error
        if not about.name.isidentifier():  # it becomes part of a path
            raise ValueError(f"{folder / ABOUT} names no collection")
        return about

    def write(self, folder: Path) -> None:
        """Put it in the place of the one in an index's folder."""
        fresh = folder / f"{ABOUT}.new"
        with fresh.open("w", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(self)))
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(folder / ABOUT)

    def database(self, folder: Path) -> Path:
        """Return the folder of the embedded database."""
        return folder / f"{self.name}.db"

    def collection(self, folder: Path) -> Collection:
        """Return the collection, there or not."""
        server = reach(self.uri) if self.uri else embed(self.database(folder))
        return Collection(server, self.name, graph=bool(self.uri))


def new_name() -> str:
    """Return a name that no other collection has."""
    return f"vmem_{uuid.uuid4().hex}"


def digests(database: Path) -> dict[str, str]:
    """Return the SHA-256 of each file that holds vectors."""
    files = (path for path in sorted(database.rglob("*")) if path.suffix in (".parquet", ".idx"))
    return {path.relative_to(database).as_posix(): _digest(path) for path in files}


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
