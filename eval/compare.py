"""Two runs on the same queries: what one gets right that the other does not, and whether that may be chance.

Queries are paired by data set and id. The tests are McNemar's (1947), in its exact form: of the queries that one side
gets right and the other wrong, each is as likely to fall either way where the two are equally good. Where several runs
or data sets are compared, p and the intervals of differences are adjusted by one rule (`eval.intervals`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from eval.errors import RunError
from eval.flips import KINDS, Flip, FlipKind, MovedClass, list_flips, moved_classes
from eval.gaps import find_unfinished
from eval.intervals import Adjusted, holm, paired_interval, sign_flip_p, wilson_interval
from eval.pairing import Answers, Pairs, answer_all, pair_queries
from eval.scoring import final_labels, vote_labels
from eval.types import Interval, Percent, Run

__all__ = [
    "KINDS",
    "Comparison",
    "DatasetComparison",
    "Flip",
    "FlipKind",
    "MovedClass",
    "PairedFigures",
    "RunComparison",
    "Side",
    "compare_runs",
    "compare_with_vote",
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

    def _repr_html_(self) -> str:
        from eval.comparison_display import comparison_html

        return comparison_html(self)


def compare_runs(runs: Sequence[tuple[str, Run]]) -> Comparison:
    """Compare final answers with those of the first run.

    Args:
        runs: two or more, each with a name that no other has.

    Raises:
        RunError: a run shares no query with the first, or has other right labels for the same id.
    """
    sides = [_side(name, run, place=place, vote=False) for place, (name, run) in enumerate(runs)]
    answers = [answer_all(run, final_labels) for _, run in runs]
    changed = [_changed(runs[0][1].info.settings, run.info.settings) for _, run in runs]
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
                _compare_dataset(name, pair, change.figures(next(tests)))
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


def _compare_dataset(name: str, pairs: Pairs, figures: PairedFigures) -> DatasetComparison:
    return DatasetComparison(
        name=name,
        figures=figures,
        only_before=len(pairs.before.results) - figures.count,
        only_after=len(pairs.after.results) - figures.count,
        classes=moved_classes(pairs),
        flips=list_flips(pairs),
    )


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


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    changed: dict[str, tuple[Any, Any]] = {}
    for name in {**before, **after}:
        was, now = before.get(name), after.get(name)
        if isinstance(was, Mapping) and isinstance(now, Mapping):
            changed |= {f"{name} {part}": both for part, both in _changed(was, now).items()}
        elif was != now:
            changed[name] = was, now
    return changed
