"""Pictures in the rows of tables: Parquet, Hugging Face data sets saved on disk, and lists of files.

Columns: ``image`` (encoded bytes, or Hugging Face's struct of bytes and path) or ``path`` (of a file, below the
table's own folder); ``label`` (one) or ``labels`` (several, any of which is right; in CSV and TSV a JSON list);
``id`` where the rows have names. Integer labels go by the class names that Hugging Face writes beside them.
"""

import csv
import os
import re
import reprlib
import threading
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Final, Protocol

from eval.datasets.trees import fingerprint, read_file
from eval.types import StoredPicture
from retrieval.errors import FolderError, ImageError, InvalidArgument
from retrieval.labels import composed, stored_text
from retrieval.parquet import MOST_PACKED, rows_at_a_time
from retrieval.sources import PATHS, as_it_lies, as_text, column_name, huggingface_names, is_left_behind, text_rows
from retrieval.support.parsing import parse_json

if TYPE_CHECKING:
    import pyarrow as pa


_DAMAGE: Final = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, MemoryError, csv.Error)
RowLabels = frozenset[str] | frozenset[int]


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Rows with a picture each, in the order they are stored."""

    root: Path
    ids: Sequence[str]
    labels: Sequence[RowLabels]  # of one type throughout; empty where no label is right
    class_names: Sequence[str] | None  # by integer label, where the table tells
    picture: Callable[[int], Path | StoredPicture]
    wnids: Sequence[Any] | None = None  # of a column that tells them beside the labels

    @property
    def numbered(self) -> bool:
        """Whether labels are integers."""
        return any(isinstance(label, int) for label in next(filter(None, self.labels), ()))


def row_labels(root: Path, values: list[Any], *, name_of: Callable[[int], str]) -> list[RowLabels]:
    """Return each row's labels as a set; equal sets are one object, since there are millions.

    Args:
        root: the table.
        values: a label or a list of labels for each row.
        name_of: what a row is called in an error, as in "row 7".

    Raises:
        FolderError: something is no label, or some are text and others numbers.
    """
    sets: dict[tuple[str | int, ...], RowLabels] = {}
    labels: list[RowLabels] = []
    for row, value in enumerate(values):
        items = tuple(value) if isinstance(value, list) else (value,)
        if wrong := next(filter(None, map(_wrong, items)), ""):
            raise FolderError(f"{name_of(row)} of {root} has {wrong}")
        if items not in sets:
            sets[items] = frozenset(composed(item) if isinstance(item, str) else item for item in items)
        labels.append(sets[items])
    kinds = {type(label) for allowed in sets.values() for label in allowed}
    if len(kinds) > 1:
        raise FolderError(f"{root} has labels that are text and others that are numbers: all of one kind expected")
    return labels


def row_ids(root: Path, values: list[Any], *, name_of: Callable[[int], str]) -> list[str]:
    """Return each row's id as it is kept.

    Raises:
        FolderError: something is neither text nor a whole number.
    """
    ids: list[str] = []
    for value in values:
        try:
            ids.append(stored_text(as_text(value) if isinstance(value, str) else value, "id"))
        except InvalidArgument as error:
            raise FolderError(f"{name_of(len(ids))} of {root}: {error}") from error
    return ids


def expect_unique(table: Table) -> None:
    """Raise FolderError where two rows have the same id."""
    twice = [name for name, times in Counter(table.ids).most_common(3) if times > 1]
    if twice:
        raise FolderError(
            f"{table.root} has rows with the same id ({', '.join(twice)}): give each its own in a column id"
        )


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Translate what a damaged table raises, as FolderError."""
    import pyarrow as pa

    try:
        yield
    except (*_DAMAGE, pa.ArrowException) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]  # Thrift ends its own with a line break
        raise FolderError(f"{path} cannot be read as a table of pictures: {reason}") from error


def _wrong(value: Any) -> str:  # noqa: ANN401 - whatever stands there
    """Return what is wrong with a label; nothing where it is one."""
    if value.strip() if isinstance(value, str) else type(value) is int and value >= 0:
        return ""
    if value == -1:
        return "the label -1, which test sets without labels have: give the training or the validation set"
    if value is None or (isinstance(value, str) and not value.strip()):
        return "no label: text or a number from 0 expected"
    return f"the label {as_text(reprlib.repr(value))}: text or a number from 0 expected"


