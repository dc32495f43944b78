"""Numbers in sentences."""


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
