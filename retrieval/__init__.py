"""Stage one: pictures become unit vectors, near ones are found, their labels vote.

from retrieval import VisualMemory
memory = VisualMemory.open("memory/")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retrieval.memory import VisualMemory as VisualMemory

_HOMES = {"VisualMemory": "retrieval.memory"}
__all__ = ["VisualMemory"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - the names are loaded on use, so that `vmem --help` stays quick
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
