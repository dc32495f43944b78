"""API keys: read from the environment or a file, shown nowhere."""

import os
from pathlib import Path
from typing import Final, NoReturn
from urllib.parse import SplitResult

from retrieval.errors import InvalidArgument
from retrieval.support.outside import parse_address

GEMINI_VARIABLES: Final = ("GEMINI_API_KEY", "GOOGLE_API_KEY")
OPENAI_VARIABLES: Final = ("OPENAI_API_KEY",)
HIDDEN: Final = "[key]"
_READ: Final[set[str]] = set()  # every key that this process holds, for `hide_keys`
QUERY: Final = ("api-version",)  # of a server's address: Azure wants one, and it is no secret


class Secret:
    """A key that does not show itself: not when printed, not in a traceback, and it cannot be pickled."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value
        _READ.add(value)

    def reveal(self) -> str:
        """Return the key itself, for the one place that sends it."""
        return self._value

    def hide_in(self, text: str) -> str:
        """Return a text without the key: services have echoed it in their errors."""
        return text.replace(self._value, HIDDEN) if self._value else text

    def __repr__(self) -> str:
        return "Secret()"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is never pickled: read it anew where it is needed")


def hide_keys(text: str) -> str:
    """Return a text without any key that this process has read: for errors that nobody foresaw."""
    for value in _READ - {""}:
        text = text.replace(value, HIDDEN)
    return text


def find_key(variables: tuple[str, ...], *, file: Path | None = None) -> Secret | None:
    """Return the key in a file, in one of some environment variables, or in the file that ``NAME_FILE`` names.

    Raises:
        InvalidArgument: a file that cannot be read or holds no key.
    """
    if file is not None:
        return _from_file(file, "the key file")
    for variable in variables:
        if os.environ.get(variable, "").strip():
            return _checked(os.environ[variable].strip(), variable)
        if os.environ.get(f"{variable}_FILE"):
            return _from_file(Path(os.environ[f"{variable}_FILE"]), f"the file that {variable}_FILE names")
    return None


def check_server(url: str, variable: str) -> SplitResult:
    """Return the parts of a model server's address: names of models, run logs and libraries' logs repeat it.

    Raises:
        InvalidArgument: it is none, or holds a secret, which belongs into an environment variable.
    """
    instead = f"put a key into {variable} instead"
    return parse_address(url, "the model's server", schemes=("http", "https"), instead=instead, query=QUERY)


def key_variable() -> str | None:
    """Return the name of the environment variable that holds, or points at, a Gemini key; None when none does."""
    names = [name for variable in GEMINI_VARIABLES for name in (variable, f"{variable}_FILE")]
    return next((name for name in names if os.environ.get(name, "").strip()), None)


def _from_file(file: Path, name: str) -> Secret:
    """Read a key; errors call the file by a name, since a key that is mistaken for one stands in its path."""
    try:
        words = file.read_text(encoding="utf-8-sig").split()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise InvalidArgument(f"{name} cannot be read ({why}): a file with an API key expected") from None
    if len(words) != 1:
        raise InvalidArgument(f"{name} holds {len(words)} words: a single API key expected")
    return _checked(words[0], name)


def _checked(key: str, place: str) -> Secret:
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise InvalidArgument(f"what {place} holds is no API key: letters, digits and signs of ASCII expected")
    return Secret(key)
