"""Table 1: what becomes of the old classes when a memory gets new ones, and how well these are known at once."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool

from eval.experiments.base import (
    OPTIMISTIC,
    Analysis,
    Axes,
    Best,
    Row,
    best_over_k,
    caption,
    draw_best,
    plotted,
    right_by_k,
)
from eval.experiments.embedded import MOST_NEIGHBORS, Embedded, without_own
from eval.report.plots import BLUE, INK, ORANGE
from eval.types import Percent, QueryResults
from retrieval.errors import InvalidArgument
from retrieval.support.terminal import counted
from retrieval.voting import DEFAULT_METHOD, METHODS

NEAREST: Final = "nearest"  # the paper's "no aggregation": one neighbour decides
NEW_SHARE: Final = 64 / 1064  # of the classes, as in the paper: 64 of NINCO beside ImageNet's 1,000
PUBLISHED: Final[dict[str, tuple[Percent, Percent, Percent]]] = {  # Table 1: old before, old after, new
    NEAREST: (81.1, 81.1, 86.4),
    "plurality": (83.2, 83.2, 86.9),
    "distance": (83.3, 83.3, 87.1),
    "softmax": (83.6, 83.5, 87.5),
    "rank": (83.6, 83.6, 87.4),
}


@dataclass(frozen=True, slots=True)
class _Score:
    before: Best  # old classes, old memory
    after: Best  # old classes, memory with the new ones
    new: Best  # new classes

    @property
    def change(self) -> float:
        return self.after.top1 - self.before.top1

    def row(self, name: str) -> Row:
        old = (self.before.top1, self.after.top1, *self.after.interval, self.change)
        p = self.after.p_of_change(self.before)
        return name, *old, p, self.new.top1, *self.new.interval, *PUBLISHED[name]


def new_classes(
    embedded: Embedded,
    *,
    unknown: Embedded | None = None,
    classes: Collection[str] | None = None,
    share: float = NEW_SHARE,
    seed: int = 0,
    k: int = MOST_NEIGHBORS,
) -> Analysis:
    """Measure old and new classes before and after the new ones' items are inserted (section 3.1, Table 1).

    Args:
        embedded: a memory and queries.
        unknown: queries of classes that the memory does not have: they are inserted, and each is asked about with
            itself left out. None: some classes of the memory are held out, and inserted again.
        classes: those that are held out; None: drawn at random.
        share: of the classes that are drawn.
        seed: of the draw.
        k: the most neighbours that vote; each figure is that of the best number up to it.

    Raises:
        InvalidArgument: a class that is not in the memory or is not new, nothing left, or no query of old or new ones.
    """
    both, own = (embedded, None) if unknown is None else embedded.with_queries_of(unknown)
    if unknown is None:
        names = _held_out(both.label_names, classes, share, seed)
    else:
        names = frozenset(both.label_names) - frozenset(embedded.label_names)
    is_new = np.array([name in names for name in both.label_names], bool)[both.labels]
    asks_new = np.array([not names.isdisjoint(truth) for truth in both.truths], bool)
    if asks_new.all() or not asks_new.any():
        which = "old" if len(asks_new) and asks_new.all() else "new"
        raise InvalidArgument(f"no query is of {which} classes: choose classes so that queries of both kinds are left")
    before = both.neighbors_within(~is_new, k=k)
    after = both.neighbors_within(np.ones(len(is_new), bool), k=k if own is None else k + 1)
    if own is not None:
        after = without_own(after, own)
    scores = {NEAREST: _score(before, after, asks_new, DEFAULT_METHOD, most=1)}
    scores |= {method: _score(before, after, asks_new, method, most=k) for method in METHODS}
    rank = scores[DEFAULT_METHOD]
    held_out = "held out of the same memory, nearer to the old ones than the paper's"
    origin = held_out if unknown is None else f"those of {unknown.name}, each picture asked about with itself left out"
    return Analysis(
        name="new_classes",
        title=f"Adding {counted(len(names), 'new class')} to {both.name}, {both.embedder}",
        source="Section 3.1, Table 1",
        columns=(
            "voting",
            "old before (%)",
            "old after (%)",
            "95 % from",
            "to",
            "change (points)",
            "p of the change",
            "new (%)",
            "new 95 % from",
            "new to",
            "paper: old before",
            "paper: old after",
            "paper: new",
        ),
        rows=[score.row(name) for name, score in scores.items()],
        finding=f"Adding {counted(len(names), 'class')} ({counted(int(is_new.sum()), 'item')}) to a memory of "
        f"{len(both.label_names) - len(names):,} others changes rank voting on the old ones by "
        f"{rank.change:+.2f} points, from {rank.before.top1:.1f} % to {rank.after.top1:.1f} %; "
        f"the new ones are recognised at {rank.new.top1:.1f} %, without training.",
        draw=lambda: _draw(caption(both.name, both.embedder), scores),
        notes=[
            OPTIMISTIC,
            f"The new classes are {origin}, {counted(int(asks_new.sum()), 'query')} against "
            f"{counted(int((~asks_new).sum()), 'query')} of old ones; the paper added 64 classes of NINCO to ImageNet's"
            " 1,000 with DINOv2 ViT-L14.",
        ],
    )


def _held_out(label_names: list[str], classes: Collection[str] | None, share: float, seed: int) -> frozenset[str]:
    if classes is None:
        if not 0 < share < 1:
            raise InvalidArgument(f"a share of {share} of the classes: a number between 0 and 1 expected")
        count = max(1, round(share * len(label_names)))
        drawn = np.random.default_rng(seed).choice(len(label_names), count, replace=False)
        ordered = sorted(label_names)
        classes = [ordered[place] for place in drawn.tolist()]
    names, known = frozenset(classes), set(label_names)
    if names - known:
        raise InvalidArgument(f"{min(names - known)!r} is no class of the memory: hold out some of its own")
    if not names or names == known:
        raise InvalidArgument(f"{len(names)} of {len(known)} classes held out: hold out some and leave some")
    return names


def _score(
    before: QueryResults, after: QueryResults, asks_new: Bool[np.ndarray, " queries"], method: str, *, most: int
) -> _Score:
    was, now = (right_by_k(results, method)[:, :most] for results in (before, after))
    return _Score(best_over_k(was[~asks_new]), best_over_k(now[~asks_new]), best_over_k(now[asks_new]))


@plotted((6.4, 4.0), legend=3)
def _draw(axes: Axes, scores: dict[str, _Score]) -> None:
    places = np.arange(len(scores))
    kinds = (
        ("old classes before", [score.before for score in scores.values()], INK, "o"),
        ("old classes after", [score.after for score in scores.values()], BLUE, "s"),
        ("new classes", [score.new for score in scores.values()], ORANGE, "D"),
    )
    for column, (label, best, colour, marker) in enumerate(kinds):
        where = places + 0.22 * (column - 1)
        draw_best(axes, where, best, color=colour, fmt=marker, label=label)
        published = [PUBLISHED[name][column] for name in scores]
        axes.plot(where + 0.08, published, marker, mfc="none", color=colour, ms=5, label=f"{label}, paper")
    axes.set_xticks(places, list(scores))
    axes.set(xlabel="voting method", ylabel="top-1 accuracy at the best k (%)")
