"""The queries of a page as columns of small numbers: hundreds of thousands in a few megabytes."""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from jaxtyping import Int

from eval.page.text import one_line
from eval.scoring import are_right, final_labels, vote_labels
from eval.types import Outcome, QueryResults
from retrieval.labels import display_name

# Bits of a query's flags. Those of its one or two answers say whether they are right, the first answer's first.
FIRST_RIGHT: Final = 1
SECOND_RIGHT: Final = 2
FELL_BACK: Final = 4  # the model was asked, and the vote decided
UNREADABLE: Final = 8
_NO_FALLBACK: Final = frozenset({"reranked", "decisive", "no_model"})
NO_ANSWER: Final = -1


@dataclass(frozen=True, slots=True)
class Outcomes:
    """A choice of the filter: queries with ``flags & mask == value``."""

    name: str
    mask: int
    value: int


BY_VOTE: Final = (
    Outcomes("right", FIRST_RIGHT, FIRST_RIGHT),
    Outcomes("wrong", FIRST_RIGHT | UNREADABLE, 0),
    Outcomes("unreadable pictures", UNREADABLE, UNREADABLE),
)
BY_SECOND_LOOK: Final = (
    Outcomes("right", SECOND_RIGHT, SECOND_RIGHT),
    Outcomes("wrong", SECOND_RIGHT | UNREADABLE, 0),
    Outcomes("fixed", FIRST_RIGHT | SECOND_RIGHT, SECOND_RIGHT),
    Outcomes("broken", FIRST_RIGHT | SECOND_RIGHT, FIRST_RIGHT),
    Outcomes("asked, but the vote decided", FELL_BACK, FELL_BACK),
    Outcomes("unreadable pictures", UNREADABLE, UNREADABLE),
)
FLAGS_OF_KIND: Final = {
    "fixed": SECOND_RIGHT,
    "broken": FIRST_RIGHT,
    "wrong either way": 0,
    "right either way": FIRST_RIGHT | SECOND_RIGHT,
}
BETWEEN_RUNS: Final = tuple(Outcomes(kind, FIRST_RIGHT | SECOND_RIGHT, flags) for kind, flags in FLAGS_OF_KIND.items())


@dataclass(slots=True)
class Words:
    """Texts that many queries share, each with a number."""

    labels: dict[str, int] = field(default_factory=dict)
    truths: dict[AbstractSet[str], int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)

    def label(self, label: str) -> int:
        """Return a label's number."""
        return self.labels.setdefault(label, len(self.labels))

    def truth(self, labels: AbstractSet[str]) -> int:
        """Return the number of a set of right labels."""
        return self.truths.setdefault(labels, len(self.truths))

    def reason(self, reason: str) -> int:
        """Return the number of a reason."""
        return self.reasons.setdefault(reason, len(self.reasons))

    def tables(self) -> dict[str, Any]:
        """Return the texts by number, for people: call it when every text is in."""
        truths = [sorted(map(self.label, truth)) for truth in self.truths]
        return {
            "labels": list(map(one_line, self.labels)),
            "names": [one_line(display_name(label)) for label in self.labels],
            "truths": truths,
            "reasons": [one_line(reason, longest=500) for reason in self.reasons],
        }


def answered_columns(name: str, results: QueryResults, words: Words) -> dict[str, Any]:
    """Return a data set's queries as columns, those with unreadable pictures last."""
    votes = vote_labels(results)
    answers = [votes] if results.outcomes is None else [votes, final_labels(results)]
    outcomes = results.outcomes or ()
    left_out = results.unreadable
    return {
        "name": one_line(name),
        "heads": ["vote", "with the model"][: len(answers)],
        "ids": [*map(one_line, results.ids), *map(one_line, left_out)],
        "truths": [*map(words.truth, results.truths), *[words.truth(frozenset())] * len(left_out)],
        "answers": [[*map(words.label, answer), *[NO_ANSWER] * len(left_out)] for answer in answers],
        "flags": [*query_flags(results, answers).tolist(), *[UNREADABLE] * len(left_out)],
        "reasons": [
            *(words.reason(outcome.reason) for outcome in outcomes),
            *([words.reason("")] * (len(results) - len(outcomes))),
            *(words.reason(f"unreadable: {reason}") for reason in left_out.values()),
        ],
        "confidences": confidences(outcomes),
    }


def reading_order(
    flags: Int[np.ndarray, " queries"], pictured: Iterable[int], *, second_look: bool
) -> Int[np.ndarray, " queries"]:
    """Return queries in the order in which a page lists them, those that are wrong in the end first.

    That is: broken, wrong either way, fixed, right either way, unreadable. Among each, those with pictures come first,
    then those that the log has earlier.

    Args:
        flags: of all queries.
        pictured: rows of those that have pictures.
        second_look: whether the second answer is the final one.
    """
    first, second = (flags & FIRST_RIGHT) > 0, (flags & SECOND_RIGHT) > 0
    was, is_ = (first, second) if second_look else (first, first)
    kind = np.where(is_, np.where(was, 3, 2), np.where(was, 0, 1))
    kind[(flags & UNREADABLE) > 0] = 4
    bare = np.ones(len(flags), bool)
    bare[list(pictured)] = False
    return np.lexsort((bare, kind))


def in_order(
    columns: Mapping[str, Any], cases: Mapping[int, Any], order: Int[np.ndarray, " queries"]
) -> tuple[dict[str, Any], dict[int, Any]]:
    """Return a data set's columns, and its pictured queries by row, in another order of the queries."""
    rows = order.tolist()
    moved = {
        name: [column[row] for row in rows] if len(column) == len(rows) else column
        for name in ("ids", "truths", "flags", "reasons", "confidences")
        for column in (columns[name],)
    }
    answers = [[column[row] for row in rows] for column in columns["answers"]]
    place_of = {row: place for place, row in enumerate(rows)}
    return {**columns, **moved, "answers": answers}, {
        place_of[row]: cases[row] for row in sorted(cases, key=place_of.__getitem__)
    }


def query_flags(results: QueryResults, answers: Sequence[Sequence[str]]) -> Int[np.ndarray, " queries"]:
    """Return the flags of answered queries.

    Args:
        results: the queries.
        answers: the vote's, and the second look's where there was one.
    """
    flags = np.zeros(len(results), np.int64)
    for place, answer in enumerate(answers):
        flags |= are_right(answer, results.truths).astype(np.int64) << place
    if results.outcomes is not None:
        asked = (outcome.code not in _NO_FALLBACK for outcome in results.outcomes)
        flags |= FELL_BACK * np.fromiter(asked, np.int64, len(results))
    return flags


def confidences(outcomes: Iterable[Outcome]) -> list[float | None]:
    """Return what was claimed, as exactly as a page shows it."""
    return [None if outcome.confidence is None else round(outcome.confidence, 3) for outcome in outcomes]


def choices(outcomes: Sequence[Outcomes]) -> list[tuple[str, int, int]]:
    """Return the filter's choices as the page's script reads them."""
    return [(choice.name, choice.mask, choice.value) for choice in outcomes]
