"""Prompt templates: the released ones by name, a user's own by path."""

import hashlib
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from prompts.answer import REPLY_TOKENS
from prompts.types import UnknownPrompt

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


DEFAULT: Final = "rerank_v1"
_FOLDER: Final = Path(__file__).parent / "templates"
_FILE: Final = re.compile(r"---\n(?P<header>about: \S.*?)\n---\n(?P<body>.+)", re.DOTALL)
_WITH_LAYOUT: Final = re.compile(r"(?P<base>.+)@(?P<layout>\d+x\d+)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A readable file: a header that says what the prompt is for and what it shows, and a Jinja body with slots.

    Slots: ``neighbors`` (each with ``number``, ``label``, ``distance`` and ``picture``, nearest first), ``candidates``
    (code → label), ``shares`` (code → share of the vote), ``none_code``, ``shuffled`` (whether the order means nothing)
    and ``query``, the query's picture. A mosaic has ``sheets`` too (each with ``first``, ``last`` and ``picture``), and
    its neighbours say by ``on_sheet`` whether their labels stand there. Labels go through the filter ``quoted``.
    """

    name: str
    about: str
    body: str
    version: str = ""
    answer: str = "ranking"  # the form of the reply: one of `prompts.answer.REPLY_TOKENS`
    neighbors: str = "nearest"  # nearest, balanced (as many of each candidate), labels (no pictures), none, mosaic
    candidates: str = "voted"  # what may be answered: the labels voted for, or all of the memory's
    sheet: Layout | None = None  # of a mosaic: rows and columns
    labels: str = "tiles"  # where a mosaic has its labels: beneath the tiles, or in the text

    @property
    def digest(self) -> str:
        """A digest of everything that can change what is sent, which tells two templates of one name apart.

        It is the body's alone where the header says what the first releases could, so that their replies and runs keep
        their names.
        """
        settings = (self.answer, self.candidates, self.neighbors, self.sheet, self.labels)
        first = self.neighbors in ("nearest", "balanced") and settings[:2] == ("ranking", "voted")
        return hashlib.sha256((self.body + ("" if first else json.dumps(settings))).encode()).hexdigest()

    @property
    def shows_thumbnails(self) -> bool:
        """Whether neighbours' pictures are wanted."""
        return self.neighbors in ("nearest", "balanced", "mosaic")

    @property
    def shown(self) -> str:
        """What it shows of the neighbours, in words."""
        words = {"nearest": "pictures", "balanced": "pictures, as many of each class", "none": "no neighbours"}
        if self.sheet:
            return f"sheets of {self.sheet[0]} × {self.sheet[1]}"
        return words.get(self.neighbors, self.neighbors)


def template_names() -> list[str]:
    """Return the names of the released templates."""
    return sorted(path.stem for path in _FOLDER.glob("*.md"))


def load_template(name: str) -> Template:
    """Return a template by its name, or by the path of a user's own file.

    A mosaic may be asked for in another layout than its own: ``mosaic_v1@4x4`` has four rows of four on a sheet.

    Raises:
        UnknownPrompt: neither a released name nor a file in the templates' form, or a layout that cannot be.
    """
    other = _WITH_LAYOUT.fullmatch(name)
    if other is None:
        return _read(name)
    base = _read(other["base"])
    if base.sheet is None:
        raise UnknownPrompt(f"{name}: {base.name} is no mosaic, so that it has no layout; leave out @{other['layout']}")
    sheet = read_header(f"neighbors: mosaic\nsheet: {other['layout']}", name)["sheet"]
    return replace(base, name=f"{base.name}@{other['layout']}", sheet=sheet)


def _read(name: str) -> Template:
    path = _FOLDER / f"{name}.md" if name in template_names() else Path(name)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UnknownPrompt(
            f"no prompt {name!r}: one of {', '.join(template_names())}, or the path of a template file, expected"
        ) from error
    parsed = _FILE.fullmatch(text)
    if parsed is None:
        raise UnknownPrompt(f"{name} is no prompt template: it must begin with the lines '---', 'about: …', '---'")
    return Template(name=path.stem, body=parsed["body"], **read_header(parsed["header"], name))
