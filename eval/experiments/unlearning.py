"""Section 3.4: what it takes to forget items, what it costs the rest, and whether anything of them is left."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import Bool

from eval.experiments.base import Analysis, Row, caption, right_by_k
from eval.experiments.embedded import MOST_NEIGHBORS, Embedded
from eval.metrics.votes import percent
from eval.report.plots import BLUE, INK, ORANGE, drawing, readable
from eval.types import Percent
from retrieval.errors import InvalidArgument
from retrieval.indexes import choose_kind
from retrieval.indexes.base import ArrayBlocks
from retrieval.indexes.exact import ExactIndex
from retrieval.labels import display_name
from retrieval.voting import DEFAULT_METHOD, METHODS, predict_every_k

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHARES: Final = (0.0, 0.01, 0.1, 0.5)  # of the items; 0: a single one
PUBLISHED_MILLISECONDS: Final = 20.0  # below which the paper deletes an item from disk (section 3.4)


@dataclass(frozen=True, slots=True)
class _Forgotten:
    """One row of the table: its fields are the columns."""

    name: str  # of the forget set
    items: int
    milliseconds: float  # until every query is answered without them
    rebuilt_milliseconds: float  # until they are answered by a memory made anew of the others
    before: Percent  # accuracy on the queries whose labels stay
    after: Percent
    own_before: Percent | None  # accuracy on the queries of a forgotten class
    own_after: Percent | None
    left: int  # places among neighbours that forgotten items still hold
    same_neighbors: Percent  # as in the memory made anew
    same_answers: Percent  # of all four voting methods at every k

    def row(self) -> Row:
        return tuple(getattr(self, field) for field in self.__slots__)


def unlearning(
    embedded: Embedded,
    *,
    shares: Sequence[float] = SHARES,
    classes: Sequence[str] | None = None,
    seed: int = 0,
    k: int = MOST_NEIGHBORS,
) -> Analysis:
    """Measure efficiency, utility and forgetting quality for sets of items and for classes (section 3.4).

    Args:
        embedded: a memory and queries.
        shares: of the items, at random; 0 for a single item.
        classes: that are forgotten, one at a time; None: one drawn at random.
        seed: of the draws.
        k: neighbours that vote.

    Raises:
        InvalidArgument: a share out of bounds, a class that is not in the memory or is every query's, nothing left, or
            no query.
    """
    if not embedded.query_ids:
        raise InvalidArgument("unlearning is measured on queries: give a data set with pictures")
    sets = _forget_sets(embedded, shares, classes, seed)
    done = [_forget(embedded, name, gone, label, k) for name, gone, label in sets]
    worst = min(done, key=lambda one: (one.same_answers, one.same_neighbors, -one.left))
    dearest = min(done, key=lambda one: one.after - one.before)
    apart = "The whole memory is searched approximately and the one made anew exactly, which alone tells them apart."
    return Analysis(
        name="unlearning",
        title=f"Unlearning: {embedded.name}, {embedded.embedder}",
        source="Section 3.4",
        columns=(
            "forgotten",
            "items",
            "time (ms)",
            "time, made anew (ms)",
            "rest before (%)",
            "rest after (%)",
            "class before (%)",
            "class after (%)",
            "places still held",
            "same neighbours (%)",
            "same answers (%)",
        ),
        rows=[one.row() for one in done],
        finding=f"After forgetting, {sum(one.left for one in done):,} places among neighbours are held by forgotten "
        f"items, and at least {worst.same_answers:.2f} % of the answers are those of a memory that never held them; "
        f"the rest changes most with {dearest.name}, by {dearest.after - dearest.before:+.2f} points.",
        draw=lambda: _draw(caption(embedded.name, embedded.embedder), done),
        notes=[
            f"Rank voting with {k} neighbours. Times are for all {len(embedded.query_ids):,} queries, and differ from "
            "run to run; no picture is embedded again, which a memory made anew may need as well.",
            f"Items are masked, not erased from the disk, for which the paper states less than "
            f"{PUBLISHED_MILLISECONDS:.0f} ms an item.",
            *([] if choose_kind("auto", items=len(embedded.item_ids)) == "exact" else [apart]),
            "What the embedder itself learnt of a picture is not forgotten, here or in the paper.",
        ],
    )


def _forget_sets(
    embedded: Embedded, shares: Sequence[float], classes: Sequence[str] | None, seed: int
) -> list[tuple[str, Bool[np.ndarray, " items"], str | None]]:
    """Return name, items and label of each set that is to be forgotten; a random set has no label."""
    random, items = np.random.default_rng(seed), len(embedded.item_ids)
    shuffled = random.permutation(items)
    if classes is None:  # a class that is not every query's, where there is one
        sorts = set(embedded.truths)
        some = [label for label in embedded.label_names if any(label not in truth for truth in sorts)]
        classes = [some[random.integers(len(some))]] if some else []
    sets: list[tuple[str, Bool[np.ndarray, " items"], str | None]] = []
    for share in shares:
        if not 0 <= share < 1:
            raise InvalidArgument(f"a share of {share} of the items: 0 for a single one, or below 1 expected")
        gone = np.zeros(items, bool)
        gone[shuffled[: max(1, round(share * items))]] = True
        sets.append((f"{100 * share:g} % of the items" if share else "1 item", gone, None))
    for label in classes:
        if label not in embedded.label_names:
            raise InvalidArgument(f"{label!r} is no class of the memory: forget one that it has")
        if all(label in truth for truth in embedded.truths):
            raise InvalidArgument(f"every query is of the class {label!r}: nothing would be left to measure")
        sets.append((f"class {display_name(label)}", embedded.labels == embedded.label_names.index(label), label))
    return sets


def _forget(embedded: Embedded, name: str, gone: Bool[np.ndarray, " items"], label: str | None, k: int) -> _Forgotten:
    before = embedded.neighbors_within(np.ones(len(gone), bool), k=k)
    start = time.perf_counter()
    after = embedded.neighbors_within(~gone, k=k)
    middle = time.perf_counter()
    items = np.flatnonzero(~gone)  # of a memory made anew, which never held the others
    found, distances = ExactIndex.build(ArrayBlocks(embedded.vectors[items])).search(embedded.queries, after.k)
    end = time.perf_counter()
    rows, rebuilt = after.neighbor_ids.codes, items[found]
    own = np.array([label in truth for truth in embedded.truths], bool)
    was, now = (right_by_k(results, DEFAULT_METHOD)[:, -1] for results in (before, after))
    same = [
        predict_every_k(after.neighbor_labels.codes, after.neighbor_distances, method=method)
        == predict_every_k(embedded.labels[rebuilt], distances, method=method)
        for method in METHODS
    ]
    return _Forgotten(
        name=name,
        items=int(gone.sum()),
        milliseconds=1000 * (middle - start),
        rebuilt_milliseconds=1000 * (end - middle),
        before=percent(was[~own]),
        after=percent(now[~own]),
        own_before=percent(was[own]) if own.any() else None,
        own_after=percent(now[own]) if own.any() else None,
        left=int(gone[rows].sum()),
        same_neighbors=100.0 * float(np.mean(rows == rebuilt)),
        same_answers=100.0 * float(np.mean(same)),
    )


def _draw(title: str, done: list[_Forgotten]) -> "Figure":
    with drawing((6.4, 1.6 + 0.45 * len(done)), title) as (figure, axes):
        places = np.arange(len(done))
        axes.plot([one.before for one in done], places - 0.12, "o", color=INK, label="the rest before")
        axes.plot([one.after for one in done], places + 0.12, "s", color=BLUE, label="the rest after")
        own_before = [np.nan if one.own_before is None else one.own_before for one in done]
        axes.plot(own_before, places - 0.12, "D", mfc="none", color=ORANGE, label="forgotten class before")
        own = [np.nan if one.own_after is None else one.own_after for one in done]
        axes.plot(own, places + 0.12, "D", color=ORANGE, label="forgotten class after")
        axes.set_yticks(places, [f"{readable(one.name)}\n{one.milliseconds:.0f} ms" for one in done])
        axes.set_ylim(len(done) - 0.4, -0.6)
        axes.set(xlabel="top-1 accuracy of rank voting (%)", xlim=(-2, 102))
        figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    return figure
