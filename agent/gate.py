"""When to ask the model: always, or only where the vote is not decisive."""

import math
import re
from dataclasses import dataclass
from typing import Final

from retrieval.errors import InvalidArgument
from retrieval.types import Votes

_CONDITION: Final = re.compile(r"(margin|share)\s*<\s*([\d.]+)|(entropy)\s*>\s*([\d.]+)")


@dataclass(frozen=True, slots=True)
class Gate:
    """A condition on the vote under which the model is asked.

    ``margin`` is the winner's share of the vote less the second's, ``share`` the winner's, ``entropy`` that of all
    shares in nats. A vote with a single label has margin and share 1 and entropy 0.
    """

    measure: str  # always, margin, share or entropy
    threshold: float = 0.0

    def asks(self, votes: Votes) -> bool:
        """Tell whether the vote is open enough to ask the model."""
        if self.measure == "always":
            return True
        value = measure_vote(votes, self.measure)
        return value > self.threshold if self.measure == "entropy" else value < self.threshold

    def __str__(self) -> str:
        sign = ">" if self.measure == "entropy" else "<"
        return self.measure if self.measure == "always" else f"{self.measure}{sign}{self.threshold:g}"


ALWAYS: Final = Gate("always")


def parse_gate(text: str) -> Gate:
    """Return the gate that a text such as ``always``, ``margin<0.3``, ``share<0.8`` or ``entropy>0.5`` describes.

    Raises:
        InvalidArgument: it describes none.
    """
    if text.strip() == "always":
        return ALWAYS
    parsed = _CONDITION.fullmatch(text.strip())
    try:
        if parsed is None:
            raise ValueError
        return Gate(parsed[1] or parsed[3], float(parsed[2] or parsed[4]))
    except ValueError as error:
        raise InvalidArgument(
            f"--when {text!r}: always, margin<NUMBER, share<NUMBER or entropy>NUMBER expected, such as 'margin<0.3'"
        ) from error


def measure_vote(votes: Votes, measure: str) -> float:
    """Return the ``margin``, ``share`` or ``entropy`` of a vote."""
    shares = votes.shares
    if measure == "share":
        return shares[0]
    if measure == "margin":
        return shares[0] - (shares[1] if len(shares) > 1 else 0.0)
    return -sum(share * math.log(share) for share in shares if share > 0)
