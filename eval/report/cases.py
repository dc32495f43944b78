"""What a page shows of some queries beside their columns, in the manner of the paper's Figures 5 and 6."""

import base64
import random
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Int

from eval.metrics.votes import are_right, final_labels, vote_labels
from eval.runs.log import lines_at
from eval.types import Dataset, Outcome, QueryResults, Sample
from eval.wording import one_line, some_lines
from prompts.render import Exemplar, render
from prompts.template import Template, load_template
from prompts.types import MOST_CODES, UnknownPrompt
from retrieval.errors import ImageError
from retrieval.images import ImageLike, decode, thumbnail
from retrieval.labels import display_name
from retrieval.memory import VisualMemory
from retrieval.types import Neighbor, Votes
from retrieval.voting import count_votes

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


QUERY_PIXELS: Final = 160
NEIGHBOR_PIXELS: Final = 96
_QUALITY: Final = 75  # of JPEG: half the bytes of 85, and as good at this size
NO_PICTURE: Final = -1


class Pictures:
    """The pictures of a page."""

    def __init__(self) -> None:
        self.encoded: list[str] = []  # JPEG in base64, by number
        self._numbers: dict[Hashable, int] = {}

    def query(self, sample: Sample | None, key: Hashable) -> int:
        """Return the number of a query's picture, -1 where there is none that can be used."""
        return self._number(key, None if sample is None else sample.picture, QUERY_PIXELS)

    def neighbor(self, stored: bytes | None, key: Hashable) -> int:
        """Return the number of a neighbour's picture, -1 where the memory keeps none."""
        return self._number(key, None if stored is None else lambda: stored, NEIGHBOR_PIXELS)

    def _number(self, key: Hashable, read: Callable[[], ImageLike] | None, pixels: int) -> int:
        if key not in self._numbers:
            small = None if read is None else scaled(read, pixels)
            self._numbers[key] = NO_PICTURE if small is None else len(self.encoded)
            if small is not None:
                self.encoded.append(base64.b64encode(small).decode())
        return self._numbers[key]


def find_samples(dataset: Dataset | None, ids: Sequence[str]) -> list[Sample | None]:
    """Return some of a data set's samples by their ids; None for those that are no longer there."""
    wanted = set(ids)
    found = {sample.id: sample for sample in dataset.samples if sample.id in wanted} if dataset else {}
    return [found.get(query) for query in ids]


def scaled(read: Callable[[], ImageLike], pixels: int) -> bytes | None:
    """Return a picture as JPEG that fits so many pixels; None where it cannot be used."""
    try:
        return thumbnail(decode(read()), longest_side=pixels, quality=_QUALITY)
    except ImageError:  # a file that is gone by now leaves a gap on the page
        return None


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


SHOWN_NEIGHBORS: Final = 10
SHOWN_VOTES: Final = 5
_TOGETHER: Final = 20  # queries whose neighbours' pictures are read at once
_FLIPS, _ERRORS, _RIGHT = 0.4, 0.4, 0.2  # parts of the pictured queries, where there are enough of each
SAME_LABEL: Final = 1  # bits of a neighbour's flags
EVIDENCE: Final = 2


@dataclass(frozen=True, slots=True)
class Source:
    """Where a run's texts and pictures are found again; whatever is missing is left out of the page."""

    folder: Path  # of the run
    memory: VisualMemory | None
    recomposer: Recomposer | None
    words: Words
    pictures: Pictures

    def neighbor_picture(self, item: str, stored: Mapping[str, bytes | None]) -> int:
        """Return the number of a neighbour's picture."""
        return self.pictures.neighbor(stored.get(item), (self.memory.path if self.memory else None, item))


