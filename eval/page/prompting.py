"""The prompts of a run, put together again from its log and its memory: their texts, without the pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from prompts.catalogue import Template, load_template
from prompts.errors import UnknownPrompt
from prompts.render import Exemplar, render
from prompts.types import MOST_CODES
from retrieval.types import Neighbor, Votes

_STAND_IN: Final = b"-"  # only a picture's place in the text is wanted


@dataclass(frozen=True, slots=True)
class Recomposer:
    """Puts prompts together again."""

    template: Template

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Recomposer | None":
        """Return one for a run's settings; None where its template has changed, or showed more than the log holds."""
        name, _, digest = str(settings.get("rerank", {}).get("prompt", "")).rpartition(" ")
        try:
            template = load_template(name)
        except UnknownPrompt:
            return None
        same = bool(digest) and template.digest.startswith(digest)
        logged = template.neighbors != "balanced" and template.candidates == "voted"
        return cls(template) if same and logged else None

    def prompt(self, neighbors: Sequence[Neighbor], votes: Votes, stored: Mapping[str, bytes | None]) -> str:
        """Return the text of a query's prompt in its first order, each picture as ``[picture N]``.

        Args:
            neighbors: all that voted, nearest first.
            votes: theirs.
            stored: the pictures that the memory keeps, by id.
        """
        exemplars = [Exemplar(n.label, _STAND_IN if stored.get(n.id) else None, n.distance) for n in neighbors]
        shares = zip(votes.labels, votes.shares, strict=True)
        candidates = dict(list(shares)[:MOST_CODES])
        return render(self.template, _STAND_IN, exemplars, candidates).text
