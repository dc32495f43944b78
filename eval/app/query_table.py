"""The queries of a run, or of two runs side by side, as columns that are filtered at once, however many there are."""

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Final

import numpy as np
from jaxtyping import Bool, Int, Shaped

from eval.comparing import Pairs, answer_all, pair_queries
from eval.metrics.votes import final_labels, vote_labels
from eval.report.cases import BETWEEN_RUNS, BY_SECOND_LOOK, BY_VOTE, UNREADABLE, Outcomes, query_flags
from eval.types import QueryResults, Run
from retrieval.labels import display_name

NO_ROW: Final = -1  # of a query whose picture could not be read
OTHER_ANSWER: Final = "another answer"
UNREADABLE_CODE: Final = "unreadable"


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
        return {one.name: getattr(self, one.name) for one in fields(self)}


@dataclass(frozen=True, eq=False)
class QueryTable:
    """Queries with one answer each, or with two to be compared."""

    heads: tuple[str, ...]  # whose answers they are
    outcomes: tuple[Outcomes, ...]  # to choose from
    names: list[str]  # of data sets
    dataset: Int[np.ndarray, " queries"]  # places in ``names``
    rows: Int[np.ndarray, "queries sides"]  # in each side's `QueryResults`
    ids: list[str]
    truths: list[AbstractSet[str]]
    answers: list[list[str]]  # of each side; "" where the picture could not be read
    flags: Int[np.ndarray, " queries"]  # as in `eval.report.cases`
    reasons: list[str]  # codes, of the last side; "" where no model was there to be asked
    unreadable: dict[tuple[str, str], str] = field(default_factory=dict)  # data set and id → why

    def __len__(self) -> int:
        return len(self.ids)

    def prepare(self) -> "QueryTable":
        """Return it with everything at hand that filters look at."""
        _ = self.reason_codes, self.labels, self._other_answer, self._texts
        return self

    @cached_property
    def reason_codes(self) -> list[str]:
        """The different codes, the most frequent first."""
        codes, counts = np.unique(self._reasons, return_counts=True)
        return [code for code in codes[np.argsort(-counts, kind="stable")].tolist() if code]

    @cached_property
    def labels(self) -> list[str]:
        """Every label that is right for a query."""
        return sorted(set().union(*set(self.truths)))

    @cached_property
    def _reasons(self) -> Shaped[np.ndarray, " queries"]:
        return np.array(self.reasons, dtype=str)

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
            place = self.names.index(filters.dataset) if filters.dataset in self.names else NO_ROW
            yield self.dataset == place
        if filters.label:
            yield np.fromiter((filters.label in truth for truth in self.truths), bool, len(self))
        if filters.outcome:
            yield self._with_outcome(filters.outcome)
        if filters.reason:
            yield self._reasons == filters.reason
        if filters.text:
            wanted = filters.text.casefold()
            yield np.fromiter((wanted in text for text in self._texts), bool, len(self))

    def _with_outcome(self, name: str) -> Bool[np.ndarray, " queries"]:
        if name == OTHER_ANSWER:
            return self._other_answer
        choice = next((one for one in self.outcomes if one.name == name), None)
        if choice is None:
            return np.zeros(len(self), bool)
        mask: Bool[np.ndarray, " queries"] = (self.flags & choice.mask) == choice.value
        return mask

    @property
    def outcome_names(self) -> list[str]:
        """The outcomes that can be asked for."""
        return [OTHER_ANSWER] * (len(self.answers) > 1) + [choice.name for choice in self.outcomes]

    def find(self, dataset: str, query: str) -> int | None:
        """Return the place of a query; None where it is not there."""
        places = (place for place, known in enumerate(self.ids) if known == query)
        return next((place for place in places if self.names[self.dataset[place]] == dataset), None)


def table_of_run(run: Run) -> QueryTable:
    """Return the queries of a run: the vote's answers, and beside them the final ones where a model was asked."""
    asked = any(results.outcomes is not None for results in run.results.values())
    parts = [_part(name, results, asked=asked) for name, results in run.results.items()]
    heads = ("vote", "with the model") if asked else ("vote",)
    return _joined(heads, BY_SECOND_LOOK if asked else BY_VOTE, parts)


def table_of_two(heads: tuple[str, str], before: Run, after: Run) -> QueryTable:
    """Return the queries that two runs answered, with the final answers of both.

    Raises:
        RunError: other labels are right for the same id.
    """
    first, second = answer_all(before, final_labels), answer_all(after, final_labels)
    pairs = {
        name: pair_queries(first[name], second[name], dataset=name, after_name=heads[1])
        for name in first
        if name in second
    }
    return _joined(heads, BETWEEN_RUNS, [_pair(name, found) for name, found in pairs.items()])


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """One data set's part of a table."""

    name: str
    rows: Int[np.ndarray, "queries sides"]
    ids: list[str]
    truths: list[AbstractSet[str]]
    answers: list[list[str]]
    flags: Int[np.ndarray, " queries"]
    reasons: list[str]
    unreadable: Mapping[str, str] = field(default_factory=dict)


def _part(name: str, results: QueryResults, *, asked: bool) -> _Part:
    answers = [vote_labels(results), final_labels(results)] if asked else [vote_labels(results)]
    gone = results.unreadable
    rows = np.concatenate([np.arange(len(results)), np.full(len(gone), NO_ROW)])
    return _Part(
        name=name,
        rows=np.repeat(rows[:, None], len(answers), axis=1),
        ids=[*results.ids, *gone],
        truths=[*results.truths, *[frozenset()] * len(gone)],
        answers=[[*answer, *[""] * len(gone)] for answer in answers],
        flags=np.concatenate([query_flags(results, answers), np.full(len(gone), UNREADABLE)]),
        reasons=[*_codes(results, range(len(results))), *[UNREADABLE_CODE] * len(gone)],
        unreadable=gone,
    )


def _pair(name: str, pairs: Pairs) -> _Part:
    before, after = pairs.right
    return _Part(
        name=name,
        rows=np.stack([pairs.before_rows, pairs.after_rows], axis=1),
        ids=pairs.ids,
        truths=list(pairs.truths),
        answers=[labels.tolist() for labels in pairs.labels],
        flags=before.astype(np.int64) | after.astype(np.int64) << 1,
        reasons=_codes(pairs.after.results, pairs.after_rows.tolist()),
    )


def _codes(results: QueryResults, rows: Sequence[int]) -> list[str]:
    return [""] * len(rows) if results.outcomes is None else [results.outcomes[row].code for row in rows]


def _joined(heads: tuple[str, ...], outcomes: tuple[Outcomes, ...], parts: list[_Part]) -> QueryTable:
    nothing = np.zeros((0, len(heads)), np.int64)
    return QueryTable(
        heads=heads,
        outcomes=outcomes,
        names=[part.name for part in parts],
        dataset=np.repeat(np.arange(len(parts)), [len(part.ids) for part in parts]),
        rows=np.concatenate([nothing, *(part.rows for part in parts)]),
        ids=[query for part in parts for query in part.ids],
        truths=[truth for part in parts for truth in part.truths],
        answers=[[label for part in parts for label in part.answers[side]] for side in range(len(heads))],
        flags=np.concatenate([nothing[:, 0], *(part.flags for part in parts)]),
        reasons=[reason for part in parts for reason in part.reasons],
        unreadable={(part.name, query): why for part in parts for query, why in part.unreadable.items()},
    )
