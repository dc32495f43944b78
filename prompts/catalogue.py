"""Prompt templates: the released ones by name, a user's own by path."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prompts.errors import UnknownPrompt

DEFAULT: Final = "rerank_v1"
_FOLDER: Final = Path(__file__).parent / "templates"
_FILE: Final = re.compile(
    r"---\nabout: (?P<about>[^\n]+)\n(?:neighbors: (?P<neighbors>nearest|balanced)\n)?---\n(?P<body>.+)", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Template:
    """A readable file: a header that says what the prompt is for, and a Jinja body with slots.

    Slots: ``neighbors`` (each with ``label`` and ``picture``, nearest first), ``candidates`` (code → label), ``shares``
    (code → share of the vote), ``none_code``, ``shuffled`` (whether the order means nothing) and ``query``, the query's
    picture. Labels go through the filter ``quoted``.
    """

    name: str
    about: str
    body: str
    balanced: bool = False  # show as many neighbours of each candidate as of any other, instead of the nearest

    @property
    def digest(self) -> str:
        """A digest of the text, which tells two templates of one name apart."""
        return hashlib.sha256(self.body.encode()).hexdigest()


def template_names() -> list[str]:
    """Return the names of the released templates."""
    return sorted(path.stem for path in _FOLDER.glob("*.md"))


def load_template(name: str) -> Template:
    """Return a template by its name, or by the path of a user's own file.

    Raises:
        UnknownPrompt: neither a released name nor a file in the templates' form.
    """
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
    return Template(path.stem, parsed["about"], parsed["body"], balanced=parsed["neighbors"] == "balanced")
