"""Where labelled pictures come from: folders laid out as ``<label>/<image>``, and lists in CSV, JSONL and Parquet."""

import base64
import codecs
import csv
import errno
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from retrieval.errors import FolderError, InvalidArgument
from retrieval.images import ImageLike
from retrieval.labels import composed, spellings, stored_text
from retrieval.parquet import rows_at_a_time
from retrieval.support.parsing import parse_json
from retrieval.support.terminal import track

if TYPE_CHECKING:
    import pyarrow


_LEFT_BEHIND: Final = frozenset(
    {  # in lower case; whatever begins with a dot is passed over besides: .DS_Store, ._x, .thumbnails, .@__thumb
        *("__macosx", "icon\r", "network trash folder", "temporary items"),  # github/gitignore: Global/macOS
        *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini"),  # Global/Windows, as the next three
        *("$recycle.bin", "system volume information", "pagefile.sys"),
        *("@eadir", "@tmp", "@synoresource", "#recycle", "#snapshot"),  # Synology's servers
        *("@recycle", "@recently-snapshot"),  # QNAP's
        "lost+found",  # e2fsck
    }
)
"""What systems leave beside pictures, thumbnails among it: neither a class nor a picture."""


def is_left_behind(path: str) -> bool:
    """Tell whether a part of a path below somebody's folder is hidden, or left there by a system."""
    return any(part.startswith(".") or part.lower() in _LEFT_BEHIND for part in path.split("/"))


@dataclass(frozen=True, slots=True)
class Item:
    """A labelled picture to remember."""

    id: str
    label: str
    image: ImageLike
    source: str | None = None  # where it came from, kept for people


def as_item(parts: tuple[str, str, ImageLike]) -> Item:
    """Return (id, label, picture) as an item.

    Raises:
        InvalidArgument: something else.
    """
    if not isinstance(parts, tuple | list) or len(parts) != 3:
        raise InvalidArgument(f"got {type(parts).__name__} as an item: Item or (id, label, picture) expected")
    return Item(*parts)


@dataclass(frozen=True, slots=True)
class LabelledFile:
    """A file in a labelled folder; whether it is a picture shows when it is decoded."""

    id: str  # path below the folder, with slashes: "dog/001.jpg"
    label: str  # name of the folder's subfolder: "dog"
    path: Path

    @property
    def source(self) -> str:
        """The path as text, to be kept for people."""
        return as_text(self.path)


def list_labelled_files(folder: str | Path) -> list[LabelledFile]:
    """Return every file below ``folder/<label>/``, at any depth, in a fixed order; see `is_left_behind` for the others.

    Raises:
        FolderError: no such folder, none with labelled files in it, or two files whose names look the same.
    """
    root = Path(folder)
    if not os.path.isdir(root):
        what = "not a folder" if os.path.exists(root) else "not there"
        raise FolderError(f"{root} is {what}: a folder laid out as <label>/<image> expected")
    try:
        files = [
            LabelledFile(as_text(path.relative_to(root).as_posix()), as_text(label.name), path)
            for label in sorted(_visible(root))
            if label.is_dir()
            for path in files_below(label, above=root, stop=True)
        ]
        inside = "only files, no label folders" if any(_visible(root)) else "nothing"
        if any(entry.is_dir() for entry in _visible(root)):
            inside = "only empty label folders"
    except OSError as error:
        raise FolderError(f"{error.filename} cannot be read: {error.strerror}; make it readable") from error
    if not files:
        raise FolderError(f"{root} holds {inside}: <label>/<image> expected, one subfolder for each label")
    expect_distinct([file.id for file in files], root)
    return files


def expect_distinct(ids: Sequence[str], root: Path) -> None:
    """Raise FolderError where two files have the same id, since Unicode has two forms of some letters."""
    if len(set(ids)) < len(ids):
        twice = Counter(ids).most_common(1)[0][0]
        raise FolderError(f"{root} holds two files called {twice}, whose letters are spelt differently: rename one")


