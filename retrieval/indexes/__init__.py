"""Indexes by kind."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from retrieval.errors import InvalidArgument
from retrieval.indexes.base import ArrayBlocks, Index
from retrieval.support.outside import without_address

KINDS: Final = ("auto", "exact", "scann", "milvus")
_CLASSES: Final = {
    "exact": ("retrieval.indexes.exact", "ExactIndex"),
    "scann": ("retrieval.indexes.scann", "ScannIndex"),
    "milvus": ("retrieval.indexes.milvus", "MilvusIndex"),
}

SCANN_FROM: Final = 50_000
"""``auto`` takes ScaNN from this size on: exact search then costs several milliseconds a query, against a fraction of
one, and a tree is built in seconds."""


def choose_kind(kind: str, *, items: int) -> str:
    """Return the kind to build for a memory of this size: the one asked for, or ``auto``'s choice.

    ``milvus:URI`` is Milvus on a server.

    Raises:
        InvalidArgument: no such kind, or one whose package is not installed.
    """
    name, colon, _ = kind.partition(":")
    if name not in KINDS or (colon and name != "milvus"):
        raise InvalidArgument(f"no index {without_address(kind)!r}: choose one of {', '.join(KINDS)}, milvus:URI")
    scann_installed = find_spec("scann") is not None
    if name == "scann" and not scann_installed:
        raise InvalidArgument("index 'scann' needs the package scann, which is for Linux: use --index exact")
    if name == "milvus":
        index_class(kind)  # which says what is wrong with the address, or is not installed
    if kind != "auto":
        return kind
    return "scann" if scann_installed and items >= SCANN_FROM else "exact"


def index_class(kind: str) -> Any:  # noqa: ANN401 - type[Index], which cannot be checked when run: Index is a protocol
    """Return the class of a kind that `choose_kind` returned.

    Raises:
        InvalidArgument: there is no such kind, or nothing can be at the address.
    """
    name, colon, uri = kind.partition(":")
    if colon and name == "milvus":
        from retrieval.indexes.milvus import on_server

        return on_server(uri)
    if colon or name not in _CLASSES:
        raise InvalidArgument(f"no index {without_address(kind)!r}: choose one of {', '.join(_CLASSES)}, milvus:URI")
    module, class_name = _CLASSES[name]
    return getattr(import_module(module), class_name)


def build_index(kind: str, vectors: Float[np.ndarray, "items dimension"]) -> Index:
    """Return an index in memory over nearly unit vectors; ``auto`` chooses by their number."""
    built: Index = index_class(choose_kind(kind, items=len(vectors))).build(ArrayBlocks(vectors), None)
    return built
