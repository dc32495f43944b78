"""Files of neighbours: the reference release's JSON, and the same as Parquet, read and written.

The release names its files ``memory-<set>_msplit-<split>_query-<set>_qsplit-<split>_<model>_<size>_neighbor_info.json``
with ``full`` or ``subsampled_N`` for the size.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import numpy as np

from eval.types import Names, NeighborColumns, NeighborFileError, Neighborhoods, QueryResults
from retrieval.labels import imagenet_by_wnid
from retrieval.storage.places import writing

if TYPE_CHECKING:
    import pyarrow as pa


_KEYS: Final = ("neighbor_image_ids", "neighbor_classes", "neighbor_distances")
RELIABILITIES: Final = "neighbor_reliabilities"  # beside those of the release, of a pruned memory alone
_CHARACTERS_AT_A_TIME: Final = 2**22
_LONGEST_MEMBER: Final = 2**24  # characters: a thousand times what 100 neighbours take
_ROUNDING: Final = 1e-5  # of cosines of float32 vectors that were sorted before they were rounded
_DECODER: Final = json.JSONDecoder()


def read_json(path: Path, *, name: str, embedder: str) -> Neighborhoods:
    """Return the queries of a file, in its order, queries without a right label included.

    Args:
        path: of the file.
        name: of the data set.
        embedder: where the file names none.

    Raises:
        NeighborFileError: it is none, or a damaged one.
        OSError: it cannot be opened.
    """
    columns = _Columns()
    with path.open(encoding="utf-8") as file:
        query = ""
        try:
            for query, entry in _members(file):
                columns.add(query, entry)
            return Neighborhoods(name, columns.featurizer or embedder, columns.results())
        except RecursionError as error:
            raise not_one(path, "it nests too deep") from error
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise not_one(path, f"{_why(error)} (image {query!r})" if query else _why(error)) from error


def not_one(path: Path, why: str) -> NeighborFileError:
    """Return the error of a file that is no usable file of neighbours."""
    return NeighborFileError(f"{path} is no usable file of neighbours: {why}")


def _why(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return str(error)


def _members(file: IO[str]) -> Iterator[tuple[str, object]]:
    """Yield an object's members, holding a few million characters of it at a time."""
    text = file.read(_CHARACTERS_AT_A_TIME).lstrip()
    if not text.startswith("{"):
        raise ValueError("a JSON object keyed by image id expected")
    place = 1
    while True:
        try:
            query, entry, place, last = _member(text, place)
        except (ValueError, IndexError) as error:
            more = file.read(_CHARACTERS_AT_A_TIME) if len(text) - place < _LONGEST_MEMBER else ""
            if not more:
                raise ValueError("it is no JSON, holds no image, or breaks off") from error
            text, place = text[place:] + more, 0
            continue
        yield query, entry
        if last:
            return


def _member(text: str, place: int) -> tuple[str, object, int, bool]:
    """Return key, value, where the next member begins, and whether there is none.

    Raises:
        ValueError, IndexError: the text breaks off, or is no JSON.
    """
    key, place = _DECODER.raw_decode(text, _after_space(text, place))
    place = _after_space(text, place)
    if text[place] != ":":
        raise ValueError("no colon")
    value, place = _DECODER.raw_decode(text, _after_space(text, place + 1))
    place = _after_space(text, place)
    if text[place] not in ",}":
        raise ValueError("no comma")
    return str(key), value, place + 1, text[place] == "}"


def _after_space(text: str, place: int) -> int:
    while text[place] in " \t\r\n":
        place += 1
    return place


