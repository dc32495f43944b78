"""What is left of a query when its nearest neighbour's vector is subtracted (Geirhos et al., appendix O, Figure 17)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import Float, Int

from eval.experiments.base import Analysis, Cell
from eval.experiments.gallery import Pictures, Section, Tile, draw_gallery, fetch
from eval.experiments.material import Material
from eval.metrics.intervals import SEED
from eval.metrics.votes import is_right, truth_codes
from eval.report.plots import BLUE, INK, ORANGE, drawing, readable
from eval.wording import counted
from retrieval.errors import InvalidArgument
from retrieval.labels import display_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PICTURED: Final = 3  # neighbours before and after, as in Figure 17
_NOTHING: Final = 1e-3  # a residual this short is what float16 makes of the same picture twice
_COLUMNS: Final = (
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
)


@dataclass(frozen=True, slots=True, eq=False)
class Residuals:
    """The neighbours of queries, and of their residuals: query less nearest neighbour; rows are those of the memory."""

    queries: Int[np.ndarray, " left"]  # positions of those of which something is left
    rows: Int[np.ndarray, "left k"]
    distances: Float[np.ndarray, "left k"]
    residual_rows: Int[np.ndarray, "left k"]
    residual_distances: Float[np.ndarray, "left k"]


def find_residuals(material: Material, k: int) -> Residuals:
    """Return the k neighbours of each query, and of the query less its nearest neighbour, scaled to length 1.

    Queries that equal their nearest neighbour are left out: nothing remains of them.
    """
    found = material.neighbors().results
    rows, distances = found.neighbor_ids.codes[:, :k], found.neighbor_distances[:, :k]
    residuals = material.queries - material.vectors[rows[:, 0]]
    lengths = np.linalg.norm(residuals, axis=1, keepdims=True)
    left = np.flatnonzero(lengths[:, 0] > _NOTHING)
    if not left.size:
        raise InvalidArgument("every query equals its nearest neighbour: give queries that the memory does not hold")
    after, distances_after = material.search(residuals[left] / lengths[left], rows.shape[1])
    return Residuals(left, rows[left], distances[left], after, distances_after)


def compositionality(
    material: Material,
    *,
    k: int = 10,
    shown: int = 6,
    seed: int = SEED,
    pictures: Pictures | None = None,
    query_pictures: Pictures | None = None,
) -> Analysis:
    """Return what the residual of each query finds; all queries count, a few drawn at random are listed and pictured.

    Args:
        material: the memory and the queries.
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
    found = find_residuals(material, k)
    count = len(found.queries)
    chosen = np.sort(np.random.default_rng(seed).choice(count, min(shown, count), replace=False)).tolist()
    summary = _Summary.of(material, found)

    def draw() -> "Figure":
        if pictures is None and query_pictures is None:
            return _histogram(material, found)
        return _gallery(material, found, chosen, pictures, query_pictures)

    return Analysis(
        name="compositionality",
        title=f"{material.name}: neighbours of a query, and of its residual (query minus nearest neighbour)",
        source="Figure 17, appendix O",
        columns=_COLUMNS,
        rows=[summary.row(), *(_row(material, found, place) for place in chosen)],
        finding=summary.finding(),
        draw=draw,
        notes=_notes(material, found, k, seed),
    )


@dataclass(frozen=True, slots=True)
class _Summary:
    queries: int
    k: int
    before: float  # mean cosine distance of the nearest
    after: float
    another: float  # percent of queries whose residual's nearest has another label than the query's nearest
    by_chance: float  # percent, for an item drawn at random
    labels_before: float  # mean number of labels among k
    labels_after: float
    right_before: float  # percent of queries whose nearest has a right label
    right_after: float

    @classmethod
    def of(cls, material: Material, found: Residuals) -> "_Summary":
        nearest, after = material.labels[found.rows], material.labels[found.residual_rows]
        shares = np.bincount(material.labels, minlength=len(material.label_names)) / len(material.labels)
        truths = truth_codes(material.neighbors().results)[found.queries]
        return cls(
            queries=len(found.queries),
            k=nearest.shape[1],
            before=float(found.distances[:, 0].mean()),
            after=float(found.residual_distances[:, 0].mean()),
            another=100.0 * float((nearest[:, 0] != after[:, 0]).mean()),
            by_chance=100.0 * float(1.0 - shares[nearest[:, 0]].mean()),
            labels_before=float(count_distinct(nearest).mean()),
            labels_after=float(count_distinct(after).mean()),
            right_before=100.0 * float(is_right(nearest[:, :1], truths).mean()),
            right_after=100.0 * float(is_right(after[:, :1], truths).mean()),
        )

    def row(self) -> tuple[Cell, ...]:
        name = f"all {counted(self.queries, 'query')}"
        before = (f"right for {self.right_before:.1f} %", round(self.before, 3))
        after = (f"right for {self.right_after:.1f} %", round(self.after, 3), f"{self.another:.1f} %")
        return (name, None, None, *before, None, *after, round(self.labels_before, 2), round(self.labels_after, 2))

    def finding(self) -> str:
        return (
            "Where the nearest neighbour's vector is subtracted from the query's and the rest is searched in the same"
            f" memory, {self.another:.1f} % of queries find another label first (an item drawn at random has another in"
            f" {self.by_chance:.1f} %), at a mean distance of {self.after:.2f} instead of {self.before:.2f}; among"
            f" {self.k} neighbours stand {self.labels_after:.1f} labels instead of {self.labels_before:.1f}, and the"
            f" first one is right for {self.right_after:.1f} % instead of {self.right_before:.1f} %."
        )


