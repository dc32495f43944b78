"""Untrusted text for people: labels, names, what a model said."""

from typing import Final

from retrieval.terminal import printable

LONGEST_LINE: Final = 200  # characters; longer labels and names are cut
_LONGEST_TEXT: Final = 20_000


def one_line(text: object, *, longest: int = LONGEST_LINE) -> str:
    """Return text on one line without control or bidirectional characters, cut to a length."""
    whole = str(text)
    # Almost all names are harmless, and a page may hold hundreds of thousands.
    return whole if len(whole) <= longest and whole.isprintable() else printable(whole, longest=longest)


def some_lines(text: str) -> str:
    """Return text whose line ends stay, and otherwise as `one_line` gives it, cut to 20,000 characters."""
    cut = text[:_LONGEST_TEXT] + ("…" if len(text) > _LONGEST_TEXT else "")
    return "\n".join(one_line(line.rstrip("\r").replace("\t", " "), longest=_LONGEST_TEXT) for line in cut.split("\n"))