LISTS: Final = (".csv", ".tsv", ".jsonl")
_PATHS: Final = (*PATHS, "image")
_LABELS: Final = ("labels", "label")


def read_list(path: Path) -> Table:
    """Return the rows of a list; an ``id`` left out is the path as it stands there.

    Raises:
        FolderError: it cannot be read, or lacks a column or a value.
    """
    with reading(path):
        try:
            rows = list(text_rows(path))
        except UnicodeDecodeError as error:
            raise FolderError(f"{path} is not written in UTF-8: save it in that encoding ({error.reason})") from error
    if not rows:
        raise FolderError(f"{path} has no rows: one for each picture expected")
    _expect_columns(path, rows[0][1])
    paths = [_path(path, line, row) for line, row in rows]
    own = [place if row.get("id") in (None, "") else row["id"] for place, (_, row) in zip(paths, rows, strict=True)]
    ids = row_ids(path, own, name_of=lambda row: f"line {rows[row][0]}")
    labels = row_labels(path, [_labels(path, *row) for row in rows], name_of=lambda row: f"line {rows[row][0]}")
    wnids = [row["wnid"] for _, row in rows] if all("wnid" in row for _, row in rows) else None
    return Table(path, ids, labels, None, lambda place: as_it_lies(path.parent, paths[place]), wnids)


def _expect_columns(path: Path, row: Mapping[str, Any]) -> None:
    if any(name in row for name in _PATHS) and any(name in row for name in _LABELS):
        return
    names = as_text(", ".join(row))
    raise FolderError(f"{path} has the columns {names}: path, label or labels, and maybe id expected")


def _path(path: Path, line: int, row: Mapping[str, Any]) -> str:
    value = next((row[name] for name in _PATHS if name in row), None)
    if not isinstance(value, str) or not value or "\0" in value:
        raise FolderError(f"line {line} of {path} names no picture: a path expected")
    return value


