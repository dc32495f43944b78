"""The decision in words, and the vote behind it as bars."""

from typing import Final

from eval.serve.browsing import named
from eval.serve.inquiry import change, verdict
from eval.serve.layout import tag, words
from retrieval.types import Label, Votes

_BARS: Final = 6


class DecisionPanel:
    """Tells the decision, and how it differs from the one before."""

    def __init__(self) -> None:
        """Draw the panel, with nothing decided yet."""
        self.label: Label | None = None
        with tag("section", "panel", aria_label="Decision"):
            words("h2", "Decision")
            with tag("div", role="status", aria_live="polite"):
                self._verdict = words("p", "Nothing asked yet.", "verdict")
                self._change = words("p", "", "change")
            self._bars = tag("div", "votes")

    def forget(self) -> None:
        """Begin anew with another picture, whose decision is no change of the last one's."""
        self.label = None

    def show(self, votes: Votes, voters: int, method: str) -> None:
        """Tell a decision."""
        self._verdict.set_text(verdict(votes, voters, method))
        self._change.set_text(change(self.label, votes.winner))
        self._change.classes(remove="moved")
        if self.label not in (None, votes.winner):
            self._change.classes("moved")
        self.label = votes.winner
        self._bars.clear()
        with self._bars:
            draw_bars(votes, most=_BARS)
            if len(votes.labels) > _BARS:
                words("span", f"and {len(votes.labels) - _BARS} more", "soft")


def draw_bars(votes: Votes, *, most: int) -> None:
    """Draw the heaviest labels of a vote, each with its share."""
    for label, percent in list(zip(votes.labels, votes.percents, strict=True))[:most]:
        words("span", named(label), title=named(label))
        tag("progress", value=str(percent), max="100", aria_label=named(label))
        words("span", f"{percent} %", "number")