def files_below(folder: str | Path, *, above: str | Path | None = None, stop: bool = False) -> Iterator[Path]:
    """Yield every file below a folder as it is found, in a fixed order; see `is_left_behind` for the others.

    Args:
        folder: where to look.
        above: a folder that a link below is not to lead back to.
        stop: whether to raise OSError for a folder that cannot be read; otherwise it is yielded itself, at the end, as
            is in any case one whose path is longer than the system takes.
    """
    unreadable: list[OSError] = []

    def note(error: OSError) -> None:
        if stop and error.errno != errno.ENAMETOOLONG:
            raise error  # a folder left out in silence is a class forgotten
        unreadable.append(error)

    entered = {os.path.realpath(above)} if above else set()  # links are followed, but never in a circle
    for here, subfolders, names in os.walk(folder, onerror=note, followlinks=True):
        if os.path.realpath(here) in entered:
            subfolders.clear()
            continue
        entered.add(os.path.realpath(here))
        subfolders[:] = sorted(name for name in subfolders if not is_left_behind(name))
        yield from (Path(here, name) for name in sorted(names) if not is_left_behind(name))
    yield from (Path(error.filename) for error in unreadable)


def _visible(folder: Path) -> Iterator[Path]:
    return (entry for entry in folder.iterdir() if not is_left_behind(entry.name))


def expect_outside(path: str | Path, folder: str | Path) -> None:
    """Raise FolderError where something is to be written inside the pictures, which would count it as pictures."""
    if Path(path).resolve().is_relative_to(Path(folder).resolve()):
        raise FolderError(f"{path} lies inside {folder}, and its files would be taken for pictures: put it elsewhere")


def as_text(name: str | Path) -> str:
    """Return a file name as text that any store takes: composed, and bytes that are no UTF-8 become escapes."""
    try:
        return composed(os.fsencode(name).decode("utf-8", "backslashreplace"))
    except UnicodeEncodeError:  # halves of characters, which JSON may hold and no file name does
        return composed(str(name).encode("utf-8", "backslashreplace").decode())


def as_it_lies(folder: Path, file: str) -> Path:
    """Return where a file lies that a list names: one written on Windows and a Mac's copy spell an é differently."""
    there = (folder / spelt for spelt in spellings(file) if os.path.exists(folder / spelt))
    return folder / file if file.isascii() else next(there, folder / file)


Row = tuple[int, Mapping[str, Any]]  # its number from 1, of the line in a text, and its cells by column
PATHS: Final = ("path", "file_path", "filepath", "file", "file_name", "filename", "image_path")
"""Columns that name a picture's file, each by what `column_name` makes of it."""

_NAMES: Final = ("id", "label", "source")
_IMAGE: Final = "image"  # a path, bytes, or Hugging Face's struct of both
_BYTES: Final = "bytes"
_PARQUET: Final = ".parquet"
_ROWS_AT_A_TIME: Final = 256  # of Parquet: pictures of some 100 kB take 25 MB
_READ_AHEAD: Final = 2**20  # bytes
_LONGEST_LINE: Final = 2**25  # characters: a picture of 24 MB in base64; JSON may take forty times as much when read
_SEPARATORS: Final = ",;\t|"  # Excel writes semicolons where commas mark decimals
_UNREADABLE: Final = (OSError, csv.Error, ValueError, TypeError, NotImplementedError, RecursionError)  # Arrow's, too


@dataclass(frozen=True, slots=True)
class Manifest:
    """A list of labelled pictures; each iteration reads it anew."""

    path: Path
    rows: int

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[Item]:
        for number, row in _rows(self.path):
            yield _item(row, self.path, number)


def is_manifest(path: str | Path) -> bool:
    """Tell whether a file is a manifest: by its ending, and for Parquet by lacking the column ``vector`` of features.

    Raises:
        FolderError: a Parquet file that cannot be read.
    """
    import pyarrow.parquet as pq

    place = Path(path)
    if place.suffix.lower() != _PARQUET:
        return place.suffix.lower() in _READERS
    try:
        return "vector" not in pq.read_schema(place).names
    except _UNREADABLE as error:
        raise FolderError(f"{place} cannot be read as Parquet: {_reason(error)}") from error


