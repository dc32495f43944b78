"""Long lists in pages, and the addresses of those pages."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode


@dataclass(frozen=True, slots=True)
class Paging:
    """One page of a list."""

    number: int  # from 1
    size: int  # of a page
    total: int  # of the list

    @classmethod
    def of(cls, parameters: Mapping[str, str], *, size: int, total: int) -> "Paging":
        """Return the page that an address asks for: the nearest there is, the first where it asks for nonsense."""
        asked = parameters.get("page", "")
        number = int(asked) if asked.isascii() and asked.isdigit() and len(asked) < 10 else 1
        return cls(min(max(number, 1), max(-(-total // size), 1)), size, total)

    @property
    def pages(self) -> int:
        """How many pages there are."""
        return max(-(-self.total // self.size), 1)

    @property
    def shown(self) -> slice:
        """The part of the list on this page."""
        return slice((self.number - 1) * self.size, min(self.number * self.size, self.total))


def address(path: str, parameters: Mapping[str, object]) -> str:
    """Return the address of a page with the parameters that are not empty."""
    given = {name: value for name, value in parameters.items() if value not in ("", None)}
    return f"{path}?{urlencode(given)}" if given else path
