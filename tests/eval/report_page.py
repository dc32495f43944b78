"""The page of a run or of a comparison, read as a file: its elements, scripts, text and cards."""

import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any


@dataclass(slots=True)
class FoundNeighbor:
    """A neighbour on a card."""

    frame: str  # its classes
    picture: int | None = None  # its number
    text: str = ""


@dataclass(slots=True)
class FoundCard:
    """The card of a query with pictures."""

    group: int
    place: int
    picture: int | None = None  # the query's
    text: str = ""
    neighbors: list[FoundNeighbor] = field(default_factory=list)
    folded: list[tuple[str, str]] = field(default_factory=list)  # summary and text

    def unfold(self, summary: str) -> str:
        """Return the text below the first summary that begins so."""
        return next(text for title, text in self.folded if title.startswith(summary))


class Page(HTMLParser):
    """A parsed page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self.cards: list[FoundCard] = []
        self.source = path.read_text(encoding="utf-8")
        self._inside: list[str] = []
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.elements.append((tag, found))
        if tag not in ("meta", "img", "input", "br"):
            self._inside.append(tag)
        if tag == "script":
            self.scripts.append("")
        if tag == "template":
            self.cards.append(FoundCard(int(found["data-group"] or 0), int(found["data-place"] or 0)))
        if "template" not in self._inside:
            return
        card = self.cards[-1]
        if tag == "li":
            card.neighbors.append(FoundNeighbor(found.get("class") or ""))
        elif tag == "details":
            card.folded.append(("", ""))
        elif tag == "img":
            shown = card.neighbors[-1] if "li" in self._inside else card
            shown.picture = int(found["data-picture"] or 0)

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        inside = self._inside
        if inside[-1:] == ["script"]:
            self.scripts[-1] += data
        elif inside[-1:] != ["style"]:
            self.text += data
        if "template" not in inside:
            return
        card = self.cards[-1]
        if "details" in inside:
            summary, text = card.folded[-1]
            card.folded[-1] = (summary + data, text) if "summary" in inside else (summary, text + data)
        elif "li" in inside:
            card.neighbors[-1].text += data
        else:
            card.text += data

    def data(self, name: str) -> Any:
        """Return what a data block holds."""
        ids = [attributes.get("id") for tag, attributes in self.elements if tag == "script"]
        return json.loads(self.scripts[ids.index(name)])

    def count(self, wanted: str, **attributes: str) -> int:
        """Return how many elements of a kind have some attributes."""
        return sum(tag == wanted and attributes.items() <= found.items() for tag, found in self.elements)

    def listed(self, group: int = 0) -> dict[int, FoundCard]:
        """Return the cards of a data set by their places."""
        return {card.place: card for card in self.cards if card.group == group}
