"""Pictures in the rows of tables: Parquet, Hugging Face data sets saved on disk, and lists of files.

Columns: ``image`` (encoded bytes, or Hugging Face's struct of bytes and path) or ``path`` (of a file, below the
table's own folder); ``label`` (one) or ``labels`` (several, any of which is right; in CSV and TSV a JSON list);
``id`` where the rows have names. Integer labels go by the class names that Hugging Face writes beside them.
"""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Final

from eval.datasets.cells import ArrowRows, ParquetRows, RowFile, RowGroups
from eval.datasets.lists import LISTS, read_list
from eval.datasets.rows import Table, reading, row_ids, row_labels
from eval.datasets.stored import fingerprint, read_file
from eval.types import StoredPicture
from retrieval.errors import FolderError, ImageError
from retrieval.folder import as_it_lies, as_text, is_left_behind
from retrieval.manifests import PATHS, column_name, huggingface_names
from retrieval.outside import parse_json

if TYPE_CHECKING:
    import pyarrow as pa

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
        files = (file for place in places for file in path.glob(f"{place}*.{suffix}") if os.path.isfile(file))
        found = sorted(file for file in files if not is_left_behind(file.relative_to(path).as_posix()))
        saved = {folder: _saved_files(folder) for folder in {file.parent for file in found}}
        kept = [file for file in found if _is_saved(file, saved[file.parent])]
        if kept:
            return kept
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


def _is_saved(file: Path, names: list[str] | None) -> bool:
    """Tell whether a file is part of the table; Hugging Face keeps intermediate results beside it."""
    return file.name in names if names else not file.name.startswith("cache-")


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
        label, image = _label_column(root, schema), _image_column(root, schema)
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


def _label_column(root: Path, schema: "pa.Schema") -> str:
    name = _column(schema, ("labels", "label"))
    if name is None:
        raise FolderError(f"{root} has the columns {', '.join(schema.names)}: one called label or labels expected")
    return name


def _image_column(root: Path, schema: "pa.Schema") -> str:
    import pyarrow as pa

    def holds_pictures(name: str) -> bool:
        kind = schema.field(name).type
        return _has_field(schema, name, "bytes") or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    columns = [_column(schema, (name,)) for name in _IMAGES]
    name = next((name for name in columns if name and holds_pictures(name)), None) or _column(schema, PATHS)
    if name is None:
        raise FolderError(
            f"{root} has the columns {', '.join(schema.names)}:"
            " one called image with encoded pictures, or one called path, expected"
        )
    return name


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
