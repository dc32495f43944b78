"""Numbers in sentences."""

from typing import Final

from retrieval.support.terminal import printable


def counted(number: int, thing: str) -> str:
    """Return ``1 query`` or ``2,506 queries``."""
    return f"{number:,} {thing if number == 1 else plural(thing)}"


def points(number: float, form: str = "g") -> str:
    """Return ``1 point`` or ``0.5 points``, the number in a format."""
    shown = format(number, form)
    return f"{shown} point" if shown == "1" else f"{shown} points"


def plural(thing: str) -> str:
    """Return several of a thing by the regular rules of English."""
    if thing.endswith("y"):
        return thing[:-1] + "ies"
    return thing + ("es" if thing.endswith("s") else "s")


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