def share_out(pictured: int, groups: int) -> list[int]:
    """Return how many pictured queries each of some groups gets; what is left over goes to the first ones."""
    return [pictured // groups + (place < pictured % groups) for place in range(groups)]


def choose_pictured(flags: Int[np.ndarray, " queries"], count: int, *, second_look: bool) -> list[int]:
    """Return the rows of some queries, in order: flips and errors first, some right ones, drawn with a fixed seed."""
    first, second = (flags & FIRST_RIGHT) > 0, (flags & SECOND_RIGHT) > 0
    flipped = (first != second) & second_look
    final = second if second_look else first
    pools = [np.flatnonzero(mask).tolist() for mask in (flipped, ~final & ~flipped, final & ~flipped)]
    draw = random.Random(0)
    for pool in pools:
        draw.shuffle(pool)
    quotas = [round(part * count) for part in (_FLIPS, _ERRORS, _RIGHT)]
    chosen = [row for pool, quota in zip(pools, quotas, strict=True) for row in pool[:quota]]
    rest = [row for pool, quota in zip(pools, quotas, strict=True) for row in pool[quota:]]
    return sorted((chosen + rest)[:count])


def make_views(
    source: Source, results: QueryResults, rows: Sequence[int], *, second_look: bool = True
) -> Iterator[dict[str, Any]]:
    """Yield, for some queries, what a run saw: neighbours, votes, and of the second look prompt and replies.

    Raises:
        RunError: the run's log is not the one of these results.
        NotAMemory: the memory is damaged.
    """
    for start in range(0, len(rows), _TOGETHER):
        some = list(rows[start : start + _TOGETHER])
        records = records_of(source.folder, results, some) if second_look else [{}] * len(some)
        codes, distances = results.neighbor_labels.codes[some], results.neighbor_distances[some]
        votes = count_votes(codes, distances, factors=results.factors(some))
        stored = _stored_pictures(source.memory, results, some)
        for row, record, vote in zip(some, records, votes, strict=True):
            near, named = neighbors_of(results, row), named_votes(vote, results)
            seen = _view(source, near, results.truths[row], named, record.get("evidence", ()), stored)
            yield seen | _conversation(source, near, named, record, stored)


def _conversation(
    source: Source,
    near: Sequence[Neighbor],
    votes: Votes,
    record: Mapping[str, Any],
    stored: Mapping[str, bytes | None],
) -> dict[str, Any]:
    if not record.get("replies"):
        return {}
    replies = [[some_lines(reply["text"]), reply_origin(reply)] for reply in record["replies"]]
    if source.recomposer is None or source.memory is None:  # which tells the neighbours that were shown with a picture
        return {"replies": replies}
    return {"replies": replies, "prompt": some_lines(source.recomposer.prompt(near, votes, stored))}


def _view(
    source: Source,
    near: Sequence[Neighbor],
    truth: frozenset[str],
    votes: Votes,
    evidence: Sequence[str],
    stored: Mapping[str, bytes | None],
) -> dict[str, Any]:
    """Return the nearest neighbours, and those farther away that the model names as its evidence in the last places."""
    named = set(evidence)
    far = [rank for rank, n in enumerate(near) if rank >= SHOWN_NEIGHBORS and n.id in named][:SHOWN_NEIGHBORS]
    ranks = [*range(min(len(near), SHOWN_NEIGHBORS - len(far))), *far]
    shown = [
        [
            rank + 1,
            source.neighbor_picture(near[rank].id, stored),
            source.words.label(near[rank].label),
            round(near[rank].distance, 3),
            SAME_LABEL * (near[rank].label in truth) + EVIDENCE * (near[rank].id in named),
        ]
        for rank in ranks
    ]
    percents = list(zip(votes.labels, votes.percents, strict=True))[:SHOWN_VOTES]
    return {"near": shown, "votes": [[source.words.label(label), percent] for label, percent in percents]}


def records_of(folder: Path, results: QueryResults, rows: Sequence[int]) -> list[Mapping[str, Any]]:
    """Return what the log holds of the second look at some queries."""
    if results.outcomes is None or not len(results.places):
        return [{}] * len(rows)
    return [line.get("rerank", {}) for line in lines_at(folder, [results.places[row] for row in rows])]


def _stored_pictures(
    memory: VisualMemory | None, results: QueryResults, rows: Sequence[int]
) -> dict[str, bytes | None]:
    if memory is None:
        return {}
    codes = np.unique(results.neighbor_ids.codes[list(rows)])
    ids = [results.neighbor_ids.names[code] for code in codes.tolist()]
    return dict(zip(ids, memory.thumbnails(ids), strict=True))


def neighbors_of(results: QueryResults, row: int) -> tuple[Neighbor, ...]:
    """Return the neighbours of a query, nearest first."""
    factors = results.factors(row)
    found = zip(
        results.neighbor_ids.of(row),
        results.neighbor_labels.of(row),
        results.neighbor_distances[row].tolist(),
        [1.0] * results.k if factors is None else factors.tolist(),
        strict=True,
    )
    return tuple(Neighbor(item, label, distance, -1, factor) for item, label, distance, factor in found)


def named_votes(votes: Votes, results: QueryResults) -> Votes:
    """Return votes for labels in place of those for their numbers."""
    return Votes(tuple(results.neighbor_labels.names[code] for code in votes.labels), votes.weights)


def reply_origin(reply: Mapping[str, Any]) -> str:
    """Return who gave a reply, from its record in a log."""
    told = [one_line(reply.get("served_by") or ""), "from the cache" if reply.get("from_cache") else ""]
    return ", ".join(filter(None, told))
