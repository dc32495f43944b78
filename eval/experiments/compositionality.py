"""What is left of a query when its nearest neighbour's vector is subtracted (Geirhos et al., appendix O, Figure 17)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import Float, Int

from eval.experiments.base import Analysis, Axes, Row, plotted
from eval.experiments.embedded import Embedded
from eval.experiments.gallery import Pictures, Section, Tile, draw_gallery, fetch
from eval.metrics.intervals import SEED
from eval.metrics.votes import is_right, percent, truth_codes
from eval.report.plots import BLUE, INK, ORANGE, readable
from retrieval.errors import InvalidArgument
from retrieval.labels import display_name
from retrieval.support.terminal import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PICTURED: Final = 3  # neighbours before and after, as in Figure 17
_NOTHING: Final = 1e-3  # a residual this short is what float16 makes of the same picture twice


@dataclass(frozen=True, slots=True, eq=False)
class Residuals:
    """The neighbours of queries, and of their residuals: query less nearest neighbour; rows are those of the memory."""

    queries: Int[np.ndarray, " left"]  # positions of those of which something is left
    rows: Int[np.ndarray, "left k"]
    distances: Float[np.ndarray, "left k"]
    residual_rows: Int[np.ndarray, "left k"]
    residual_distances: Float[np.ndarray, "left k"]


def find_residuals(embedded: Embedded, k: int) -> Residuals:
    """Return the k neighbours of each query, and of the query less its nearest neighbour, scaled to length 1.

    Queries that equal their nearest neighbour are left out: nothing remains of them.
    """
    found = embedded.neighbors().results
    rows, distances = found.neighbor_ids.codes[:, :k], found.neighbor_distances[:, :k]
    residuals = embedded.queries - embedded.vectors[rows[:, 0]]
    lengths = np.linalg.norm(residuals, axis=1, keepdims=True)
    left = np.flatnonzero(lengths[:, 0] > _NOTHING)
    if not left.size:
        raise InvalidArgument("every query equals its nearest neighbour: give queries that the memory does not hold")
    after, distances_after = embedded.search(residuals[left] / lengths[left], rows.shape[1])
    return Residuals(left, rows[left], distances[left], after, distances_after)


def compositionality(
    embedded: Embedded,
    *,
    k: int = 10,
    shown: int = 6,
    seed: int = SEED,
    pictures: Pictures | None = None,
    query_pictures: Pictures | None = None,
) -> Analysis:
    """Return what the residual of each query finds; all queries count, a few drawn at random are listed and pictured.

    Args:
        embedded: the memory and the queries.
        k: neighbours among which labels are counted, before and after.
        shown: queries in the table and in the gallery.
        seed: of their choice.
        pictures: of the memory's items; with them the plot is a gallery like Figure 17, without a histogram.
        query_pictures: of the queries.

    Raises:
        InvalidArgument: ``k`` or ``shown`` below 1, or nothing is left of any query.
    """
    if k < 1 or shown < 1:
        raise InvalidArgument(f"k={k}, shown={shown}: 1 or more expected of both")
    found = find_residuals(embedded, k)
    count = len(found.queries)
    chosen = np.sort(np.random.default_rng(seed).choice(count, min(shown, count), replace=False)).tolist()
    summary, finding = _summary(embedded, found)

    def draw() -> "Figure":
        if pictures is None and query_pictures is None:
            return _histogram(f"{readable(embedded.name)}: queries and their residuals", found)
        return _gallery(embedded, found, chosen, pictures, query_pictures)

    notes = [
        "The paper shows queries with several objects, chosen by hand, and gives no figures; here every query counts,"
        f" and those listed are drawn at random (seed {seed}).",
        "Nothing is taken out of the memory: the residual is searched among all its items, the neighbour included."
        " Embeddings have length 1 before one is subtracted from the other, and so has the residual before the search.",
        f"Labels are counted among {counted(found.rows.shape[1], 'neighbour')};"
        " another label: than that of the query's nearest neighbour.",
    ]
    if same := len(embedded.query_ids) - count:
        notes.append(f"Left out: {counted(same, 'query')} equal to the nearest neighbour, of which nothing is left.")
    return Analysis(
        name="compositionality",
        title=f"{embedded.name}: neighbours of a query, and of its residual (query minus nearest neighbour)",
        source="Figure 17, appendix O",
        columns=(
            "query",
            "label",
            "nearest",
            "its label",
            "distance",
            "residual's nearest",
            "residual's label",
            "residual's distance",
            "another label",
            "labels before",
            "labels after",
        ),
        rows=[summary, *(_row(embedded, found, place) for place in chosen)],
        finding=finding,
        draw=draw,
        notes=notes,
    )


def _summary(embedded: Embedded, found: Residuals) -> tuple[Row, str]:
    """Return the row of all queries, and what it says."""
    nearest, after = embedded.labels[found.rows], embedded.labels[found.residual_rows]
    shares = np.bincount(embedded.labels, minlength=len(embedded.label_names)) / len(embedded.labels)
    truths = truth_codes(embedded.neighbors().results)[found.queries]
    right, right_after = (percent(is_right(labels[:, :1], truths)[:, 0]) for labels in (nearest, after))
    distance, distance_after = (float(d[:, 0].mean()) for d in (found.distances, found.residual_distances))
    labels, labels_after = (float(count_distinct(each).mean()) for each in (nearest, after))
    another = percent(nearest[:, 0] != after[:, 0])  # of the queries
    by_chance = 100.0 * float(1.0 - shares[nearest[:, 0]].mean())  # for an item drawn at random
    before = (f"right for {right:.1f} %", round(distance, 3))
    changed = (f"right for {right_after:.1f} %", round(distance_after, 3), f"{another:.1f} %")
    name = f"all {counted(len(nearest), 'query')}"
    return (name, None, None, *before, None, *changed, round(labels, 2), round(labels_after, 2)), (
        "Where the nearest neighbour's vector is subtracted from the query's and the rest is searched in the same"
        f" memory, {another:.1f} % of queries find another label first (an item drawn at random has another in"
        f" {by_chance:.1f} %), at a mean distance of {distance_after:.2f} instead of {distance:.2f}; among"
        f" {nearest.shape[1]} neighbours stand {labels_after:.1f} labels instead of {labels:.1f}, and the"
        f" first one is right for {right_after:.1f} % instead of {right:.1f} %."
    )


def count_distinct(labels: Int[np.ndarray, "queries k"]) -> Int[np.ndarray, " queries"]:
    """Return how many different labels stand in each row."""
    ordered = np.sort(labels, axis=1)
    distinct: np.ndarray = 1 + np.count_nonzero(ordered[:, 1:] != ordered[:, :-1], axis=1)
    return distinct


def _row(embedded: Embedded, found: Residuals, place: int) -> Row:
    query = int(found.queries[place])
    labels, after = embedded.labels[found.rows[place]], embedded.labels[found.residual_rows[place]]
    return (
        embedded.query_ids[query],
        ", ".join(sorted(embedded.truths[query])),
        embedded.item_ids[found.rows[place, 0]],
        embedded.label_names[labels[0]],
        round(float(found.distances[place, 0]), 3),
        embedded.item_ids[found.residual_rows[place, 0]],
        embedded.label_names[after[0]],
        round(float(found.residual_distances[place, 0]), 3),
        "yes" if labels[0] != after[0] else "no",
        len(set(labels.tolist())),
        len(set(after.tolist())),
    )


@plotted((5.2, 3.8), legend=2, fontsize=9)
def _histogram(axes: Axes, found: Residuals) -> None:
    both = (found.distances[:, 0], found.residual_distances[:, 0])
    edges = np.linspace(min(map(np.min, both)), max(map(np.max, both)) + 1e-6, 41)
    axes.hist(both[0], edges, color=BLUE, alpha=0.75, label="query")
    axes.hist(both[1], edges, color=ORANGE, histtype="step", lw=1.8, label="query minus nearest neighbour")
    axes.set(xlabel="cosine distance of the nearest neighbour", ylabel="queries")


def _gallery(
    embedded: Embedded, found: Residuals, chosen: Sequence[int], pictures: Pictures | None, queries: Pictures | None
) -> "Figure":
    pictured = min(_PICTURED, found.rows.shape[1])
    sides = (found.rows, found.distances, BLUE), (found.residual_rows, found.residual_distances, ORANGE)
    items = fetch(pictures, [embedded.item_ids[row] for side in sides for row in side[0][chosen, :pictured].flat])
    asked = fetch(queries, [embedded.query_ids[found.queries[place]] for place in chosen])
    rows = []
    for place in chosen:
        query = embedded.query_ids[found.queries[place]]
        truth = ", ".join(sorted(embedded.truths[found.queries[place]]))
        tiles = [Tile(query, (truth,), asked.get(query), INK)]
        for near, distances, edge in sides:
            for row, distance in zip(near[place, :pictured], distances[place, :pictured], strict=True):
                name, label = embedded.item_ids[row], display_name(embedded.label_names[embedded.labels[row]])
                tiles.append(Tile(name, (label, f"distance {distance:.2f}"), items.get(name), edge))
        rows.append(tiles)
    ranks = range(1, pictured + 1)
    headings = ["query", *(f"neighbour {rank}" for rank in ranks), *(f"residual {rank}" for rank in ranks)]
    return draw_gallery(Section(headings, rows), title=f"{readable(embedded.name)}: {readable(embedded.embedder)}")
