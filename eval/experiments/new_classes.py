"""Table 1: what becomes of the old classes when a memory gets new ones, and how well these are known at once."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import Bool, Int

from eval.experiments.base import OPTIMISTIC, Analysis, Best, Cell, best_over_k, draw_best, right_by_k
from eval.experiments.material import MOST_NEIGHBORS, Material, insert_queries, neighbors_within, without_own
from eval.report.plots import BLUE, INK, ORANGE, drawing, readable
from eval.types import Percent, QueryResults
from eval.wording import counted
from retrieval.errors import InvalidArgument
from retrieval.voting import DEFAULT_METHOD, METHODS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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


def new_classes(
    material: Material,
    *,
    unknown: Material | None = None,
    classes: Collection[str] | None = None,
    share: float = NEW_SHARE,
    seed: int = 0,
    k: int = MOST_NEIGHBORS,
) -> Analysis:
    """Measure old and new classes before and after the new ones' items are inserted (section 3.1, Table 1).

    Args:
        material: a memory and queries.
        unknown: queries of classes that the memory does not have: they are inserted, and each is asked about with
            itself left out. None: some classes of the memory are held out, and inserted again.
        classes: those that are held out; None: drawn at random.
        share: of the classes that are drawn.
        seed: of the draw.
        k: the most neighbours that vote; each figure is that of the best number up to it.

    Raises:
        InvalidArgument: a class that is not in the memory or is not new, nothing left, or no query of old or new ones.
    """
    both, own = (material, None) if unknown is None else insert_queries(material, unknown)
    names = _held_out(both.label_names, classes, share, seed) if own is None else _added(material, both)
    is_new = np.array([name in names for name in both.label_names], bool)[both.labels]
    asks_new = np.array([not names.isdisjoint(truth) for truth in both.truths], bool)
    _check_queries(asks_new)
    before, after = neighbors_within(both, ~is_new, k=k), _with_everything(both, own, k)
    scores = {NEAREST: _score(before, after, asks_new, DEFAULT_METHOD, most=1)}
    scores |= {method: _score(before, after, asks_new, method, most=k) for method in METHODS}
    rank = scores[DEFAULT_METHOD]
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
        rows=[_row(name, score) for name, score in scores.items()],
        finding=f"Adding {counted(len(names), 'class')} ({counted(int(is_new.sum()), 'item')}) to a memory of "
        f"{len(both.label_names) - len(names):,} others changes rank voting on the old ones by "
        f"{rank.after.top1 - rank.before.top1:+.2f} points, from {rank.before.top1:.1f} % to {rank.after.top1:.1f} %; "
        f"the new ones are recognised at {rank.new.top1:.1f} %, without training.",
        draw=lambda: _draw(f"{readable(both.name)}, {readable(both.embedder)}", scores),
        notes=[OPTIMISTIC, _setting(unknown, asks_new)],
    )


def _held_out(label_names: list[str], classes: Collection[str] | None, share: float, seed: int) -> frozenset[str]:
    known = set(label_names)
    names = _drawn(label_names, share, seed) if classes is None else frozenset(classes)
    if names - known:
        raise InvalidArgument(f"{min(names - known)!r} is no class of the memory: hold out some of its own")
    if not names or names == known:
        raise InvalidArgument(f"{len(names)} of {len(known)} classes held out: hold out some and leave some")
    return names


def _added(material: Material, both: Material) -> frozenset[str]:
    return frozenset(both.label_names) - frozenset(material.label_names)


def _with_everything(both: Material, own: Int[np.ndarray, " queries"] | None, k: int) -> QueryResults:
    kept = np.ones(len(both.item_ids), bool)
    return neighbors_within(both, kept, k=k) if own is None else without_own(neighbors_within(both, kept, k=k + 1), own)


def _drawn(label_names: list[str], share: float, seed: int) -> frozenset[str]:
    if not 0 < share < 1:
        raise InvalidArgument(f"a share of {share} of the classes: a number between 0 and 1 expected")
    count = max(1, round(share * len(label_names)))
    drawn = np.random.default_rng(seed).choice(len(label_names), count, replace=False)
    return frozenset(sorted(label_names)[place] for place in drawn.tolist())


def _check_queries(asks_new: Bool[np.ndarray, " queries"]) -> None:
    if asks_new.all() or not asks_new.any():
        which = "old" if len(asks_new) and asks_new.all() else "new"
        raise InvalidArgument(f"no query is of {which} classes: choose classes so that queries of both kinds are left")


def _score(
    before: QueryResults, after: QueryResults, asks_new: Bool[np.ndarray, " queries"], method: str, *, most: int
) -> _Score:
    was, now = (right_by_k(results, method)[:, :most] for results in (before, after))
    return _Score(best_over_k(was[~asks_new]), best_over_k(now[~asks_new]), best_over_k(now[asks_new]))


def _row(name: str, score: _Score) -> tuple[Cell, ...]:
    change = score.after.top1 - score.before.top1
    p = score.after.p_of_change(score.before)
    old = (score.before.top1, score.after.top1, *score.after.interval, change, p)
    return name, *old, score.new.top1, *score.new.interval, *PUBLISHED[name]


def _setting(unknown: Material | None, asks_new: Bool[np.ndarray, " queries"]) -> str:
    held_out = "held out of the same memory, nearer to the old ones than the paper's"
    origin = held_out if unknown is None else f"those of {unknown.name}, each picture asked about with itself left out"
    return (
        f"The new classes are {origin}, {counted(int(asks_new.sum()), 'query')} against "
        f"{counted(int((~asks_new).sum()), 'query')} of old ones; the paper added 64 classes of NINCO to ImageNet's "
        "1,000 with DINOv2 ViT-L14."
    )


def _draw(title: str, scores: dict[str, _Score]) -> "Figure":
    with drawing((6.4, 4.0), title) as (figure, axes):
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
        figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    return figure
