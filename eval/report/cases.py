"""What a page shows of the queries of a run: all of them as columns, and some as decision cards with their pictures.

The cards are in the manner of the paper's Figures 5 and 6.
"""

import random
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Int

from agent.card import Address, Card, View, jpeg_address, label_text, make_view
from eval.metrics.votes import are_right, final_labels, vote_labels
from eval.runs.log import lines_at
from eval.types import Dataset, QueryResults, Sample
from prompts.render import Exemplar, render
from prompts.template import Template, load_template
from prompts.types import MOST_CODES, UnknownPrompt
from retrieval.errors import ImageError
from retrieval.images import ImageLike, decode, thumbnail
from retrieval.labels import display_name
from retrieval.memory import VisualMemory
from retrieval.support.html import EVIDENCE
from retrieval.support.terminal import printable
from retrieval.types import Neighbor, Votes
from retrieval.voting import count_votes

# Bits of a query's flags. Those of its one or two answers say whether they are right, the first answer's first.
FIRST_RIGHT: Final = 1
SECOND_RIGHT: Final = 2
FELL_BACK: Final = 4  # the model was asked, and the vote decided
UNREADABLE: Final = 8
_NO_FALLBACK: Final = frozenset({"reranked", "decisive", "no_model"})
T = TypeVar("T", bound=Hashable)
R = TypeVar("R")
NO_ANSWER: Final = -1
NO_ROW: Final = -1  # of a query whose picture could not be read


class Outcomes(NamedTuple):
    """A choice of the filter: queries with ``flags & mask == value``."""

    name: str
    mask: int
    value: int


_BOTH: Final = FIRST_RIGHT | SECOND_RIGHT
BY_VOTE: Final = (
    Outcomes("right", FIRST_RIGHT, FIRST_RIGHT),
    Outcomes("wrong", FIRST_RIGHT | UNREADABLE, 0),
    Outcomes("unreadable pictures", UNREADABLE, UNREADABLE),
)
BY_SECOND_LOOK: Final = (
    Outcomes("right", SECOND_RIGHT, SECOND_RIGHT),
    Outcomes("wrong", SECOND_RIGHT | UNREADABLE, 0),
    Outcomes("fixed", _BOTH, SECOND_RIGHT),
    Outcomes("broken", _BOTH, FIRST_RIGHT),
    Outcomes("asked, but the vote decided", FELL_BACK, FELL_BACK),
    Outcomes("unreadable pictures", UNREADABLE, UNREADABLE),
)
BETWEEN_RUNS: Final = (
    Outcomes("fixed", _BOTH, SECOND_RIGHT),
    Outcomes("broken", _BOTH, FIRST_RIGHT),
    Outcomes("wrong either way", _BOTH, 0),
    Outcomes("right either way", _BOTH, _BOTH),
)


@dataclass(slots=True)
class Words:
    """Texts that many queries share, each with a number."""

    labels: dict[str, int] = field(default_factory=dict)
    truths: dict[AbstractSet[str], int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)

    def label(self, label: str) -> int:
        """Return a label's number; "" is no answer."""
        return self.labels.setdefault(label, len(self.labels)) if label else NO_ANSWER

    def tables(self) -> dict[str, Any]:
        """Return the texts by number, for people: call it when every text is in."""
        return {
            "truths": [sorted(map(self.label, truth)) for truth in self.truths],  # first: it may add labels
            "labels": list(map(printable, self.labels)),
            "names": [printable(display_name(label)) for label in self.labels],
            "reasons": [printable(reason, longest=500) for reason in self.reasons],
        }


