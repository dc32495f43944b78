"""The columns of a memory's table."""

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Float

from retrieval.disk import committing
from retrieval.settings import Settings
from retrieval.storage.locking import writer_lock
from retrieval.vectors import to_fixed_point

if TYPE_CHECKING:
    import pyarrow

SETTINGS_KEY: Final = b"visual-memory"
RELIABILITY: Final = "reliability"
"""What a pruning multiplies an item's votes by (section 3.6): a column of this name and the number of its version, so
that a new pruning takes the place of an old one by one commit. The newest counts; null is 1."""

_KEY_BITS: Final = 62


@dataclass(frozen=True, slots=True, eq=False)
class ItemBatch:
    """Items to be written together: columns in any form that `pyarrow.array` takes."""

    ids: Any  # text
    labels: Any  # text
    vectors: Float[np.ndarray, "items dimension"]
    thumbnails: Any  # bytes or None
    sources: Any  # text or None
    digests: Any  # of the pictures they were made of (`content_digest`), or None


def table_schema(settings: Settings) -> "pyarrow.Schema":
    """Return the schema of a new table."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("label", pa.string(), nullable=False),
            pa.field("vector", pa.list_(pa.int16(), settings.embedder.dimension), nullable=False),
            pa.field("thumbnail", pa.binary()),
            pa.field("source", pa.string()),
            # Tells items apart for ever: an index knows them by it, whatever becomes of rows, ids and versions.
            pa.field("key", pa.int64(), nullable=False),
            pa.field("digest", pa.string()),
        ],
        metadata={SETTINGS_KEY: settings.to_json().encode()},
    )


def to_arrow(batch: ItemBatch, schema: "pyarrow.Schema") -> "pyarrow.Table":
    """Return items as rows of a table with this schema, each under a new key."""
    import pyarrow as pa

    items = len(batch.ids)
    kind = schema.field("vector").type
    # Tables of before fixed point go on in float16.
    stored = to_fixed_point(batch.vectors) if kind.value_type == pa.int16() else batch.vectors.astype(np.float16)
    columns = {
        "id": pa.array(batch.ids, pa.string()),
        "label": pa.array(batch.labels, pa.string()),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(stored.ravel()), kind.list_size),
        "thumbnail": pa.array(batch.thumbnails, pa.binary()),
        "source": pa.array(batch.sources, pa.string()),
        "key": pa.array(new_keys(items)),
        "digest": pa.array(batch.digests, pa.string()),
    }
    columns |= {name: pa.nulls(items, pa.float32()) for name in schema.names if name.startswith(f"{RELIABILITY}_")}
    return pa.table([columns[name] for name in schema.names], schema=schema)


def new_keys(items: int) -> np.ndarray:
    """Return keys that no item ever had: a run of numbers from a random one.

    Runs of m commits with n items in all meet with a probability of m n / 2^62: 2e-4 for a million commits and a
    billion items.
    """
    return secrets.randbits(_KEY_BITS) + np.arange(items, dtype=np.int64)


def reliability_column(schema: "pyarrow.Schema") -> str | None:
    """Return the name of the column that the newest pruning wrote; None where nothing is pruned."""
    prefix = f"{RELIABILITY}_"
    versions = [int(name.removeprefix(prefix)) for name in schema.names if name.startswith(prefix)]
    return f"{prefix}{max(versions)}" if versions else None


def with_keys(path: Path, dataset: Any) -> Any:  # noqa: ANN401 - Lance is untyped
    """Return a memory's table as it is, or one of the first release, which had no keys, with those columns added.

    Raises:
        MemoryBusy, StorageError: another process is writing to it, or the disk refuses.
    """
    if "key" in dataset.schema.names:
        return dataset
    import lance
    import pyarrow as pa

    with writer_lock(path), committing(path):
        fresh = lance.dataset(dataset.uri)
        if "key" not in fresh.schema.names:  # another process may have been faster
            items = fresh.count_rows()
            columns = {"key": pa.array(new_keys(items)), "digest": pa.nulls(items, pa.string())}
            fresh.add_columns(pa.table(columns).to_reader())
        return fresh