class _Columns:
    """The queries gathered member by member."""

    def __init__(self) -> None:
        self.featurizer = ""
        self._ids: list[str] = []
        self._truths: list[frozenset[str]] = []
        self._neighbors = NeighborColumns("d")

    def add(self, query: str, entry: object) -> None:
        """Add a member.

        Raises:
            LookupError, TypeError, ValueError, OverflowError: it is not what it should be.
        """
        if not isinstance(entry, dict):
            raise ValueError("an object expected")
        ids, classes, distances = (_expect_list(entry, key) for key in _KEYS)
        reliabilities = _expect_list(entry, RELIABILITIES) if RELIABILITIES in entry else None
        lengths = {len(some) for some in (ids, classes, distances, reliabilities) if some is not None}
        if len(lengths) > 1 or 0 in lengths:
            raise ValueError("its lists of neighbours differ in length, or are empty")
        truth = entry["image_class"]
        self._truths.append(frozenset(_as_texts(truth if isinstance(truth, list) else [truth])))
        self._neighbors.add(_as_texts(ids), _as_texts(classes), distances, reliabilities)
        self._ids.append(query)
        self.featurizer = self.featurizer or str(entry.get("featurizer", ""))

    def results(self) -> QueryResults:
        """Return what has been added: as many neighbours of each query, which may have one more than others.

        Raises:
            ValueError: the queries do not go together.
        """
        if len(set(self._ids)) < len(self._ids):
            raise ValueError("an image stands in it twice")
        shortest, longest = min(self._neighbors.lengths), max(self._neighbors.lengths)
        if longest > shortest + 1:  # a query may have itself taken out or not
            raise ValueError(f"some images have {shortest} neighbours and others {longest}")
        found = QueryResults(ids=self._ids, truths=self._truths, **self._neighbors.tables(), unreadable={})
        checked_distances(found.neighbor_distances)
        return found


def _expect_list(entry: Mapping[str, Any], key: str) -> list[Any]:
    found: list[Any] = entry[key]
    if not isinstance(found, list):
        raise ValueError(f"{key} is no list")
    return found


def _as_texts(values: list[Any]) -> Iterable[str]:
    if not set(map(type, values)) <= {str, int}:
        raise ValueError("an id or a class is neither a text nor a whole number")
    return map(str, values)


def checked_distances(distances: np.ndarray) -> np.ndarray:
    """Return distances as they came.

    Raises:
        ValueError: they are not finite, or not ascending.
    """
    if not np.isfinite(distances).all():
        raise ValueError("a distance is no finite number")
    if (np.diff(distances, axis=1) < -_ROUNDING).any():
        raise ValueError("its distances are not ascending: 1 - cosine, nearest first, expected")
    return distances


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
    factors = None
    if RELIABILITIES in columns:
        factors = _flat(columns[RELIABILITIES], queries).to_numpy(zero_copy_only=False)
    return QueryResults(
        ids=columns["image_id"].to_pylist(),
        truths=[frozenset(truth) for truth in columns["image_class"].to_pylist()],
        neighbor_ids=_names(columns["neighbor_image_ids"], queries),
        neighbor_labels=_names(columns["neighbor_classes"], queries),
        neighbor_distances=checked_distances(distances.astype(np.float64).reshape(queries, -1)),
        unreadable={},
        reliabilities=None if factors is None else factors.astype(np.float32).reshape(queries, -1),
    )


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


_FILE_NAME: Final = re.compile(
    r"memory-.+_msplit-.+_query-(?P<dataset>.+)_qsplit-(?P<split>[^_]+)_(?P<model>.+)_(full|subsampled_\d+)"
    r"_neighbor_info"
)
_PARQUET: Final = ".parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What the name of a file of neighbours tells."""

    memory: str
    memory_split: str = "train"
    queries: str
    query_split: str = "validation"
    model: str
    size: str = "full"  # or "subsampled_N"

    @property
    def file_name(self) -> str:
        """The release's name for such a file; what a name may not hold, and underscores of splits, become hyphens."""
        memory, queries, model = (_plain(part) for part in (self.memory, self.queries, self.model))
        memory_split, query_split = (_plain(part).replace("_", "-") for part in (self.memory_split, self.query_split))
        named = f"memory-{memory}_msplit-{memory_split}_query-{queries}_qsplit-{query_split}_{model}"
        return f"{named}_{self.size}_neighbor_info.json"