def read_manifest(path: str | Path, *, progress: bool = True) -> Manifest:
    """Return a manifest after a look at every row, so that a mistake in the last one is told before any is embedded.

    Of Parquet only ids and labels are looked at.

    Raises:
        FolderError: no such file, another ending, a column that is missing, or a row that cannot be used, with its
            number. Iterating raises it for a file that has changed since.
    """
    place = Path(path)
    if place.suffix.lower() not in _READERS:
        raise FolderError(f"{place} is no manifest by its name: one that ends with {', '.join(_READERS)} expected")
    if not place.is_file():
        raise FolderError(f"{place} is not there, or no file: a manifest expected")
    columns, check = (_NAMES, _label) if place.suffix.lower() == _PARQUET else (None, _item)
    count = 0
    for number, row in track(_rows(place, columns), "Checking the manifest", unit=" rows", shown=progress):
        check(row, place, number)
        count += 1
    return Manifest(place, count)


def _item(row: Mapping[str, Any], path: Path, number: int) -> Item:
    picture = row.get(_IMAGE)
    struct = picture if isinstance(picture, dict) else {}
    names = (struct.get("path"), *(row.get(column) for column in PATHS), picture)
    file = next((name for name in names if isinstance(name, str) and name), "")  # as it is spelt on disk
    encoded = (picture if isinstance(picture, bytes) else struct.get("bytes")) or row.get(_BYTES)
    if isinstance(encoded, str) and encoded:
        try:
            encoded = base64.b64decode(encoded, validate=True)
        except ValueError as error:
            raise bad_row(path, number, f"holds bytes that are no base64 ({error})") from error
    if not encoded and not file:
        raise bad_row(path, number, "names no picture: a path or file, or its bytes, expected")
    named = row.get("id") not in (None, "")
    if not named and not file:
        raise bad_row(path, number, "has neither an id nor a path that could be one: fill it in")
    id_ = _stored(row["id"] if named else file, "id", path, number)
    source = row.get("source")
    kept = as_text(source if isinstance(source, str) and source else file) or None
    return Item(id_, _label(row, path, number), encoded or as_it_lies(path.parent, file), kept)


def _label(row: Mapping[str, Any], path: Path, number: int) -> str:
    if "label" not in row:
        found = as_text(", ".join(row)) or "nothing"
        raise bad_row(
            path, number, f"has no label, but {found}: it needs label, and path or bytes; id and source are optional"
        )
    return _stored(row["label"], "label", path, number)


def _stored(cell: object, what: str, path: Path, number: int) -> str:
    try:
        return stored_text(as_text(cell) if isinstance(cell, str) else cell, what)
    except InvalidArgument as error:
        raise bad_row(path, number, str(error).replace("got", "has", 1)) from error


def bad_row(path: Path, number: int, why: str) -> FolderError:
    """Return the error about a row of a list, or about a line of a text."""
    return FolderError(f"{'row' if path.suffix.lower() == _PARQUET else 'line'} {number} of {path} {why}")


