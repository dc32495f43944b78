"""Pictures inside tar, tar.gz and zip files, read where they lie: nothing is unpacked.

A tar is read by offset with ``pread``, so that any number of threads share one open file. A gzipped one is
decompressed once to find its members, keeping points from which decompression can start again; up to some gigabytes a
picture then takes milliseconds, beyond that the file is better unpacked. Which kind a file is shows in its content:
ImageNet-V2's ``.tar.gz`` files are plain tars.
"""

import os
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Final

from eval.datasets.stored import GzipBytes, PlainBytes
from eval.datasets.tars import open_tar
from eval.datasets.trees import ArchiveTree
from eval.datasets.zips import open_zip
from retrieval.errors import FolderError

_GZIP: Final = b"\x1f\x8b"
_ZIP: Final = b"PK"
_NOT_READ: Final = {
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"7z\xbc\xaf": "7-Zip",
    b"Rar!": "RAR",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_DAMAGE: Final = (  # what Python's readers raise on damaged and on hostile files
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    MemoryError,
    RecursionError,
    NotImplementedError,
    struct.error,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)


def open_archive(path: Path) -> ArchiveTree:
    """Return what a tar, gzipped tar or zip holds.

    Raises:
        FolderError: it is none, breaks off, is damaged, or cannot be read.
    """
    if not os.path.isfile(path):  # a pipe would be waited for
        raise FolderError(f"{path} is neither a folder nor a file: a folder, an archive or a table expected")
    try:
        found = _open(path)
    except _DAMAGE as error:
        raise FolderError(f"{path} cannot be read to its end ({error}): download it again, or unpack it") from error
    if found is None:
        raise FolderError(
            f"{path} is no archive and no table: a folder, a tar, tar.gz or zip, or a Parquet, Arrow, CSV, TSV or JSONL"
            " file expected"
        )
    return found


def _open(path: Path) -> ArchiveTree | None:
    with path.open("rb") as stream:
        head = stream.read(8)
    other = next((name for magic, name in _NOT_READ.items() if head.startswith(magic)), None)
    if other is not None:
        raise FolderError(f"{path} is compressed by {other}: unpack it, and give the folder")
    if head.startswith(_ZIP):
        return open_zip(path, PlainBytes(path))
    if head.startswith(_GZIP):
        return open_tar(path, GzipBytes(path))
    return open_tar(path, PlainBytes(path)) if tarfile.is_tarfile(path) else None