def count_distinct(labels: Int[np.ndarray, "queries k"]) -> Int[np.ndarray, " queries"]:
    """Return how many different labels stand in each row."""
    ordered = np.sort(labels, axis=1)
    distinct: np.ndarray = 1 + np.count_nonzero(ordered[:, 1:] != ordered[:, :-1], axis=1)
    return distinct


def _row(material: Material, found: Residuals, place: int) -> tuple[Cell, ...]:
    query = int(found.queries[place])
    labels, after = material.labels[found.rows[place]], material.labels[found.residual_rows[place]]
    return (
        material.query_ids[query],
        ", ".join(sorted(material.truths[query])),
        material.item_ids[found.rows[place, 0]],
        material.label_names[labels[0]],
        round(float(found.distances[place, 0]), 3),
        material.item_ids[found.residual_rows[place, 0]],
        material.label_names[after[0]],
        round(float(found.residual_distances[place, 0]), 3),
        "yes" if labels[0] != after[0] else "no",
        len(set(labels.tolist())),
        len(set(after.tolist())),
    )


def _notes(material: Material, found: Residuals, k: int, seed: int) -> list[str]:
    notes = [
        "The paper shows queries with several objects, chosen by hand, and gives no figures; here every query counts,"
        f" and those listed are drawn at random (seed {seed}).",
        "Nothing is taken out of the memory: the residual is searched among all its items, the neighbour included."
        " Embeddings have length 1 before one is subtracted from the other, and so has the residual before the search.",
        f"Labels are counted among {counted(min(k, found.rows.shape[1]), 'neighbour')};"
        " another label: than that of the query's nearest neighbour.",
    ]
    if same := len(material.query_ids) - len(found.queries):
        notes.append(f"Left out: {counted(same, 'query')} equal to the nearest neighbour, of which nothing is left.")
    return notes


def _histogram(material: Material, found: Residuals) -> "Figure":
    with drawing((5.2, 3.8), f"{readable(material.name)}: queries and their residuals") as (figure, axes):
        both = (found.distances[:, 0], found.residual_distances[:, 0])
        edges = np.linspace(min(map(np.min, both)), max(map(np.max, both)) + 1e-6, 41)
        axes.hist(both[0], edges, color=BLUE, alpha=0.75, label="query")
        axes.hist(both[1], edges, color=ORANGE, histtype="step", lw=1.8, label="query minus nearest neighbour")
        axes.set(xlabel="cosine distance of the nearest neighbour", ylabel="queries")
        figure.legend(loc="outside lower center", ncols=2)
    return figure


def _gallery(
    material: Material, found: Residuals, chosen: Sequence[int], pictures: Pictures | None, queries: Pictures | None
) -> "Figure":
    pictured = min(_PICTURED, found.rows.shape[1])
    sides = (found.rows, found.distances, BLUE), (found.residual_rows, found.residual_distances, ORANGE)
    items = fetch(pictures, [material.item_ids[row] for side in sides for row in side[0][chosen, :pictured].flat])
    asked = fetch(queries, [material.query_ids[found.queries[place]] for place in chosen])
    rows = []
    for place in chosen:
        query = material.query_ids[found.queries[place]]
        truth = ", ".join(sorted(material.truths[found.queries[place]]))
        tiles = [Tile(query, (truth,), asked.get(query), INK)]
        for near, distances, edge in sides:
            for row, distance in zip(
                near[place, :pictured].tolist(), distances[place, :pictured].tolist(), strict=True
            ):
                lines = (display_name(material.label_names[material.labels[row]]), f"distance {distance:.2f}")
                tiles.append(Tile(material.item_ids[row], lines, items.get(material.item_ids[row]), edge))
        rows.append(tiles)
    ranks = range(1, pictured + 1)
    headings = ["query", *(f"neighbour {rank}" for rank in ranks), *(f"residual {rank}" for rank in ranks)]
    return draw_gallery(Section(headings, rows), title=f"{readable(material.name)}: {readable(material.embedder)}")
