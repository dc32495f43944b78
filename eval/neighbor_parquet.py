"""Neighbours as Parquet: one row a query, in columns of the reference release's names."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from eval.experiments.base import Neighborhoods
from eval.neighbor_json import RELIABILITIES, checked_distances, not_one
from eval.types import Names, QueryResults

if TYPE_CHECKING:
    import pyarrow as pa

_COLUMNS: Final = ("image_id", "image_class", "neighbor_image_ids", "neighbor_classes", "neighbor_distances")
_DICTIONARIES: Final = ["neighbor_image_ids.list.element", "neighbor_classes.list.element"]
_QUERIES_AT_A_TIME: Final = 10_000


def write_parquet(found: Neighborhoods, path: Path) -> None:
    """Write queries with their neighbours: 8 bytes a distance, ids and classes as numbers of a dictionary.

    Raises:
        OSError: the disk refuses.
        UnicodeError: a name is no text for Parquet.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    results = found.results
    columns = [
        pa.array(results.ids, pa.string()),
        pa.array([sorted(truth) for truth in results.truths], pa.list_(pa.string())),
        _named_lists(results.neighbor_ids),
        _named_lists(results.neighbor_labels),
        _lists(pa.array(results.neighbor_distances.astype(np.float64).ravel()), results.k),
    ]
    names = list(_COLUMNS)
    if results.reliabilities is not None:
        columns.append(_lists(pa.array(results.reliabilities.astype(np.float32).ravel()), results.k))
        names.append(RELIABILITIES)
    about = {"featurizer": found.embedder, "dataset": found.name}
    table = pa.table(columns, names=names).replace_schema_metadata(about)
    pq.write_table(table, path, row_group_size=_QUERIES_AT_A_TIME, compression="zstd")


def read_parquet(path: Path, *, name: str, embedder: str) -> Neighborhoods:
    """Return the queries of a file, in its order, queries without a right label included.

    Args:
        path: of the file.
        name: of the data set, where the file names none.
        embedder: likewise.

    Raises:
        NeighborFileError: it is none, or a damaged one.
        OSError: it cannot be opened.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        columns = [*_COLUMNS, *({RELIABILITIES} & set(pq.read_schema(path).names))]
        table = pq.read_table(path, columns=columns, read_dictionary=_DICTIONARIES, use_threads=False)
        about = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        results = _results({column: table[column].combine_chunks() for column in columns})
    except (pa.ArrowException, AttributeError, LookupError, TypeError, ValueError) as error:
        raise not_one(path, (str(error).splitlines() or ["not readable"])[0]) from error
    return Neighborhoods(about.get("dataset", name), about.get("featurizer", embedder), results)


def _results(columns: "dict[str, pa.ListArray]") -> QueryResults:
    queries = len(columns["image_id"])
    if not queries:
        raise ValueError("it holds no image")
    distances = _flat(columns["neighbor_distances"], queries).to_numpy(zero_copy_only=False)
    return QueryResults(
        ids=columns["image_id"].to_pylist(),
        truths=[frozenset(truth) for truth in columns["image_class"].to_pylist()],
        neighbor_ids=_names(columns["neighbor_image_ids"], queries),
        neighbor_labels=_names(columns["neighbor_classes"], queries),
        neighbor_distances=checked_distances(distances.astype(np.float64).reshape(queries, -1)),
        unreadable={},
        reliabilities=_reliabilities(columns, distances.size // queries),
    )


def _reliabilities(columns: "dict[str, pa.ListArray]", k: int) -> np.ndarray | None:
    if RELIABILITIES not in columns:
        return None
    values: np.ndarray = _flat(columns[RELIABILITIES], len(columns["image_id"])).to_numpy(zero_copy_only=False)
    return values.astype(np.float32).reshape(-1, k)


def _lists(values: "pa.Array", k: int) -> "pa.ListArray":
    import pyarrow as pa

    return pa.ListArray.from_arrays(pa.array(np.arange(0, len(values) + 1, k, dtype=np.int32)), values)


def _named_lists(names: Names) -> "pa.ListArray":
    import pyarrow as pa

    codes = pa.array(names.codes.astype(np.int32).ravel())
    return _lists(pa.DictionaryArray.from_arrays(codes, pa.array(names.names, pa.string())), names.codes.shape[1])


def _flat(lists: "pa.ListArray", queries: int) -> Any:  # noqa: ANN401
    values = lists.flatten()
    lengths = set(lists.value_lengths().to_pylist())
    if len(lengths) > 1 or not len(values) or values.null_count or len(values) % queries:
        raise ValueError("its lists of neighbours differ in length, or are empty")
    return values


def _names(lists: "pa.ListArray", queries: int) -> Names:
    encoded = _flat(lists, queries)
    if not hasattr(encoded, "indices"):
        encoded = encoded.dictionary_encode()
    codes = encoded.indices.to_numpy().reshape(queries, -1)
    return Names(codes, [str(name) for name in encoded.dictionary.to_pylist()])
