"""Features in a Parquet file of id, label and vector: for other tools, and for memories to be built from."""

import json
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Float

from retrieval.disk import writing
from retrieval.embedders.base import EmbedderIdentity, MadeBy, foreign_vectors
from retrieval.embedders.execution import Execution
from retrieval.errors import FolderError, InvalidArgument
from retrieval.labels import stored_texts
from retrieval.outside import parse_json
from retrieval.parquet import rows_at_a_time
from retrieval.pipeline import EmbeddedBatch

if TYPE_CHECKING:
    import pyarrow

_KEY: Final = b"visual-memory"  # of the file's metadata: what made the vectors, and how
_COLUMNS: Final = ("id", "label", "vector")
_MOST_DIMENSIONS: Final = 2**16  # of vectors that another tool made
ROWS: Final = 8192  # in a row group, which is what is held in memory at a time


def write_features(
    out: Path, batches: Iterable[EmbeddedBatch[Any]], made_by: MadeBy
) -> tuple[int, list[tuple[str, str]]]:
    """Write embedded items to a Parquet file: id and label as text, vector as a fixed-size list of float32.

    Args:
        out: the file.
        batches: of anything with an id and a label.
        made_by: what made the vectors.

    Returns:
        How many were written, and id and reason of each item that has no usable picture.

    Raises:
        StorageError: the disk refuses; what lay there before still does.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema(made_by)
    fresh = out.with_name(out.name + ".new")
    written, unreadable = 0, []
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(fresh, schema) as writer:
            for group in _gathered(batches):
                ids = [file.id for batch in group for file in batch.items]
                labels = [file.label for batch in group for file in batch.items]
                flat = np.concatenate([batch.vectors for batch in group]).ravel()
                vectors = pa.FixedSizeListArray.from_arrays(pa.array(flat), made_by.identity.dimension)
                writer.write_table(
                    pa.table([pa.array(ids, pa.string()), pa.array(labels, pa.string()), vectors], schema=schema)
                )
                written += len(ids)
                unreadable += [(bad.item.id, str(bad.error)) for batch in group for bad in batch.failures]
        fresh.replace(out)
    return written, unreadable


@dataclass(frozen=True, slots=True)
class FeatureFile:
    """A Parquet file of features, by `write_features` or by another tool."""

    path: Path
    identity: EmbedderIdentity  # without weights where another tool wrote the file
    execution: Execution | None

    @classmethod
    def open(cls, path: str | Path) -> "FeatureFile":
        """Read what a file says of itself.

        Raises:
            FolderError: no Parquet file, or one without the columns id, label and vector.
        """
        import pyarrow.parquet as pq

        place = Path(path)
        with _reading(place):
            schema = pq.read_schema(place)
            absent = [name for name in _COLUMNS if name not in schema.names]
            if absent:
                raise FolderError(
                    f"{place} has the columns {', '.join(schema.names)}, but no {', '.join(absent)}: features are kept"
                    " in id, label and vector"
                )
            said = (schema.metadata or {}).get(_KEY)
            if said is not None:
                fields = parse_json(said)
                identity = EmbedderIdentity.from_json(json.dumps(fields["embedder"]))
                return cls(place, identity, Execution(**fields["execution"]))
            first = next(_blocks(place, ["vector"], most=1), None)
            if first is None or not len(first):
                raise FolderError(f"{place} holds no features: a row for each picture expected")
            dimension = len(first["vector"][0])
            if not 0 < dimension <= _MOST_DIMENSIONS:
                raise FolderError(f"{place} has vectors of {dimension:,} numbers: up to {_MOST_DIMENSIONS:,} expected")
            return cls(place, foreign_vectors(place.stem, dimension), None)

    def __len__(self) -> int:
        import pyarrow.parquet as pq

        with _reading(self.path):
            return int(pq.read_metadata(self.path).num_rows)

    def batches(self) -> Iterator[tuple[list[str], list[str], Float[np.ndarray, "items dimension"]]]:
        """Yield ids, labels and vectors, some thousands at a time.

        Raises:
            FolderError: the file breaks off, or a row lacks its id, label or vector.
        """
        ids, labels, vectors = list[str](), list[str](), list[np.ndarray]()
        with _reading(self.path):
            for batch in _blocks(self.path, _COLUMNS, most=ROWS):
                if any(batch[name].null_count for name in _COLUMNS):
                    raise FolderError(f"{self.path} has rows without an id, a label or a vector: fill or drop them")
                ids += self._texts(batch, "id")
                labels += self._texts(batch, "label")
                vectors.append(self._vectors(batch))
                if len(ids) >= ROWS:
                    yield ids, labels, np.concatenate(vectors)
                    ids, labels, vectors = [], [], []
        if ids:
            yield ids, labels, np.concatenate(vectors)

    def _texts(self, batch: "pyarrow.RecordBatch", name: str) -> list[str]:
        try:
            return stored_texts(batch[name].to_pylist(), name)
        except InvalidArgument as error:
            raise FolderError(f"{self.path}: {error}") from error

    def _vectors(self, batch: "pyarrow.RecordBatch") -> Float[np.ndarray, "items dimension"]:
        import pyarrow.compute as pc

        lengths = pc.list_value_length(batch["vector"]).to_numpy(zero_copy_only=False)
        if (lengths != self.identity.dimension).any():
            raise FolderError(f"{self.path} has vectors of other lengths than {self.identity.dimension}")
        flat = batch["vector"].flatten().to_numpy(zero_copy_only=False)
        found: np.ndarray = flat.reshape(len(batch), -1).astype(np.float32, copy=False)
        return found


def _blocks(path: Path, columns: Collection[str], *, most: int) -> "Iterator[pyarrow.RecordBatch]":
    """Yield rows in blocks that take a bounded number of bytes; some of them end with a row group."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            rows = rows_at_a_time(path, file.metadata.row_group(group), columns, most=most)
            yield from file.iter_batches(rows, row_groups=[group], columns=list(columns))


def _schema(made_by: MadeBy) -> "pyarrow.Schema":
    import pyarrow as pa

    about = {"embedder": json.loads(made_by.identity.to_json()), "execution": made_by.execution.to_dict()}
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("label", pa.string(), nullable=False),
            pa.field("vector", pa.list_(pa.float32(), made_by.identity.dimension), nullable=False),
        ],
        metadata={_KEY: json.dumps(about).encode()},
    )


def _gathered(batches: Iterable[EmbeddedBatch[Any]]) -> Iterator[list[EmbeddedBatch[Any]]]:
    """Gather batches into groups worth a row group."""
    group: list[EmbeddedBatch[Any]] = []
    rows = 0
    for batch in batches:
        group.append(batch)
        rows += len(batch.items)
        if rows >= ROWS:
            yield group
            group, rows = [], 0
    if group:
        yield group


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if path.suffix.lower() != ".parquet":
            reason = "a folder, or a file whose name ends in .csv, .tsv, .jsonl or .parquet, expected"
        raise FolderError(f"{path} cannot be read as a Parquet file of features: {reason}") from error
