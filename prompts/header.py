"""The header of a prompt template: lines of ``name: value`` that say what it is for and what it shows."""

import re
from typing import Any, Final

from prompts.answer import REPLY_TOKENS
from prompts.errors import UnknownPrompt

Layout = tuple[int, int]
"""Rows and columns of a sheet."""

_WORDS: Final = {
    "answer": tuple(REPLY_TOKENS),
    "neighbors": ("nearest", "balanced", "labels", "none", "mosaic"),
    "candidates": ("voted", "all"),
    "labels": ("tiles", "text"),
}
_FREE: Final = ("about", "version")
_LAYOUT: Final = re.compile(r"(\d{1,2})x(\d{1,2})")
_MOST: Final = 12  # rows or columns: then a tile still has 84 pixels
_DEFAULT_LAYOUT: Final = (5, 10)  # the paper's 50 neighbours on one sheet


def read_header(header: str, name: str) -> dict[str, Any]:
    """Return what a header says.

    Args:
        header: its lines.
        name: of the template, for errors.

    Raises:
        UnknownPrompt: a line that is none, an unknown name, or a value that it cannot have.
    """
    fields: dict[str, Any] = {}
    for line in header.splitlines():
        key, colon, value = (piece.strip() for piece in line.partition(":"))
        if not colon or key not in (*_FREE, *_WORDS, "sheet") or key in fields:
            known = ", ".join((*_FREE, *_WORDS, "sheet"))
            raise UnknownPrompt(f"the header of {name} has the line {line!r}: one each of {known} expected")
        if key in _WORDS and value not in _WORDS[key]:
            raise UnknownPrompt(f"the header of {name} says {line!r}: {key} is one of {', '.join(_WORDS[key])}")
        fields[key] = _layout(value, name) if key == "sheet" else value
    if fields.get("neighbors") == "mosaic":
        return {"sheet": _DEFAULT_LAYOUT} | fields
    if misplaced := sorted({"sheet", "labels"} & fields.keys()):
        raise UnknownPrompt(f"the header of {name} has {misplaced[0]}: only one with neighbors: mosaic does")
    return fields


def _layout(value: str, name: str) -> Layout:
    parsed = _LAYOUT.fullmatch(value)
    rows, columns = map(int, parsed.groups()) if parsed else (0, 0)
    if not (1 <= rows <= _MOST and 1 <= columns <= _MOST):
        raise UnknownPrompt(
            f"{name} has sheets of {value!r}: rows and columns like 5x10 expected, {_MOST} of each at most"
        )
    return rows, columns