def _rows(path: Path, columns: Collection[str] | None = None) -> Iterator[Row]:
    number = 0
    try:
        for number, row in _READERS[path.suffix.lower()](path, columns):
            yield number, row
    except _UNREADABLE as error:
        raise FolderError(f"{path} cannot be read beyond row {number}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    return (str(error).splitlines() or [type(error).__name__])[0]


def column_name(name: str) -> str:
    """Return how a column is known, however its list spells it: "File Name" is file_name."""
    return "_".join(name.lower().split())


def text_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a CSV, TSV or JSONL file, their cells by `column_name`; a row may have less cells than others.

    Of what CSV files have between their cells, that is taken with which the first line names known columns.

    Raises:
        FolderError: a line has more cells than there are columns, is no JSON object, or is too long.
        csv.Error, UnicodeDecodeError, OSError: it is no such file, or cannot be read.
    """
    with path.open("rb") as raw:
        encoding = "utf-16" if raw.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    with path.open(encoding=encoding, newline="") as file:
        lines = _lines(file, path)
        yield from _json_rows(lines, path) if path.suffix.lower() == ".jsonl" else _csv_rows(lines, path)


def _lines(file: IO[str], path: Path) -> Iterator[str]:
    for number, line in enumerate(iter(partial(file.readline, _LONGEST_LINE + 1), ""), start=1):
        if len(line) > _LONGEST_LINE:
            raise bad_row(path, number, f"has more than {_LONGEST_LINE:,} characters: keep large pictures as files")
        yield line


def _csv_rows(lines: Iterator[str], path: Path) -> Iterator[Row]:
    csv.field_size_limit(_LONGEST_LINE)
    first = next(lines, "")
    separator = "\t" if path.suffix.lower() == ".tsv" else max(_SEPARATORS, key=lambda mark: _known(first, mark))
    cells = csv.reader(chain([first], lines), strict=True, delimiter=separator, skipinitialspace=True)
    header = next(cells, [])
    names = _distinct(header, path)
    for row in cells:
        if len(row) > len(names):
            raise bad_row(
                path,
                cells.line_num,
                f"has {len(row)} cells, but there are {len(names)} columns: quote text that holds {separator!r}",
            )
        if row:  # an empty line is none
            yield cells.line_num, dict(zip_longest(names, row))


def _known(line: str, separator: str) -> int:
    """Return how many known columns a line names."""
    names = next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])
    return len({*_NAMES, *PATHS, _IMAGE, _BYTES, "labels"}.intersection(map(column_name, names)))


def _distinct(header: list[str], path: Path) -> list[str]:
    names = [column_name(name) for name in header]
    twice = next((name for name, times in Counter(names).items() if times > 1 and name), None)
    if twice is not None:
        raise FolderError(f"{path} has two columns called {as_text(twice)}: rename one of {as_text(', '.join(header))}")
    return names


def _json_rows(lines: Iterator[str], path: Path) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise bad_row(path, number, f"is no JSON ({error}): one object a line expected") from error
        if not isinstance(row, dict):
            raise bad_row(path, number, "is no JSON object: one for each picture, with label and path, expected")
        yield number, {column_name(name): value for name, value in row.items()}


def _list_rows(path: Path, columns: Collection[str] | None) -> Iterator[Row]:
    empty = True
    for number, row in text_rows(path):
        if empty and path.suffix.lower() != ".jsonl":
            _expect_columns(list(row), path)
        empty = False
        yield number, row
    if empty:
        raise FolderError(f"{path} has no rows below its columns: one for each picture expected")


def _parquet_rows(path: Path, columns: Collection[str] | None) -> Iterator[Row]:
    import pyarrow.parquet as pq

    # As Arrow would read it by itself, ahead and all groups at once, a file of 1 GB took 1.2 GB; like this, 0.2.
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=_READ_AHEAD) as file:
        schema = file.schema_arrow
        known = dict(zip(schema.names, _distinct(schema.names, path), strict=True))
        _expect_columns(list(known.values()), path)
        label = next(name for name in known if known[name] == "label")
        try:
            names = huggingface_names(schema, label)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            names = None  # something else of that name
        wanted = [name for name in known if known[name] in (columns or (*_NAMES, *PATHS, _IMAGE, _BYTES))]
        number = 0
        for group in range(file.num_row_groups):
            most = rows_at_a_time(path, file.metadata.row_group(group), wanted, most=_ROWS_AT_A_TIME)
            for batch in file.iter_batches(most, row_groups=[group], columns=wanted, use_threads=False):
                for row in batch.to_pylist():
                    number += 1
                    cells = {known[name]: cell for name, cell in row.items()}
                    yield number, cells | {"label": _named(row[label], names)}


def huggingface_names(schema: "pyarrow.Schema", label: str) -> list[str] | None:
    """Return the names of the classes that a column numbers, as Hugging Face keeps them in a table's metadata, or None.

    Raises:
        KeyError, IndexError, TypeError, ValueError, AttributeError: something else stands there.
    """
    features = parse_json((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    feature = features.get(label, {})
    feature = feature.get("feature", feature) if isinstance(feature, dict) else feature[0]  # of a list, its items'
    names = feature.get("names")
    return [str(name) for name in names] if names else None


def _named(label: object, names: list[str] | None) -> object:
    if names is None or not isinstance(label, int):
        return label
    return names[label] if 0 <= label < len(names) else None  # -1 stands for no label


def _expect_columns(names: list[str], path: Path) -> None:
    if "label" not in names or not {*PATHS, _IMAGE, _BYTES} & set(names):
        found = as_text(", ".join(names)) or "none"
        raise FolderError(
            f"{path} has the columns {found}: it needs label, and path or bytes; id and source are optional"
        )


_READERS: Final[dict[str, Callable[[Path, Collection[str] | None], Iterator[Row]]]] = {
    ".csv": _list_rows,
    ".tsv": _list_rows,
    ".jsonl": _list_rows,
    _PARQUET: _parquet_rows,
}
