"""Writing a file of a table anew with some rows blank, so that all others keep their places in it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Bool, Int

from retrieval.forgetting.stored_rows import BLANK, StoredRows, files_of

if TYPE_CHECKING:
    import pyarrow

_BLOCK: Final = 4_096  # rows that are held at a time: with thumbnails, some 50 MB


def write_blanked(rows: StoredRows, fragment: Any, numbers: Int[np.ndarray, " rows"]) -> Any:  # noqa: ANN401
    """Write a fragment's rows into one file, those of some numbers blank; return the fragment as it then is.

    Args:
        rows: the table's.
        fragment: Lance's.
        numbers: of rows that are dead.
    """
    import lance
    import pyarrow as pa

    blocks = pa.RecordBatchReader.from_batches(rows.dataset.schema, _blanked(rows, fragment, numbers))
    (written,) = lance.fragment.write_fragments(blocks, rows.dataset, max_rows_per_file=fragment.physical_rows)
    before = fragment.metadata
    return lance.fragment.FragmentMetadata(
        id=before.id,
        files=written.files,
        physical_rows=before.physical_rows,
        deletion_file=before.deletion_file,
        row_id_meta=before.row_id_meta,
    )


def _blanked(
    rows: StoredRows,
    fragment: Any,  # noqa: ANN401
    numbers: Int[np.ndarray, " rows"],
) -> Iterator["pyarrow.RecordBatch"]:
    import pyarrow as pa

    schema = rows.dataset.schema
    readers = filter(None, (rows.reader(file, tuple(schema.names)) for file in files_of(fragment)))
    first = 0
    for parts in zip(*(reader.read_all(batch_size=_BLOCK).to_batches() for reader in readers), strict=True):
        columns = {name: part[name] for part in parts for name in part.schema.names}
        length = len(parts[0])
        blank = np.zeros(length, bool)
        blank[numbers[(first <= numbers) & (numbers < first + length)] - first] = True
        first += length
        yield pa.record_batch([_without(columns.get(field.name), field, blank) for field in schema], schema=schema)


def _without(
    column: "pyarrow.Array | None", field: "pyarrow.Field", blank: Bool[np.ndarray, " rows"]
) -> "pyarrow.Array":
    """Return a column with nothing in some rows; one that the file lacks is null throughout."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if column is None:
        return pa.nulls(len(blank), field.type)
    if not blank.any():
        return column
    if field.name == "vector":
        matrix = column.flatten().to_numpy().reshape(len(blank), -1).copy()
        matrix[blank] = 0
        return pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), field.type.list_size)
    # Taken one by one: to put nulls over values leaves their bytes where they were, and Lance would write these.
    kept = column.take(pa.array(np.arange(len(blank)), mask=blank))
    return kept if field.nullable else pc.fill_null(kept, BLANK if field.name == "key" else "")
