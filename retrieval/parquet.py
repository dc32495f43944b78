"""Parquet files: reading them from anywhere within bounds, and files of features, written and read.

A cell of 400 MB of zeros takes some kB in a file and took 2.5 GB to decode. Arrow has no limit of its own, and what a
file's footer says of a column adds up all its cells. So each page's header is looked at before the page is decoded
(``PageHeader`` in Apache Parquet's parquet.thrift, written in Thrift's compact protocol), which takes microseconds.
"""

import json
import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Float

from retrieval.embedders.base import EmbedderIdentity, Execution, MadeBy, foreign_vectors
from retrieval.embedding import EmbeddedBatch
from retrieval.errors import FolderError, InvalidArgument
from retrieval.labels import stored_texts
from retrieval.storage.places import writing
from retrieval.support.parsing import parse_json

if TYPE_CHECKING:
    import pyarrow


LARGEST_PAGE: Final = 2**28
"""Bytes that a page may unpack to, 256 MiB: what the largest picture takes (`retrieval.images.MAX_PIXELS`) as RGB."""

MOST_PACKED: Final = 4
"""Times its stored size that more may unpack to. Pictures are packed already, and Arrow ends a page only after 1,024
rows: of photographs that is a page of gigabytes, which is as large in the file."""

_SIZE, _STORED_SIZE = 2, 3  # fields of a page's header: bytes unpacked, and as they are stored
_BOOLS, _BYTE, _INTEGERS, _DOUBLE, _BINARY, _LISTS, _STRUCT = (1, 2), 3, (4, 5, 6), 7, 8, (9, 10), 12
_LONGEST_NUMBER: Final = 10  # bytes


def rows_at_a_time(path: Path, group: Any, columns: Collection[str], *, most: int) -> int:  # noqa: ANN401
    """Return how many rows of a row group may be decoded together, so that they take a quarter of `LARGEST_PAGE`.

    Args:
        path: of the file.
        group: the row group's metadata, as pyarrow has it.
        columns: names of the columns that are to be decoded.
        most: rows, however small they are.

    Raises:
        ValueError: a page unpacks to more than `LARGEST_PAGE` and `MOST_PACKED` times what is stored, or the file is
            damaged.
        OSError: it cannot be read.
    """
    largest = 1
    with path.open("rb", buffering=4096) as file:
        for place in range(group.num_columns):
            chunk = group.column(place)
            if chunk.num_values and chunk.path_in_schema.partition(".")[0] in columns:
                for size, stored in _page_sizes(file, chunk):
                    largest = max(largest, size)
                    if size > max(LARGEST_PAGE, MOST_PACKED * stored):
                        raise ValueError(
                            f"a page of it unpacks to {size:,} bytes, more than the limit of {LARGEST_PAGE:,}: write it"
                            " with fewer rows in a group, or keep large pictures as files"
                        )
    return max(1, min(most, LARGEST_PAGE // 4 // largest))


def _page_sizes(file: IO[bytes], chunk: Any) -> Iterator[tuple[int, int]]:  # noqa: ANN401
    """Yield each page's bytes, unpacked and as they are stored."""
    start = chunk.data_page_offset
    if chunk.has_dictionary_page and 0 < (chunk.dictionary_page_offset or 0) < start:
        start = chunk.dictionary_page_offset
    file.seek(start)
    try:
        while file.tell() < start + chunk.total_compressed_size:
            header = _struct(file)
            stored = header[_STORED_SIZE]
            if stored < 0:
                raise IndexError("a size below 0")
            yield header[_SIZE], stored
            file.seek(stored, os.SEEK_CUR)
    except (IndexError, KeyError, TypeError, RecursionError) as error:
        raise ValueError("a page's header is damaged") from error


def _struct(file: IO[bytes]) -> dict[int, Any]:
    """Return a struct's fields by number."""
    fields: dict[int, Any] = {}
    number = 0
    while (head := file.read(1)[0]) != 0:
        step = head >> 4
        number = number + step if step else _signed(file)
        fields[number] = _value(file, head & 15)
    return fields


def _value(file: IO[bytes], kind: int) -> Any:  # noqa: ANN401
    """Return an integer or a struct; step over anything else."""
    if kind in _INTEGERS:
        return _signed(file)
    if kind == _STRUCT:
        return _struct(file)
    if kind in _LISTS:
        head = file.read(1)[0]
        for _ in range(_number(file) if head >> 4 == 15 else head >> 4):
            _value(file, _BYTE if head & 15 in _BOOLS else head & 15)
    elif kind not in _BOOLS:  # whose value is in the kind
        file.seek({_BYTE: 1, _DOUBLE: 8}[kind] if kind != _BINARY else _number(file), os.SEEK_CUR)
    return None


def _number(file: IO[bytes]) -> int:
    value = 0
    for place in range(_LONGEST_NUMBER):
        byte = file.read(1)[0]
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value
    raise IndexError("no number ends here")


def _signed(file: IO[bytes]) -> int:
    value = _number(file)
    return value >> 1 ^ -(value & 1)


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
                try:
                    ids += stored_texts(batch["id"].to_pylist(), "id")
                    labels += stored_texts(batch["label"].to_pylist(), "label")
                except InvalidArgument as error:
                    raise FolderError(f"{self.path}: {error}") from error
                vectors.append(self._vectors(batch))
                if len(ids) >= ROWS:
                    yield ids, labels, np.concatenate(vectors)
                    ids, labels, vectors = [], [], []
        if ids:
            yield ids, labels, np.concatenate(vectors)

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
