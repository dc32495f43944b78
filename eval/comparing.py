"""Two runs on the same queries: what one gets right that the other does not, and whether that may be chance.

Queries are paired by data set and id. The tests are McNemar's (1947), in its exact form: of the queries that one side
gets right and the other wrong, each is as likely to fall either way where the two are equally good. Where several runs
or data sets are compared, p and the intervals of differences are adjusted by one rule (`eval.metrics.intervals`).
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Final, Literal

import numpy as np
from jaxtyping import Bool, Int, Shaped

from eval.metrics.intervals import (
    ALPHA,
    Adjusted,
    holm,
    mcnemar_p,
    needed_queries,
    paired_interval,
    sign_flip_p,
    wilson_interval,
)
from eval.metrics.votes import are_right, final_labels, vote_labels
from eval.runs.finished import find_unfinished
from eval.runs.log import changed_settings
from eval.types import Interval, Percent, QueryResults, Run, RunError
from retrieval.support.lazy import shown_by
from retrieval.support.terminal import counted, points


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


FlipKind = Literal["fixed", "broken", "wrong either way", "right either way"]
KINDS: Final[tuple[FlipKind, ...]] = ("fixed", "broken", "wrong either way", "right either way")


@dataclass(frozen=True, slots=True)
class MovedClass:
    """A true label some of whose queries were fixed or broken."""

    label: str
    count: int  # queries for which the label is right
    fixed: int
    broken: int
    p: float  # exact McNemar, two-sided
    q: float  # p by Benjamini and Hochberg's method, over the moved classes of the data set

    @property
    def net(self) -> int:
        """Queries won; below 0: lost."""
        return self.fixed - self.broken


@dataclass(frozen=True, slots=True)
class Flip:
    """A query that got another answer."""

    id: str
    truth: frozenset[str]
    before: str  # the answers
    after: str
    kind: FlipKind
    before_row: int  # its place in its side's `QueryResults`
    after_row: int


def moved_classes(pairs: Pairs) -> list[MovedClass]:
    """Return the true labels some of whose queries were fixed or broken, most moved first.

    A query with several right labels counts for each of them. Labels none of whose queries changed are no tests, and
    the adjustment of p leaves them out.
    """
    from scipy.stats import false_discovery_control

    truths, change = pairs.truths, pairs.change
    fixed, broken = (
        Counter(label for pair in np.flatnonzero(change == sign).tolist() for label in truths[pair]) for sign in (1, -1)
    )
    labels = sorted(fixed.keys() | broken.keys())
    if not labels:
        return []
    counts = Counter(chain.from_iterable(truths))
    p = mcnemar_p(*(np.array([moved[label] for label in labels]) for moved in (fixed, broken)))
    moved = [
        MovedClass(label, counts[label], fixed[label], broken[label], *both)
        for label, *both in zip(labels, p.tolist(), false_discovery_control(p).tolist(), strict=True)
    ]
    return sorted(moved, key=lambda one: (-abs(one.net), -one.fixed - one.broken))


def list_flips(pairs: Pairs) -> list[Flip]:
    """Return the queries that got another answer, in the order of the first side."""
    before, after = pairs.labels
    was_right, is_right = pairs.right
    # In KINDS' order: wrong and right, right and wrong, both wrong, both right.
    kind = np.where(was_right == is_right, 2 + is_right, was_right)
    ids, truths = pairs.before.results.ids, pairs.before.results.truths
    return [
        Flip(ids[row], truths[row], before[pair], after[pair], KINDS[kind[pair]], row, int(pairs.after_rows[pair]))
        for pair, row in zip(
            np.flatnonzero(before != after).tolist(), pairs.before_rows[before != after].tolist(), strict=True
        )
    ]


@dataclass(frozen=True, slots=True)
class Side:
    """Whose answers are compared."""

    name: str  # as tables show it; other for every side of a comparison
    run: int  # place of its run among those that were compared
    vote: bool  # True: rank voting's answers, though the run asked a model
    centred: str  # `RunInfo.centred`: not empty means that the run is transductive
    unfinished: list[str]  # sentences on data sets that the run has not got through; those queries do not count


@dataclass(frozen=True, slots=True)
class PairedFigures:
    """Two answers to the same queries; a difference is after less before, in points."""

    count: int  # queries that both sides answered
    before: Percent  # top-1
    before_interval: Interval  # Wilson, 95 %
    after: Percent
    after_interval: Interval
    difference: Percent
    difference_interval: Interval  # paired bootstrap, 95 %, adjusted as p is: it holds 0 where adjusted is 0.05 or more
    fixed: int  # wrong before, right after
    broken: int  # right before, wrong after
    p: float  # exact McNemar, two-sided
    adjusted: float  # p by Holm's method, over the data sets and runs of the comparison; overall: over its runs

    @property
    def discordant(self) -> Percent:
        """Queries on which the two differ in being right, in percent."""
        return 100.0 * (self.fixed + self.broken) / self.count


@dataclass(frozen=True, slots=True, eq=False)
class DatasetComparison:
    """Two sides on one data set."""

    name: str
    figures: PairedFigures
    only_before: int  # queries that the other side did not answer; they do not count
    only_after: int
    classes: list[MovedClass]  # most moved first, by |net|, then by fixed and broken together
    flips: list[Flip]  # in the order of the first side's log


@dataclass(frozen=True, slots=True, eq=False)
class RunComparison:
    """A side against the baseline."""

    after: Side
    datasets: list[DatasetComparison]  # those that both hold, in the baseline's order
    overall: PairedFigures  # each query counts the same, so that large data sets weigh more
    repeated: int  # pictures that stand in several data sets; overall draws them together and tests them as one
    missing: list[str]  # data sets of either without a query that both answered
    changed: dict[str, tuple[Any, Any]]  # settings in which the runs differ: before, after; None where it has none;
    # settings within settings by both their names, as in "memory version"


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """A baseline and what was compared with it."""

    before: Side
    others: list[RunComparison]

    _repr_html_ = shown_by("eval.report.printing", "comparison_html")


def compare_runs(runs: Sequence[tuple[str, Run]]) -> Comparison:
    """Compare final answers with those of the first run.

    Args:
        runs: two or more, each with a name that no other has.

    Raises:
        RunError: a run shares no query with the first, or has other right labels for the same id.
    """
    sides = [_side(name, run, place=place, vote=False) for place, (name, run) in enumerate(runs)]
    answers = [answer_all(run, final_labels) for _, run in runs]
    changed = [changed_settings(runs[0][1].info.settings, run.info.settings) for _, run in runs]
    return _compare(sides, answers, changed)


def compare_with_vote(name: str, run: Run) -> Comparison:
    """Compare a run's final answers with what its vote alone would have answered.

    Raises:
        RunError: the run asked no model.
    """
    if all(results.outcomes is None for results in run.results.values()):
        raise RunError(f"{name} asked no model, so that its answers are its vote's: give a second run to compare with")
    sides = [_side(f"{name} (vote)", run, place=0, vote=True), _side(name, run, place=0, vote=False)]
    return _compare(sides, [answer_all(run, vote_labels), answer_all(run, final_labels)], [{}, {}])


def _side(name: str, run: Run, *, place: int, vote: bool) -> Side:
    return Side(name, place, vote, run.info.centred, list(map(str, find_unfinished(run))))


def _compare(
    sides: list[Side], answers: list[dict[str, Answers]], changed: list[dict[str, tuple[Any, Any]]]
) -> Comparison:
    paired = [
        _pair_sides(sides[0], side, answers[0], found) for side, found in zip(sides[1:], answers[1:], strict=True)
    ]
    each = [[_Change.of([pair]) for pair in pairs.values()] for pairs, _ in paired]
    overall = [_Change.of(list(pairs.values())) for pairs, _ in paired]
    tests = iter(holm([change.p for changes in each for change in changes]))
    others = [
        RunComparison(
            after=side,
            datasets=[
                DatasetComparison(
                    name=name,
                    figures=change.figures(next(tests)),
                    only_before=len(pair.before.results) - len(pair.before_rows),
                    only_after=len(pair.after.results) - len(pair.after_rows),
                    classes=moved_classes(pair),
                    flips=list_flips(pair),
                )
                for (name, pair), change in zip(pairs.items(), changes, strict=True)
            ],
            overall=together.figures(test),
            repeated=together.repeated,
            missing=missing,
            changed=differing,
        )
        for side, (pairs, missing), changes, together, test, differing in zip(
            sides[1:], paired, each, overall, holm([change.p for change in overall]), changed[1:], strict=True
        )
    ]
    return Comparison(sides[0], others)


def _pair_sides(
    baseline: Side, side: Side, before: dict[str, Answers], after: dict[str, Answers]
) -> tuple[dict[str, Pairs], list[str]]:
    """Return the queries that both sides answered by data set, and the data sets of which there are none."""
    found = {
        name: pair_queries(before[name], after[name], dataset=name, after_name=side.name)
        for name in before
        if name in after
    }
    pairs = {name: pair for name, pair in found.items() if len(pair.before_rows)}
    if not pairs:
        raise RunError(
            f"{baseline.name} and {side.name} share no query: compare runs on the same data sets, under the same names"
        )
    return pairs, sorted((before.keys() | after.keys()) - pairs.keys())


@dataclass(frozen=True, slots=True, eq=False)
class _Change:
    """What one side gets right that the other does not, on one data set or on several together.

    The same id in the same place is the same picture, as in ImageNet's validation set and ReaL: its answers are no
    independent evidence, so they are drawn and tested together. Strata are the data sets, and where ids
    repeat their combinations.
    """

    before: Bool[np.ndarray, " answers"]
    after: Bool[np.ndarray, " answers"]
    counts: Int[np.ndarray, "strata values"]  # as `paired_interval` takes them
    units: int  # different queries
    repeated: int  # of these, those that stand in several data sets

    @classmethod
    def of(cls, pairs: list[Pairs]) -> "_Change":
        numbers: dict[tuple[str, str], int] = {}
        places = [np.array([numbers.setdefault(picture, len(numbers)) for picture in pair.pictures]) for pair in pairs]
        change, stratum, times = (np.zeros(len(numbers), np.int64) for _ in range(3))
        for place, pair in zip(places, pairs, strict=True):
            change[place] += pair.change
            times[place] += 1
            stratum *= 2
            stratum[place] += 1
            stratum = np.unique(stratum, return_inverse=True)[1]  # so that many data sets do not overflow
        counts = np.zeros((stratum.max() + 1, 2 * len(pairs) + 1), np.int64)
        np.add.at(counts, (stratum, change + len(pairs)), 1)
        before, after = (np.concatenate(side) for side in zip(*(pair.right for pair in pairs), strict=True))
        return cls(before, after, counts, len(numbers), int((times > 1).sum()))

    @property
    def p(self) -> float:
        return sign_flip_p(self.counts.sum(axis=0))

    def figures(self, test: Adjusted) -> PairedFigures:
        before, after = self.before, self.after
        return PairedFigures(
            count=len(before),
            before=100.0 * float(before.mean()),
            before_interval=wilson_interval(round(self.units * float(before.mean())), self.units),
            after=100.0 * float(after.mean()),
            after_interval=wilson_interval(round(self.units * float(after.mean())), self.units),
            difference=100.0 * float(after.mean() - before.mean()),
            difference_interval=paired_interval(self.counts, queries=len(before), test=test),
            fixed=int((after & ~before).sum()),
            broken=int((before & ~after).sum()),
            p=test.p,
            adjusted=test.adjusted,
        )


_ASKED: Final = 1.0  # points: the difference for which a sentence says how many queries would tell it
_ROUNDING: Final = 1e-6  # points, less than one query of a hundred million: nothing but the error of floating point


def conclude(before: Side, other: RunComparison) -> str:
    """Say whether a run is better than the baseline over all their queries, and if that is open, what would tell.

    Names of runs stand in it as they came. Its p is adjusted for the number of runs that are compared.
    """
    figures = other.overall
    queries = counted(figures.count, "query")
    if not figures.fixed + figures.broken:
        return (
            f"{other.after.name} and {before.name} are right on the same queries: none of {figures.count:,} tells them "
            "apart."
        )
    if figures.adjusted >= ALPHA:
        return (
            f"No difference between {other.after.name} and {before.name} can be told on {queries} "
            f"({_with_interval(figures)}); {_what_would_tell(figures)}."
        )
    turned = figures if figures.difference > 0 else _turned(figures)
    direction = "better" if turned is figures else "worse"
    names = f"{other.after.name} is {direction} than {before.name}"
    return f"{names} by {_with_interval(turned)} on {queries}."


def describe_setting(setting: object) -> str:
    """Return a setting of a run as people read it; ``none`` for None."""
    if isinstance(setting, Mapping):
        return ", ".join(f"{name} {describe_setting(part)}" for name, part in setting.items())
    return "none" if setting in (None, "") else str(setting)


def format_difference(figures: PairedFigures) -> tuple[str, str]:
    """Return a difference with its sign, and its interval, as ``+1.2`` and ``0.3 to 2.1``.

    They have as many decimals as it takes for no difference, and no end of the interval, to look like none.
    """
    numbers = (figures.difference, *figures.difference_interval)
    smallest = min((abs(number) for number in numbers if abs(number) > _ROUNDING), default=1.0)
    decimals = max(1, math.ceil(-math.log10(smallest)))
    low, high = (f"{end:.{decimals}f}" for end in figures.difference_interval)
    return f"{figures.difference:+.{decimals}f}", f"{low} to {high}"


def format_p(p: float) -> str:
    """Return a p to three decimals, as ``p = 0.002`` or ``p < 0.001``."""
    return f"p = {p:.3f}" if p >= 0.001 else "p < 0.001"


def _what_would_tell(figures: PairedFigures) -> str:
    share = figures.discordant
    if share < _ASKED:
        return f"they differ in being right on {share:.2g} % of the queries only, too few for {points(_ASKED)}"
    needed = needed_queries(difference=_ASKED, discordant=share)
    if needed <= figures.count:
        return f"so many would most likely have told {points(_ASKED)}"
    about = counted(int(float(f"{needed:.2g}")), "query")
    return f"to tell {points(_ASKED)} you would need about {about}"


def _turned(figures: PairedFigures) -> PairedFigures:
    low, high = figures.difference_interval
    return replace(figures, difference=-figures.difference, difference_interval=(-high, -low))


def _with_interval(figures: PairedFigures) -> str:
    difference, interval = format_difference(figures)
    told = points(float(difference), f".{len(difference.partition('.')[2])}f")
    return f"{told}, 95 % interval {interval}, {format_p(figures.adjusted)}"