def _plain(part: str) -> str:
    return re.sub(r"[^\w.-]+", "-", part, flags=re.ASCII)


def read_neighbors(path: Path, *, keep_excluded: bool = False) -> Neighborhoods:
    """Return the queries of a file of neighbours, JSON or, by its ending, Parquet; classes are labels, as text.

    Args:
        path: of the file.
        keep_excluded: keep queries for which no label is right (ReaL's empty lists), as for writing them again.

    Raises:
        NeighborFileError: it is none, a damaged one, or one without a query that can be scored.
    """
    known = _FILE_NAME.fullmatch(path.stem)
    name = f"{known['dataset']}-{known['split']}" if known else path.stem
    read = read_parquet if path.suffix == _PARQUET else read_json
    try:
        found = read(path, name=name, embedder=known["model"] if known else "")
    except OSError as error:
        raise not_one(path, error.strerror or str(error)) from error
    scored = [query for query, truth in enumerate(found.results.truths) if truth]
    if keep_excluded or len(scored) == len(found.results):
        return found
    if not scored:
        raise not_one(path, "no image has a right label")
    return replace(found, results=found.results.of_queries(scored))


def write_neighbors(found: Neighborhoods, path: Path) -> Path | None:
    """Write queries with their neighbours: as Parquet if the file ends so, else as the reference release's JSON.

    JSON has classes as numbers: labels that are whole numbers stay, wnids of ImageNet-1k become its index, and any
    others are numbered in order from 1, with the numbers written beside it: for the release's notebook 0 is no class.

    Returns:
        The file ``<name>_classes.json`` that tells the numbers of labels; None where none is needed.

    Raises:
        StorageError: the disk refuses.
    """
    fresh = path.with_name(path.name + ".part")  # no half of a file is left under the name
    numbers, mapped = ({}, False) if path.suffix == _PARQUET else number_labels(found.results)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            if path.suffix == _PARQUET:
                write_parquet(found, fresh)
            else:
                with fresh.open("w", encoding="ascii") as file:
                    file.writelines(_json_lines(found, numbers))
            fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)
    if not mapped:
        return None
    listing = path.with_name(f"{path.stem}_classes.json")
    with writing(listing):
        listing.write_text(json.dumps({number: label for label, number in numbers.items()}, indent=1), "ascii")
    return listing


def number_labels(results: QueryResults) -> tuple[dict[str, int], bool]:
    """Return the number of every label that is right or a neighbour's, and whether the numbers are our own."""
    labels = sorted(set(results.neighbor_labels.names).union(*results.truths))
    if all(re.fullmatch(r"0|[1-9][0-9]{0,17}", label) for label in labels):
        return {label: int(label) for label in labels}, False
    if all(label in imagenet_by_wnid() for label in labels):
        return {label: imagenet_by_wnid()[label].index for label in labels}, False
    return {label: number for number, label in enumerate(labels, start=1)}, True


def _json_lines(found: Neighborhoods, numbers: Mapping[str, int]) -> Iterator[str]:
    results = found.results
    listed = any(len(truth) != 1 for truth in results.truths)  # ReaL's several labels, or none
    class_of = [numbers[label] for label in results.neighbor_labels.names]
    yield "{"
    for query, (name, truth) in enumerate(zip(results.ids, results.truths, strict=True)):
        classes = sorted(numbers[label] for label in truth)
        entry: dict[str, Any] = {
            "featurizer": found.embedder,
            "image_id": name,
            "image_class": classes if listed else classes[0],
            "neighbor_image_ids": results.neighbor_ids.of(query),
            "neighbor_classes": [class_of[code] for code in results.neighbor_labels.codes[query].tolist()],
            "neighbor_distances": results.neighbor_distances[query].tolist(),
        }
        if results.reliabilities is not None:
            entry[RELIABILITIES] = results.reliabilities[query].tolist()
        yield f"{',' if query else ''}\n{json.dumps(name)}: {json.dumps(entry)}"
    yield "\n}\n"