def _labels(path: Path, line: int, row: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """Return a row's label or list of labels; in CSV and TSV a list is written as JSON."""
    name = next((name for name in _LABELS if name in row), "")
    value = row.get(name)
    if name != "labels" or not isinstance(value, str):
        return value
    try:
        value = parse_json(value)
    except ValueError:
        value = None
    if not isinstance(value, list):
        raise FolderError(f'line {line} of {path} has labels that are no JSON list: ["cat", "dog"] or alike expected')
    return value


_ARROW_FILE: Final = b"ARROW1"  # begins one of Arrow's two formats; the other is a stream
_END_OF_STREAM: Final = b"\xff\xff\xff\xff\0\0\0\0"
_ROWS_AT_A_TIME: Final = 65_536  # of labels and names
_LONGEST_TEXT: Final = 2**16  # bytes of a label, an id or a path
_LARGEST_GROUP: Final = 2**31  # bytes that a row group's pictures may unpack to; more where the file has them too
_LARGEST_DICTIONARY: Final = 2**31 - 1  # bytes that Arrow can hold as one
_GROUPS_KEPT: Final = 4  # decoded row groups; threads that read in order are at one or two of them


class RowFile(Protocol):
    """One file of a table."""

    path: Path
    schema: "pa.Schema"

    def columns(self, names: Sequence[str]) -> "pa.Table":
        """Return whole columns; "image.path" is a field of a nested one."""
        ...

    def cell(self, column: str, row: int) -> Any:  # noqa: ANN401 - whatever the column holds
        """Return one cell as Python has it."""
        ...


class RowGroups:
    """The row groups read last, decoded: a table's files share them."""

    def __init__(self) -> None:
        self._recent: OrderedDict[tuple[Path, str, int], Future[pa.ChunkedArray]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, file: Path, column: str, group: int, decode: "Callable[[], pa.ChunkedArray]") -> "pa.ChunkedArray":
        """Return a column of a row group; of several threads that want it one decodes, the others wait."""
        key = (file, column, group)
        mine: Future[pa.ChunkedArray] = Future()
        with self._lock:
            wanted = self._recent.setdefault(key, mine)
            self._recent.move_to_end(key)
            if len(self._recent) > _GROUPS_KEPT:
                self._recent.popitem(last=False)
        if wanted is mine:
            try:
                mine.set_result(decode())
            except BaseException as trouble:  # what cannot be decoded stays so: each try takes as long as the first
                mine.set_exception(trouble)
        return wanted.result()


class ParquetRows:
    """A Parquet file, of which a row group is the least that can be read."""

    def __init__(self, path: Path, groups: RowGroups) -> None:
        import pyarrow.parquet as pq

        self.path = path
        self._groups = groups
        with pq.ParquetFile(path) as opened:
            self._metadata = opened.metadata
            self.schema = opened.schema_arrow
        sizes = (self._metadata.row_group(group).num_rows for group in range(self._metadata.num_row_groups))
        self._starts = [0, *accumulate(sizes)]

    def columns(self, names: Sequence[str]) -> "pa.Table":
        """See `RowFile`."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        tops = list(dict.fromkeys(name.partition(".")[0] for name in names))
        blocks: list[pa.RecordBatch] = []
        with pq.ParquetFile(self.path, metadata=self._metadata) as opened:
            for group in range(self._metadata.num_row_groups):
                rows = rows_at_a_time(self.path, self._metadata.row_group(group), tops, most=_ROWS_AT_A_TIME)
                for block in opened.iter_batches(rows, row_groups=[group], columns=list(names), use_threads=False):
                    _expect_short(block)
                    blocks.append(block)
            held = pa.Table.from_batches(blocks) if blocks else opened.read(columns=list(names))
        return _flat(held, names)

    def cell(self, column: str, row: int) -> Any:  # noqa: ANN401
        """See `RowFile`."""
        group = bisect_right(self._starts, row) - 1
        decoded = self._groups.get(self.path, column, group, lambda: self._decode(column, group))
        return decoded[row - self._starts[group]].as_py()

    def _decode(self, column: str, group: int) -> "pa.ChunkedArray":
        import pyarrow.parquet as pq

        about = self._metadata.row_group(group)
        rows_at_a_time(self.path, about, [column], most=1)
        chunks = [about.column(place) for place in range(about.num_columns)]
        held = [chunk for chunk in chunks if chunk.path_in_schema.partition(".")[0] == column]
        size, stored = (sum(getattr(c, f"total_{kind}_size") for c in held) for kind in ("uncompressed", "compressed"))
        if size > max(_LARGEST_GROUP, MOST_PACKED * stored):
            raise ValueError(f"row group {group} unpacks to {size:,} bytes: write it with fewer rows in a group")
        # A dictionary's values stay one, however often a row repeats them. Of what has none Arrow makes none.
        repeated = [chunk.path_in_schema for chunk in held if _has_dictionary(chunk)]
        # Opened anew, since one open file is not for several threads; the footer is there already.
        with pq.ParquetFile(self.path, metadata=self._metadata, read_dictionary=repeated) as opened:
            return opened.read_row_group(group, columns=[column], use_threads=False).column(0)


class ArrowRows:
    """An Arrow file, as Hugging Face's ``save_to_disk`` writes it: mapped into memory, read without decoding."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        self.path = path
        mapped = pa.memory_map(str(path))
        if mapped.read(len(_ARROW_FILE)) == _ARROW_FILE:
            self._table = pa.ipc.open_file(mapped).read_all()
        else:
            mapped.seek(0)
            self._table = pa.ipc.open_stream(mapped).read_all()
            _expect_end(mapped)
        self._table.validate(full=True)  # else a damaged one ends the whole program when a cell is read
        self.schema = self._table.schema

    def columns(self, names: Sequence[str]) -> "pa.Table":
        """See `RowFile`."""
        return _flat(self._table.select(list({name.partition(".")[0]: None for name in names})), names)

    def cell(self, column: str, row: int) -> Any:  # noqa: ANN401
        """See `RowFile`."""
        return self._table.column(column)[row].as_py()


def _has_dictionary(chunk: Any) -> bool:  # noqa: ANN401 - pyarrow is untyped
    return (
        chunk.physical_type == "BYTE_ARRAY"
        and any(encoding.endswith("_DICTIONARY") for encoding in chunk.encodings)
        and not any(encoding.startswith("DELTA_") for encoding in chunk.encodings)
        and int(chunk.total_uncompressed_size) <= _LARGEST_DICTIONARY
    )


def _expect_short(block: "pa.RecordBatch") -> None:
    """Raise ArrowInvalid for a text that is no label, no id and no path, before there are a million of it."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for column in pa.Table.from_batches([block]).flatten().columns:
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            longest = pc.max(pc.binary_length(column)).as_py() or 0
            if longest > _LONGEST_TEXT:
                raise pa.ArrowInvalid(f"it holds a text of {longest:,} bytes: a label, an id or a path expected")


def _expect_end(stream: "pa.MemoryMappedFile") -> None:
    """Raise ArrowInvalid unless a stream that was read ends with its file, as its writer ended it."""
    import pyarrow as pa

    place = stream.tell()
    stream.seek(max(0, place - len(_END_OF_STREAM)))
    if place != stream.size() or stream.read() != _END_OF_STREAM:
        raise pa.ArrowInvalid(f"it breaks off or is damaged at byte {place:,}")


def _flat(table: "pa.Table", names: Sequence[str]) -> "pa.Table":
    if not set(names).issubset(table.column_names):
        table = table.flatten()
    return table.select(list(names))


_IMAGES: Final = ("image", "img", "picture")
_PLACES: Final = (("",), ("data/",), ("default/*/",), ("train/", "validation/", "valid/", "val/", "test/"))
_SPLIT: Final = re.compile(r"(?:^|[/_.-])(train|training|validation|valid|val|test)(?=[/_.\-\d])", re.IGNORECASE)


@dataclass(frozen=True, slots=True, eq=False)
class _Cell:
    """A picture in a row."""

    file: RowFile
    mark: str
    column: str
    row: int

    @property
    def fingerprint(self) -> str:
        return f"{self.mark}:{self.row}"

    def read(self) -> bytes:
        import pyarrow as pa

        try:
            found = self.file.cell(self.column, self.row)
        except (pa.ArrowException, OSError, LookupError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ImageError(f"row {self.row} of {self.file.path} cannot be read: {reason}") from error
        if isinstance(found, dict):
            found = found["bytes"] or (found.get("path") and self._beside(str(found["path"])))
        if not isinstance(found, bytes):
            raise ImageError(f"row {self.row} of {self.file.path} holds no picture: encoded bytes expected")
        return found

    def _beside(self, path: str) -> bytes:
        """Return the bytes of a file below the table's folder; a table from elsewhere must not name any other."""
        if os.path.isabs(path) or ".." in PurePath(path).parts:
            raise ImageError(
                f"row {self.row} of {self.file.path} names a picture outside its folder ({as_text(path)}): a path below"
                " it expected"
            )
        return read_file(as_it_lies(self.file.path.parent, path))


def find_table(path: Path, *, split: Sequence[str] = ()) -> Table | None:
    """Return the table at a path, or None where there is none.

    Args:
        path: a Parquet, Arrow, CSV, TSV or JSONL file, or a folder of Parquet or Arrow files.
        split: which of several splits to take, by any of these names.

    Raises:
        FolderError: it cannot be read, lacks a column, or holds several splits none of which is named.
    """
    if os.path.isfile(path) and path.suffix.lower() in LISTS:
        return read_list(path)
    if not os.path.isdir(path) and not os.path.isfile(path):  # a pipe, which would be waited for
        return None
    if os.path.isfile(path):
        return _open_files(path, [path]) if path.suffix.lower() in (".parquet", ".arrow") else None
    for suffix in ("parquet", "arrow"):
        files = _files_of_split(path, _table_files(path, suffix), split)
        if files:
            return _open_files(path, files)
    return None


def _table_files(path: Path, suffix: str) -> list[Path]:
    """Return a folder's Parquet or Arrow files, where Hugging Face puts them; folders of pictures are not searched."""
    for places in _PLACES:
        there = (file for place in places for file in path.glob(f"{place}*.{suffix}") if os.path.isfile(file))
        found = sorted(file for file in there if not is_left_behind(file.relative_to(path).as_posix()))
        saved = {folder: _saved_files(folder) for folder in {file.parent for file in found}}
        # Hugging Face keeps intermediate results beside the table.
        listed = [(file, saved[file.parent]) for file in found]
        files = [
            file for file, names in listed if (file.name in names if names else not file.name.startswith("cache-"))
        ]
        if files:
            return files
    return []


def _saved_files(folder: Path) -> list[str] | None:
    """Return the names of the files that ``save_to_disk`` wrote into a folder, by its own list; None without one.

    Raises:
        FolderError: the list is damaged, or one of them is missing.
    """
    listing = folder / "state.json"
    if not os.path.isfile(listing):
        return None
    with reading(listing):
        rows = parse_json(listing.read_bytes()).get("_data_files")
        names = [str(row["filename"]) for row in rows] if rows else None
    for name in names or ():
        if not os.path.isfile(folder / name):
            raise FolderError(f"{folder} lacks the file {as_text(name)}, which its state.json lists: copy it again")
    return names


def _files_of_split(path: Path, files: list[Path], split: Sequence[str]) -> list[Path]:
    by_split: dict[str, list[Path]] = {}
    for file in files:
        named = _SPLIT.findall(file.relative_to(path).as_posix())
        by_split.setdefault(named[-1].lower() if named else "", []).append(file)
    if len(by_split) <= 1:
        return files
    found = [by_split[name] for name in split if name in by_split]
    if not found:
        names = ", ".join(sorted(filter(None, by_split)))
        raise FolderError(f"{path} holds several splits ({names}): put the files of one into a folder, and give that")
    return found[0]


def _open_files(root: Path, paths: list[Path]) -> Table:
    groups = RowGroups()
    with reading(root):
        files: list[RowFile] = [ArrowRows(p) if p.suffix == ".arrow" else ParquetRows(p, groups) for p in paths]
        schema = files[0].schema
        label = _expect_column(root, schema, _column(schema, ("labels", "label")), "one called label or labels")
        pictures = (_column(schema, (name,)) for name in _IMAGES)
        found = next((name for name in pictures if name and _holds_pictures(schema, name)), None)
        wanted_image = "one called image with encoded pictures, or one called path,"
        image = _expect_column(root, schema, found or _column(schema, PATHS), wanted_image)
        is_path = column_name(image) in PATHS
        file_name = f"{image}.path" if _has_field(schema, image, "path") else image if is_path else None
        own, wnid = _column(schema, ("id",)), _column(schema, ("wnid",))
        wanted = list(dict.fromkeys(name for name in (label, own, wnid, file_name) if name))
        columns = [file.columns(wanted) for file in files]
        class_names = huggingface_names(schema, label)
        values = {name: [value for held in columns for value in held.column(name).to_pylist()] for name in wanted}
    rows = [(file, row) for file, held in zip(files, columns, strict=True) for row in range(held.num_rows)]
    ids = _ids(root, rows, values.get(own or ""), values.get(file_name or ""))
    if is_path:
        _expect_paths(root, values[image])
        beside = [as_it_lies(file.path.parent, str(name)) for (file, _), name in zip(rows, values[image], strict=True)]
        picture: Callable[[int], Path | StoredPicture] = beside.__getitem__
    else:
        marks = {path: fingerprint(path) for path in paths}

        def picture(place: int) -> StoredPicture:
            file, row = rows[place]
            return _Cell(file, marks[file.path], image, row)

    labels = row_labels(root, values[label], name_of=lambda row: f"row {row}")
    return Table(root, ids, labels, class_names, picture, values.get(wnid or ""))


def _expect_paths(root: Path, values: list[Any]) -> None:
    missing = next((row for row, value in enumerate(values) if not isinstance(value, str) or not value), None)
    if missing is not None:
        raise FolderError(f"row {missing} of {root} names no picture: a path expected")


def _column(schema: "pa.Schema", wanted: Sequence[str]) -> str | None:
    """Return the first of some columns that there is, as the table spells it."""
    spelt = {column_name(name): name for name in reversed(schema.names)}
    return next((spelt[name] for name in wanted if name in spelt), None)


def _expect_column(root: Path, schema: "pa.Schema", name: str | None, wanted: str) -> str:
    if name is None:
        raise FolderError(f"{root} has the columns {', '.join(schema.names)}: {wanted} expected")
    return name


def _holds_pictures(schema: "pa.Schema", name: str) -> bool:
    import pyarrow as pa

    kind = schema.field(name).type
    return _has_field(schema, name, "bytes") or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _has_field(schema: "pa.Schema", column: str, field: str) -> bool:
    import pyarrow as pa

    kind = schema.field(column).type
    return bool(pa.types.is_struct(kind)) and kind.get_field_index(field) >= 0


def _ids(root: Path, rows: list[tuple[RowFile, int]], own: list[Any] | None, names: list[Any] | None) -> list[str]:
    """Return the rows' own ids, or else their pictures' file names where no two are the same, or else their places."""
    if own is not None:
        return row_ids(root, own, name_of=lambda row: f"row {row}")
    if names is not None and None not in names and len(set(names)) == len(names):
        return [as_text(str(value)) for value in names]
    folder = root if root.is_dir() else root.parent
    return [f"{file.path.relative_to(folder).as_posix()}:{row}" for file, row in rows]
