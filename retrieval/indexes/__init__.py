"""Indexes by kind: which there are, and which suits a memory of some size."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from retrieval.errors import InvalidArgument
from retrieval.indexes.base import ArrayBlocks, Index
from retrieval.support.outside import without_address

_CLASSES: Final = {"exact": "ExactIndex", "scann": "ScannIndex", "milvus": "MilvusIndex"}  # in the modules so named

SCANN_FROM: Final = 50_000
"""``auto`` takes ScaNN from this size on: exact search then costs several milliseconds a query, against a fraction of
one, and a tree is built in seconds."""


def choose_kind(kind: str, *, items: int) -> str:
    """Return the kind to build for a memory of this size: the one asked for, or ``auto``'s choice.

    ``milvus:URI`` is Milvus on a server.

    Raises:
        InvalidArgument: no such kind, or one whose package is not installed.
    """
    scann_installed = find_spec("scann") is not None
    if kind == "auto":
        return "scann" if scann_installed and items >= SCANN_FROM else "exact"
    index_class(kind)
    if kind == "scann" and not scann_installed:
        raise InvalidArgument("index 'scann' needs the package scann, which is for Linux: use --index exact")
    return kind


def index_class(kind: str) -> Any:  # noqa: ANN401 - type[Index], which cannot be checked when run: Index is a protocol
    """Return the class of a kind that `choose_kind` returned.

    Raises:
        InvalidArgument: there is no such kind, or nothing can be at the address.
    """
    name, colon, uri = kind.partition(":")
    if name not in _CLASSES or (colon and name != "milvus"):
        known = ", ".join(("auto", *_CLASSES))
        raise InvalidArgument(f"no index {without_address(kind)!r}: choose one of {known}, milvus:URI")
    module = import_module(f"retrieval.indexes.{name}")
    return module.on_server(uri) if colon else getattr(module, _CLASSES[name])


def build_index(kind: str, vectors: Float[np.ndarray, "items dimension"]) -> Index:
    """Return an index in memory over nearly unit vectors; ``auto`` chooses by their number."""
    built: Index = index_class(choose_kind(kind, items=len(vectors))).build(ArrayBlocks(vectors), None)
    return built
