"""The same queries found again in two runs."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, Shaped

from eval.errors import RunError
from eval.scoring import are_right
from eval.types import QueryResults, Run


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """One side's answers to a data set."""

    results: QueryResults
    labels: Shaped[np.ndarray, " queries"]
    right: Bool[np.ndarray, " queries"]
    place: str  # where the pictures lie, or the data set's name where that is not known


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """The queries of one data set that both sides answered; rows are places in each side's results."""

    before: Answers
    after: Answers
    before_rows: Int[np.ndarray, " pairs"]
    after_rows: Int[np.ndarray, " pairs"]

    @property
    def ids(self) -> list[str]:
        """The queries, in the order of the first side."""
        return [self.before.results.ids[row] for row in self.before_rows.tolist()]

    @property
    def pictures(self) -> list[tuple[str, str]]:
        """What tells their pictures apart, across data sets too: ImageNet's validation set and ReaL share theirs."""
        return [(self.before.place, query) for query in self.ids]

    @property
    def truths(self) -> list[frozenset[str]]:
        """Their right labels."""
        return [self.before.results.truths[row] for row in self.before_rows.tolist()]

    @property
    def labels(self) -> tuple[Shaped[np.ndarray, " pairs"], Shaped[np.ndarray, " pairs"]]:
        """The answers before and after."""
        return self.before.labels[self.before_rows], self.after.labels[self.after_rows]

    @property
    def right(self) -> tuple[Bool[np.ndarray, " pairs"], Bool[np.ndarray, " pairs"]]:
        """Whether they are right."""
        return self.before.right[self.before_rows], self.after.right[self.after_rows]

    @property
    def change(self) -> Int[np.ndarray, " pairs"]:
        """1 where a query was fixed, -1 where it was broken."""
        before, after = self.right
        change: Int[np.ndarray, " pairs"] = after.astype(np.int64) - before
        return change


def answer_all(run: Run, labels_of: Callable[[QueryResults], list[str]]) -> dict[str, Answers]:
    """Return a run's answers by data set, without data sets of which it answered no query."""
    answers = {}
    places = run.info.about.get("datasets", {})
    for name, results in run.results.items():
        if len(results):
            labels = labels_of(results)
            answers[name] = Answers(
                results, np.array(labels, object), are_right(labels, results.truths), places.get(name) or name
            )
    return answers


def pair_queries(before: Answers, after: Answers, *, dataset: str, after_name: str) -> Pairs:
    """Pair two sides' queries by id.

    Args:
        before: the first side's answers.
        after: the other's.
        dataset: its name, for the error.
        after_name: the other side's name, for the error.

    Raises:
        RunError: other labels are right for the same id, so that it is another data set.
    """
    place = {query: row for row, query in enumerate(after.results.ids)}
    rows = np.array([place.get(query, -1) for query in before.results.ids])
    pairs = Pairs(before, after, np.flatnonzero(rows >= 0), rows[rows >= 0])
    others = [after.results.truths[row] for row in pairs.after_rows.tolist()]
    if others != pairs.truths:
        first = next(pair for pair, truth in enumerate(pairs.truths) if truth != others[pair])
        raise RunError(
            f"{dataset} is another data set in {after_name}: there {sorted(others[first])} is right for "
            f"{pairs.ids[first]!r}, in the first run {sorted(pairs.truths[first])}; compare runs on the same queries"
        )
    return pairs