@dataclass(frozen=True, slots=True, eq=False)
class Queries:
    """The queries of one data set as columns, with one answer each, or with two to be compared."""

    name: str  # of the data set
    heads: tuple[str, ...]  # whose answers they are
    rows: Int[np.ndarray, "queries sides"]  # in each side's `QueryResults`; -1 where the picture could not be read
    ids: list[str]
    truths: list[AbstractSet[str]]
    answers: list[list[str]]  # of each side; "" where the picture could not be read
    flags: Int[np.ndarray, " queries"]
    reasons: list[str]  # "code: sentence" of the last side; "" where no model was there to be asked
    confidences: list[float | None]

    def in_order(self, order: Int[np.ndarray, " some"]) -> "Queries":
        """Return the queries in another order."""
        places = order.tolist()

        def moved(column: list[Any]) -> list[Any]:
            return list(map(column.__getitem__, places))

        return replace(
            self,
            rows=self.rows[order],
            ids=moved(self.ids),
            truths=moved(self.truths),
            answers=list(map(moved, self.answers)),
            flags=self.flags[order],
            reasons=moved(self.reasons),
            confidences=moved(self.confidences),
        )

    def columns(self, words: Words) -> dict[str, Any]:
        """Return the columns as the page's script reads them."""
        return {
            "name": printable(self.name),
            "heads": [printable(head, longest=60) for head in self.heads],
            "ids": list(map(printable, self.ids)),
            "truths": _mapped(self.truths, lambda truth: words.truths.setdefault(truth, len(words.truths))),
            "answers": [_mapped(answer, words.label) for answer in self.answers],
            "flags": self.flags.tolist(),
            "reasons": _mapped(self.reasons, lambda reason: words.reasons.setdefault(reason, len(words.reasons))),
            "confidences": _mapped(self.confidences, lambda sure: None if sure is None else round(sure, 3)),
        }

    def card(self, place: int, views: Sequence[View] = (), query: Address = None, *, pictured: bool = True) -> Card:
        """Return one query as a card; the page's script says the same of those that have none."""
        flags, about = int(self.flags[place]), [f"{self.name}: {printable(self.ids[place])}"]
        answers = [label_text(answer[place]) for answer in self.answers]
        verdict, outcome = "The picture could not be used", ""
        if not flags & UNREADABLE:
            marks = ["✓" if flags >> side & 1 else "✗" for side in range(len(answers))]
            outcome = "right" if marks[-1] == "✓" else "wrong"
            truth = " or ".join(map(label_text, sorted(self.truths[place])))
            verdict = f"{marks[-1]} {outcome}: {answers[-1]}" + ("" if outcome == "right" else f", but it is {truth}")
            if len(answers) > 1:
                told = zip(map(printable, self.heads), marks, answers, strict=True)
                about.append(" · ".join(f"{head}: {mark} {answer}" for head, mark, answer in told))
        if self.reasons[place]:
            sure = self.confidences[place]
            about.append(self.reasons[place] + ("" if sure is None else f" (confidence {round(100 * sure)} %)"))
        return Card(verdict, tuple(about), outcome, query, pictured, tuple(views))


def _mapped(values: Sequence[T], to: Callable[[T], R]) -> list[R]:
    """Return what a function gives for each value; it is asked once about those that are equal."""
    found = {value: to(value) for value in dict.fromkeys(values)}
    return [found[value] for value in values]


def queries_of_run(name: str, results: QueryResults, *, asked: bool) -> Queries:
    """Return a data set's queries, those with unreadable pictures last.

    Args:
        name: the data set's.
        results: the queries.
        asked: whether the final answers stand beside the vote's.
    """
    answers = [vote_labels(results), final_labels(results)] if asked else [vote_labels(results)]
    gone, outcomes = results.unreadable, results.outcomes
    rows = np.concatenate([np.arange(len(results)), np.full(len(gone), NO_ROW)])
    reasons = [""] * len(results) if outcomes is None else [outcome.reason for outcome in outcomes]
    sure = [None] * len(results) if outcomes is None else [outcome.confidence for outcome in outcomes]
    return Queries(
        name=name,
        heads=("vote", "with the model")[: len(answers)],
        rows=np.repeat(rows[:, None], len(answers), axis=1),
        ids=[*results.ids, *gone],
        truths=[*results.truths, *[frozenset[str]()] * len(gone)],
        answers=[[*answer, *[""] * len(gone)] for answer in answers],
        flags=np.concatenate([_flags(results, answers), np.full(len(gone), UNREADABLE)]),
        reasons=[*reasons, *(f"unreadable: {reason}" for reason in gone.values())],
        confidences=[*sure, *[None] * len(gone)],
    )


def _flags(results: QueryResults, answers: Sequence[Sequence[str]]) -> Int[np.ndarray, " queries"]:
    flags = np.zeros(len(results), np.int64)
    for place, answer in enumerate(answers):
        flags |= are_right(answer, results.truths).astype(np.int64) << place
    if results.outcomes is not None:
        reasons = [outcome.reason for outcome in results.outcomes]
        fell_back = _mapped(reasons, lambda reason: reason.partition(":")[0] not in _NO_FALLBACK)
        flags |= FELL_BACK * np.array(fell_back, np.int64)
    return flags


