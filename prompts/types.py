"""A prompt as a model receives it: texts and pictures in order."""

from dataclasses import dataclass
from typing import Final, TypeAlias

from retrieval.errors import VisualMemoryError
from retrieval.support.lazy import shown_by
from retrieval.types import Label

NONE_CODE: Final = "NONE"
"""What a model answers when none of the candidates fits; the candidates' own codes are A, B, …"""
MOST_CODES: Final = 90
"""Services refuse schemas with about 100 allowed values (python-genai issues 950 and 2133)."""


@dataclass(frozen=True, slots=True)
class TextPart:
    """Some text."""

    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    """One picture, encoded, without metadata."""

    encoded: bytes
    mime_type: str = "image/jpeg"
    size: tuple[int, int] | None = None  # width and height in pixels of a sheet; None: no more than 384 either way
    drawn: tuple[str, ...] = ()  # SHA-256 of each picture that was drawn into a sheet, by which forgetting finds it


Part: TypeAlias = TextPart | ImagePart


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered prompt, and the labels that may be answered."""

    template: str  # its name, such as rerank_v1
    parts: tuple[Part, ...]
    candidates: dict[str, Label]  # short code → label, most likely first
    template_digest: str = ""  # of the template's text: two templates may share a name
    answer: str = "ranking"  # the form of the reply: one of `prompts.answer.REPLY_TOKENS`

    _repr_html_ = shown_by("prompts.preview", "prompt_fragment")

    @property
    def text(self) -> str:
        """The texts alone, each picture as ``[picture N]``."""
        pictures = 0
        lines = []
        for part in self.parts:
            if isinstance(part, TextPart):
                lines.append(part.text)
            else:
                pictures += 1
                lines.append(f"[picture {pictures}]")
        return "\n".join(lines)


class PromptError(VisualMemoryError):
    """A prompt that cannot be made or a reply that cannot be read."""


class UnknownPrompt(PromptError):
    """No such template, or a file that is none."""


class UnusableReply(PromptError):
    """A reply that answers with none of the candidates."""
