"""Prompt templates: the released ones by name, a user's own by path."""

import hashlib
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from prompts.errors import UnknownPrompt
from prompts.header import Layout, read_header

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