def reading_order(
    flags: Int[np.ndarray, " queries"], pictured: Sequence[int], *, second_look: bool
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


_QUERY_PIXELS: Final = 160
_NEIGHBOR_PIXELS: Final = 96
_QUALITY: Final = 75  # of JPEG: half the bytes of 85, and as good at this size


class Pictures:
    """The pictures of a page."""

    def __init__(self) -> None:
        self.addresses: list[Address] = []  # by number
        self._numbers: dict[Hashable, int | None] = {}

    def query(self, sample: Sample | None, key: Hashable) -> int | None:
        """Return the number of a query's picture, None where there is none that can be used."""
        return self._number(key, sample.picture if sample else None, _QUERY_PIXELS)

    def neighbor(self, stored: bytes | None, key: Hashable) -> int | None:
        """Return the number of a neighbour's picture, None where the memory keeps none."""
        return self._number(key, None if stored is None else lambda: stored, _NEIGHBOR_PIXELS)

    def _number(self, key: Hashable, read: Callable[[], ImageLike] | None, pixels: int) -> int | None:
        if key not in self._numbers:
            small = scaled(read, pixels) if read else None
            self._numbers[key] = None if small is None else len(self.addresses)
            self.addresses += [] if small is None else [jpeg_address(small)]
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


def find_template(settings: Mapping[str, Any]) -> Template | None:
    """Return the template of a run's settings; None where it has changed, or showed more than the log holds."""
    name, _, digest = str(settings.get("rerank", {}).get("prompt", "")).rpartition(" ")
    try:
        template = load_template(name)
    except UnknownPrompt:
        return None
    same = bool(digest) and template.digest.startswith(digest)
    logged = template.neighbors != "balanced" and template.candidates == "voted"
    return template if same and logged else None


def recompose(
    template: Template, neighbors: Sequence[Neighbor], votes: Votes, stored: Mapping[str, bytes | None]
) -> str:
    """Return the text of a query's prompt in its first order, each picture as ``[picture N]``.

    Args:
        template: from `find_template`.
        neighbors: all that voted, nearest first.
        votes: theirs.
        stored: the pictures that the memory keeps, by id.
    """
    exemplars = [Exemplar(n.label, _STAND_IN if stored.get(n.id) else None, n.distance) for n in neighbors]
    candidates = dict(list(zip(votes.labels, votes.shares, strict=True))[:MOST_CODES])
    return render(template, _STAND_IN, exemplars, candidates).text


_TOGETHER: Final = 20  # queries whose neighbours' pictures are read at once
_PARTS: Final = (0.4, 0.4, 0.2)  # flips, errors and right ones among pictured queries, where there are enough of each
Stored = Mapping[str, bytes | None]  # pictures that a memory keeps, by id


@dataclass(frozen=True, slots=True)
class Source:
    """Where a run's texts and pictures are found again; whatever is missing is left out of the page."""

    folder: Path  # of the run
    memory: VisualMemory | None
    template: Template | None  # that prompts are put together again by
    addresses: Callable[[list[Neighbor], Stored], Sequence[Address]]  # of neighbours' pictures

    def stored(self, ids: Sequence[str]) -> Stored:
        """Return the pictures that the memory keeps of some items."""
        return {} if self.memory is None else dict(zip(ids, self.memory.thumbnails(ids), strict=True))


def file_source(folder: Path, memory: VisualMemory | None, settings: Mapping[str, Any], pictures: Pictures) -> Source:
    """Return a source whose pictures are numbers among those of a page."""
    lies = memory.path if memory else None
    return Source(
        folder,
        memory,
        find_template(settings),
        lambda near, stored: [pictures.neighbor(stored.get(one.id), (lies, one.id)) for one in near],
    )


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
    quotas = [round(part * count) for part in _PARTS]
    chosen = [row for pool, quota in zip(pools, quotas, strict=True) for row in pool[:quota]]
    rest = [row for pool, quota in zip(pools, quotas, strict=True) for row in pool[quota:]]
    return sorted((chosen + rest)[:count])


def make_views(
    source: Source, results: QueryResults, rows: Sequence[int], *, title: str = "", second_look: bool = True
) -> Iterator[View]:
    """Yield, for some queries, what a run saw: neighbours, votes, and of the second look prompt and replies.

    Raises:
        RunError: the run's log is not the one of these results.
        NotAMemory: the memory is damaged.
    """
    for start in range(0, len(rows), _TOGETHER):
        some = list(rows[start : start + _TOGETHER])
        records: list[Mapping[str, Any]] = [{}] * len(some)
        if second_look and results.outcomes is not None and len(results.places):
            lines = lines_at(source.folder, [results.places[row] for row in some])
            records = [line.get("rerank", {}) for line in lines]
        codes, distances = results.neighbor_labels.codes[some], results.neighbor_distances[some]
        votes = count_votes(codes, distances, factors=results.factors(some))
        shown = np.unique(results.neighbor_ids.codes[some]).tolist() if source.memory else []
        stored = source.stored([results.neighbor_ids.names[code] for code in shown])
        for row, record, vote in zip(some, records, votes, strict=True):
            labels = tuple(results.neighbor_labels.names[code] for code in vote.labels)
            seen = _view(source, results, row, Votes(labels, vote.weights), record, stored)
            yield replace(seen, title=title)


def _view(
    source: Source, results: QueryResults, row: int, votes: Votes, record: Mapping[str, Any], stored: Stored
) -> View:
    near = neighbors_of(results, row)
    seen = make_view(
        near,
        votes,
        evidence=dict.fromkeys(record.get("evidence", ()), EVIDENCE),
        truth=results.truths[row],
        pictures=lambda shown: source.addresses(shown, stored),
    )
    if not record.get("replies"):
        return seen
    replies = tuple((reply["text"], _origin(reply)) for reply in record["replies"])
    if source.template is None or source.memory is None:  # which tells the neighbours that were shown with a picture
        return replace(seen, replies=replies)
    return replace(seen, replies=replies, prompt=recompose(source.template, near, votes, stored))


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


def _origin(reply: Mapping[str, Any]) -> str:
    """Return who gave a reply, from its record in a log."""
    return ", ".join(filter(None, [reply.get("served_by") or "", "from the cache" if reply.get("from_cache") else ""]))
