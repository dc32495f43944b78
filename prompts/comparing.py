"""Two templates line by line."""

import difflib
from collections.abc import Iterator
from typing import Final

import typer

from prompts.catalogue import Template
from prompts.preview import plain

_COLOURS: Final = {"+": "green", "-": "red", "@": "cyan"}


def differing_lines(first: Template, second: Template) -> Iterator[str]:
    """Yield the lines of a unified diff of two templates; none where they say the same."""
    return difflib.unified_diff(_lines(first), _lines(second), plain(first.name), plain(second.name), lineterm="")


def coloured(line: str) -> str:
    """Return a line of a diff in the colours that terminals give it; where there is none, typer takes them off."""
    colour = _COLOURS.get(line[:1])
    return typer.style(line, fg=colour) if colour else line


def _lines(template: Template) -> list[str]:
    header = {
        "about": template.about,
        "version": template.version,
        "answer": template.answer,
        "neighbors": template.neighbors,
        "candidates": template.candidates,
        "sheet": "x".join(map(str, template.sheet or ())),
        "labels": template.labels if template.sheet else "",
    }
    said = [f"{name}: {value}" for name, value in header.items() if value]
    return [*map(plain, said), "", *plain(template.body).split("\n")]
