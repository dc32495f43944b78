"""Indexes by kind, and their place on disk beside the table they were built from."""

import json
import shutil
import tempfile
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from retrieval.errors import InvalidArgument
from retrieval.indexes.base import Index

KINDS: Final = ("auto", "exact", "scann")
_CLASSES: Final = {
    "exact": ("retrieval.indexes.exact", "ExactIndex"),
    "scann": ("retrieval.indexes.scann", "ScannIndex"),
}
_HEADER: Final = (
    "index.json"  # which kind, over which version of the table; written last, so that it vouches for the rest
)

_ASIDE: Final = "index.new-"  # begins the name of an index that is being saved
_ABANDONED_SECONDS: Final = 3600.0  # after which one is what a killed process left

SCANN_FROM: Final = 50_000
"""``auto`` takes ScaNN from this size on: exact search then costs several milliseconds a query, against a fraction of
one, and a tree is built in seconds."""


def choose_kind(kind: str, *, items: int) -> str:
    """Return the kind to build for a memory of this size: the one asked for, or ``auto``'s choice.

    Raises:
        InvalidArgument: no such kind, or ScaNN where it is not installed.
    """
    if kind not in KINDS:
        raise InvalidArgument(f"no index {kind!r}: choose one of {', '.join(KINDS)}")
    scann_installed = find_spec("scann") is not None
    if kind == "scann" and not scann_installed:
        raise InvalidArgument("index 'scann' needs the package scann, which is for Linux: use --index exact")
    if kind != "auto":
        return kind
    return "scann" if scann_installed and items >= SCANN_FROM else "exact"


def build_index(kind: str, vectors: Float[np.ndarray, "items dimension"]) -> Index:
    """Return an index of a kind over unit vectors; ``auto`` chooses by their number."""
    index: Index = _class(choose_kind(kind, items=len(vectors))).build(vectors)
    return index


def save_index(index: Index, folder: Path, *, table_version: str) -> None:
    """Write an index as the one over a version of the table, wholly or not at all.

    Raises:
        OSError: the folder cannot be written.
    """
    for left_over in folder.parent.glob(f"{_ASIDE}*"):
        if time.time() - left_over.stat().st_mtime > _ABANDONED_SECONDS:
            shutil.rmtree(left_over, ignore_errors=True)
    fresh = Path(tempfile.mkdtemp(prefix=_ASIDE, dir=folder.parent))
    index.save(fresh)
    (fresh / _HEADER).write_text(
        json.dumps({"kind": index.kind, "table_version": table_version, "items": len(index), "bytes": _bytes(fresh)})
    )
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


def load_index(folder: Path, *, table_version: str) -> Index | None:
    """Return the index saved over this version of the table; None where there is none, or a stale or damaged one."""
    try:
        header = json.loads((folder / _HEADER).read_text())
        if header["table_version"] != table_version:
            return None
        if header["bytes"] != _bytes(folder):
            return None
        index: Index = _class(header["kind"]).load(folder)
        return index if len(index) == header["items"] else None
    except (OSError, EOFError, ValueError, KeyError, TypeError, ImportError):
        return None


def _class(kind: str) -> Any:  # noqa: ANN401 - a class of the protocol Index, which has no run-time name for "subclass"
    module, name = _CLASSES[kind]
    return getattr(import_module(module), name)


def _bytes(folder: Path) -> dict[str, int]:
    """Return the size of each of an index's files, by which a torn copy shows."""
    return {file.name: file.stat().st_size for file in sorted(folder.iterdir()) if file.name != _HEADER}
