"""How a run stands while it goes on: words behind its bar."""

from collections.abc import Sequence

from eval.types import Sample
from retrieval.types import Neighbors
from retrieval.voting import predict_every_k


class Standing:
    """Counts the queries of one data set that this invocation answered."""

    def __init__(self) -> None:
        self._answered = self._right = 0
        self._cost: float | None = 0.0
        self._asked = False

    def count_votes(self, found: Neighbors, samples: Sequence[Sample]) -> None:
        """Add queries that rank voting decides."""
        winners = predict_every_k(found.labels, found.distances, factors=found.reliabilities)[:, -1].tolist()
        self._answered += len(samples)
        self._right += sum(label in sample.labels for label, sample in zip(winners, samples, strict=True))

    def count(self, right: bool, cost: float | None) -> None:
        """Add a query that both stages decided; the cost in dollars is None where it is not known."""
        self._asked = True
        self._answered += 1
        self._right += right
        self._cost = None if cost is None or self._cost is None else self._cost + cost

    def __str__(self) -> str:
        if not self._answered:
            return ""
        money = f", ${self._cost:.2f}" if self._asked and self._cost is not None else ""
        return f"top-1 {100 * self._right / self._answered:.1f} %{money}"
