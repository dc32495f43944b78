"""The queries of a run, or of two runs side by side, as columns that are filtered at once, however many there are."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Final

import numpy as np
from jaxtyping import Bool, Int

from eval.comparing import answer_all, pair_queries
from eval.metrics.votes import final_labels
from eval.report.cases import BETWEEN_RUNS, BY_SECOND_LOOK, BY_VOTE, Outcomes, Queries, queries_of_run
from eval.types import Run
from retrieval.labels import display_name

OTHER_ANSWER: Final = "another answer"


@dataclass(frozen=True, slots=True)
class Filters:
    """Which queries are shown; an empty one lets all through. They stand in a page's address by these names."""

    dataset: str = ""
    label: str = ""  # among the right ones
    outcome: str = ""  # name of one of the table's outcomes
    reason: str = ""  # code
    text: str = ""  # in the id, or in a label or its name; case does not count

    @classmethod
    def of(cls, parameters: Mapping[str, str]) -> "Filters":
        """Return the filters that an address holds; what else is in it is left alone."""
        given = {one.name: parameters.get(one.name, "") for one in fields(cls)}
        return cls(**given | {"text": given["text"].strip()})

    @property
    def parameters(self) -> dict[str, object]:
        """The filters as parameters of an address."""
        return asdict(self)


@dataclass(eq=False)
class QueryTable:
    """Queries with one answer each, or with two to be compared: those of each data set, and all of them as columns."""

    heads: tuple[str, ...]  # whose answers they are
    outcomes: tuple[Outcomes, ...]  # to choose from
    parts: list[Queries]  # a data set each

    def __post_init__(self) -> None:
        """Join the columns, so that a filter looks at all queries at once."""
        nothing = np.zeros((0, len(self.heads)), np.int64)
        self.names = [part.name for part in self.parts]
        self.dataset = np.repeat(np.arange(len(self.parts)), [len(part.ids) for part in self.parts])
        self.rows = np.concatenate([nothing, *(part.rows for part in self.parts)])
        self.flags = np.concatenate([nothing[:, 0], *(part.flags for part in self.parts)])
        self.ids = [query for part in self.parts for query in part.ids]
        self.truths = [truth for part in self.parts for truth in part.truths]
        self.answers = [
            [label for part in self.parts for label in part.answers[side]] for side in range(len(self.heads))
        ]
        # Their codes.
        self.reasons = np.array([said.partition(":")[0] for part in self.parts for said in part.reasons], dtype=str)

    def __len__(self) -> int:
        return len(self.ids)

    def prepare(self) -> "QueryTable":
        """Return it with everything at hand that filters look at."""
        _ = self.reason_codes, self.labels, self._other_answer, self._texts
        return self

    @cached_property
    def reason_codes(self) -> list[str]:
        """The different codes, the most frequent first."""
        codes, counts = np.unique(self.reasons, return_counts=True)
        return [code for code in codes[np.argsort(-counts, kind="stable")].tolist() if code]

    @cached_property
    def labels(self) -> list[str]:
        """Every label that is right for a query."""
        return sorted(set().union(*set(self.truths)))

    @cached_property
    def _other_answer(self) -> Bool[np.ndarray, " queries"]:
        first, last = self.answers[0], self.answers[-1]
        return np.fromiter((one != other for one, other in zip(first, last, strict=True)), bool, len(self))

    @cached_property
    def _texts(self) -> list[str]:
        """What is looked through for a text: made once, since people type several words after each other."""
        words = {label: f"{label}\n{display_name(label)}" for label in set().union(*self.answers, *set(self.truths))}
        told = zip(self.ids, self.truths, *self.answers, strict=True)
        return ["\n".join((query, *(words[one] for one in {*truth, *said}))).casefold() for query, truth, *said in told]

    def select(self, filters: Filters) -> Int[np.ndarray, " some"]:
        """Return the places of the queries that pass every filter, in order; a value that none has lets none pass."""
        chosen = np.ones(len(self), bool)
        for mask in self._masks(filters):
            chosen &= mask
        return np.flatnonzero(chosen)

    def _masks(self, filters: Filters) -> Iterator[Bool[np.ndarray, " queries"]]:
        if filters.dataset:
            place = self.names.index(filters.dataset) if filters.dataset in self.names else -1
            yield self.dataset == place
        if filters.label:
            yield np.fromiter((filters.label in truth for truth in self.truths), bool, len(self))
        if filters.outcome == OTHER_ANSWER:
            yield self._other_answer
        elif filters.outcome:
            known = {one.name: (self.flags & one.mask) == one.value for one in self.outcomes}
            yield known.get(filters.outcome, np.zeros(len(self), bool))
        if filters.reason:
            yield self.reasons == filters.reason
        if filters.text:
            wanted = filters.text.casefold()
            yield np.fromiter((wanted in text for text in self._texts), bool, len(self))

    @property
    def outcome_names(self) -> list[str]:
        """The outcomes that can be asked for."""
        return [OTHER_ANSWER] * (len(self.answers) > 1) + [choice.name for choice in self.outcomes]

    def find(self, dataset: str, query: str) -> int | None:
        """Return the place of a query; None where it is not there."""
        places = (place for place, known in enumerate(self.ids) if known == query)
        return next((place for place in places if self.names[self.dataset[place]] == dataset), None)

    def part_of(self, place: int) -> tuple[Queries, int]:
        """Return the data set of a query, and its place there."""
        number = int(self.dataset[place])
        return self.parts[number], place - int(self.dataset.searchsorted(number))


def table_of_run(run: Run) -> QueryTable:
    """Return the queries of a run: the vote's answers, and beside them the final ones where a model was asked."""
    asked = any(results.outcomes is not None for results in run.results.values())
    parts = [queries_of_run(name, results, asked=asked) for name, results in run.results.items()]
    heads = ("vote", "with the model") if asked else ("vote",)
    return QueryTable(heads, BY_SECOND_LOOK if asked else BY_VOTE, parts)


def table_of_two(heads: tuple[str, str], before: Run, after: Run) -> QueryTable:
    """Return the queries that two runs answered, with the final answers of both.

    Raises:
        RunError: other labels are right for the same id.
    """
    first, second = answer_all(before, final_labels), answer_all(after, final_labels)
    parts = []
    for name in first:
        if name not in second:
            continue
        pairs = pair_queries(first[name], second[name], dataset=name, after_name=heads[1])
        was_right, is_right = pairs.right
        told = pairs.after.results.outcomes
        outcomes = [told[row] if told else None for row in pairs.after_rows.tolist()]
        parts.append(
            Queries(
                name=name,
                heads=heads,
                rows=np.stack([pairs.before_rows, pairs.after_rows], axis=1),
                ids=pairs.ids,
                truths=list(pairs.truths),
                answers=[labels.tolist() for labels in pairs.labels],
                flags=was_right.astype(np.int64) | is_right.astype(np.int64) << 1,
                reasons=[outcome.reason if outcome else "" for outcome in outcomes],
                confidences=[outcome.confidence if outcome else None for outcome in outcomes],
            )
        )
    return QueryTable(heads, BETWEEN_RUNS, parts)
