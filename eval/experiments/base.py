"""What every analysis works on and gives, how its plot and its files are made, and the paper's figures beside ours."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Final, Literal, ParamSpec

import numpy as np
from jaxtyping import Bool, Float, Int

from eval.metrics.intervals import mcnemar_p
from eval.metrics.votes import interval, is_right, percent, truth_codes, winners
from eval.report.plots import as_png, as_svg, drawing, readable
from eval.report.tables import csv_text, markdown_text
from eval.types import Interval, Neighborhoods, Percent, QueryResults
from retrieval.errors import InvalidArgument
from retrieval.storage.places import writing
from retrieval.voting import METHODS, Factors, neighbor_weights, previous_places, query_slices

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Cell = str | int | float | None
Row = tuple[Cell, ...]
Axes = Any  # matplotlib's, or an array of them; it is loaded only to draw
_Drawn = ParamSpec("_Drawn")


@dataclass(frozen=True, slots=True)
class Analysis:
    """A table, a plot and a sentence."""

    name: str  # as on the command line: "aggregation"
    title: str
    source: str  # where in the paper: "Figures 2, 7 and 8; Tables 4 to 9"
    columns: tuple[str, ...]
    rows: list[Row]
    finding: str  # what it shows, in a plain sentence with its figures
    draw: "Callable[[], Figure]"  # with units on the axes, and the paper's curve beside ours where it states numbers
    notes: list[str] = field(default_factory=list)  # how it differs from the paper's, one sentence each


@dataclass(frozen=True, slots=True)
class Entry:
    """One analysis as the catalogue lists it."""

    function: Callable[..., Analysis]  # of the name on the command line
    needs: Literal["neighbors", "two", "memory"]  # one Neighborhoods; those of known and unknown queries; an Embedded
    title: str
    source: str  # where in the paper

    @property
    def name(self) -> str:
        """The name on the command line."""
        return self.function.__name__


def caption(name: str, embedder: str) -> str:
    """Return what stands above a plot, in characters that its font has."""
    return f"{readable(name)}, {readable(embedder)}"


def plotted(
    inches: tuple[float, float], *, rows: tuple[int, ...] = (), legend: int = 0, fontsize: int = 8
) -> Callable[[Callable[Concatenate[Axes, _Drawn], None]], "Callable[Concatenate[str, _Drawn], Figure]"]:
    """Turn a function that draws on axes into one that takes a title in their place and returns the figure.

    Args:
        inches: width and height.
        rows: relative heights of several axes, one above the other, which then come as an array; else there is one.
        legend: columns of the legend below the axes; 0: none.
        fontsize: of the legend.
    """

    def decorate(
        paint: Callable[Concatenate[Axes, _Drawn], None],
    ) -> "Callable[Concatenate[str, _Drawn], Figure]":
        @wraps(paint)
        def draw(title: str, *args: _Drawn.args, **options: _Drawn.kwargs) -> "Figure":
            with drawing(inches, title, rows=rows) as (figure, axes):
                if rows:
                    axes[0].set_title(title)
                paint(axes, *args, **options)
                if legend:
                    figure.legend(loc="outside lower center", ncols=legend, fontsize=fontsize)
            return figure

        return draw  # type: ignore[return-value]  # mypy takes the title for an option as well

    return decorate


def write_analysis(analysis: Analysis, folder: Path) -> list[Path]:
    """Write an analysis into a folder, made if need be, and return its files: NAME.md, .csv, .png and .svg.

    Raises:
        StorageError: the disk refuses.
    """
    figure = analysis.draw()
    encoded = {
        "md": as_markdown(analysis).encode(errors="replace"),
        "csv": as_csv(analysis).encode(errors="replace"),
        "png": as_png(figure),
        "svg": as_svg(figure).encode(),
    }
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    written = [folder / f"{analysis.name}.{ending}" for ending in encoded]
    for path, content in zip(written, encoded.values(), strict=True):
        with writing(path):
            path.write_bytes(content)
    return written


def as_markdown(analysis: Analysis) -> str:
    """Return title, finding, plot, table and notes, the figures rounded for reading."""

    def line(texts: Sequence[str]) -> str:
        return "| " + " | ".join(map(markdown_text, texts)) + " |"

    lines = [
        f"# {markdown_text(analysis.title)}",
        "",
        f"Paper: {markdown_text(analysis.source)}.",
        "",
        markdown_text(analysis.finding),
        "",
        f"![{markdown_text(analysis.title)}]({analysis.name}.png)",
        "",
        line(analysis.columns),
        "|" + "---:|" * len(analysis.columns),
        *(line([_rounded(cell) for cell in row]) for row in analysis.rows),
        "",
        *(f"- {markdown_text(note)}" for note in analysis.notes),
    ]
    return "\n".join(lines) + "\n"


def _rounded(cell: Cell) -> str:
    if not isinstance(cell, float):
        return "–" if cell is None else str(cell)
    return f"{cell:.2f}" if cell == 0 or abs(cell) >= 1 else f"{cell:.3g}"


def as_csv(analysis: Analysis) -> str:
    """Return the table with all digits; an empty cell is a figure that there is not."""
    text = io.StringIO(newline="")
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(map(csv_text, analysis.columns))
    for row in analysis.rows:
        lines.writerow([csv_text(cell) if isinstance(cell, str) else "" if cell is None else cell for cell in row])
    return text.getvalue()


Weighing = Callable[[np.ndarray], np.ndarray]  # distances (queries × k) → weights of the same shape, above 0
BY_METHOD: Final[dict[str, Weighing]] = {name: partial(neighbor_weights, method=name) for name in METHODS}


def right_neighbors(found: Neighborhoods) -> Bool[np.ndarray, "queries k"]:
    """Tell which neighbours carry a right label of their query."""
    return is_right(found.results.neighbor_labels.codes, truth_codes(found.results))


def accuracy_every_k(
    found: Neighborhoods,
    weighings: Sequence[Weighing],
    *,
    labels: Int[np.ndarray, "queries k"] | None = None,
    truths: Int[np.ndarray, "queries allowed"] | None = None,
) -> Float[np.ndarray, "weighings k"]:
    """Return top-1 in percent when the nearest 1, 2, …, k neighbours vote, for each way of weighing them.

    As accurate as `retrieval.voting.predict_every_k`, ties included. Labels are sorted once for all weighings, and
    instead of winners only their being right is kept, so that a further weighing costs a fraction of the first.

    Args:
        found: the neighbours; their reliabilities multiply the weights.
        weighings: each gives every neighbour a weight above 0.
        labels: other ones of the neighbours, as numbers like theirs; None: their own.
        truths: what `truth_codes` gives for the queries, where it is at hand.
    """
    results = found.results
    codes = results.neighbor_labels.codes if labels is None else labels
    right = is_right(codes, truth_codes(results) if truths is None else truths)
    counts = np.zeros((len(weighings), results.k), np.int64)
    for some in query_slices(len(codes)):
        places, hits = previous_places(codes[some]), np.ascontiguousarray(right[some].T)
        factors = results.factors(some)
        for number, weigh in enumerate(weighings):
            weights = weigh(results.neighbor_distances[some])
            counts[number] += _count_right(places, (weights if factors is None else weights * factors).T, hits)
    return 100.0 * counts / max(1, len(codes))


def _count_right(
    places: Int[np.ndarray, "k queries"], weights: Float[np.ndarray, "k queries"], right: Bool[np.ndarray, "k queries"]
) -> list[int]:
    """Return how many queries are right after each neighbour, walking outwards."""
    k, queries = places.shape
    gathered = np.zeros((k + 1, queries))
    np.copyto(gathered[1:], weights)
    flat, heaviest = gathered.reshape(-1), np.zeros(queries)
    before, leads, now = np.empty(queries), np.empty(queries, bool), np.empty(queries, bool)
    counts = []
    for place, row, hits in zip(places, gathered[1:], right, strict=True):
        row += np.take(flat, place, out=before, mode="clip")  # no place is outside; clipping spares a copy
        np.greater(row, heaviest, out=leads)  # the first to reach a weight keeps the lead
        np.maximum(row, heaviest, out=heaviest)
        np.copyto(now, hits, where=leads)
        counts.append(int(np.count_nonzero(now)))
    return counts


def best(curve: Sequence[Percent] | Float[np.ndarray, " k"]) -> tuple[Percent, int]:
    """Return the highest accuracy of a curve over k = 1, 2, … and the smallest k that has it."""
    place = int(np.argmax(curve))
    return float(curve[place]), place + 1


OPTIMISTIC: Final = (
    "Each figure is the best over every number of neighbours, chosen on the queries that are scored, as in the paper: "
    "it is a little optimistic."
)


@dataclass(frozen=True, slots=True, eq=False)
class Best:
    """Top-1 accuracy at the number of neighbours that makes it highest."""

    top1: Percent
    interval: Interval  # 95 %, Wilson, at that number
    k: int
    with_all: Percent  # accuracy with all neighbours instead
    right: Bool[np.ndarray, " queries"]  # which queries are right at that number

    def p_of_change(self, before: "Best") -> float:
        """Return two-sided p of McNemar's exact test that the same queries do as well as before."""
        fixed, broken = int((self.right & ~before.right).sum()), int((before.right & ~self.right).sum())
        return float(mcnemar_p(np.array([fixed]), np.array([broken]))[0])


def right_by_k(results: QueryResults, method: str, *, factors: Factors | None = None) -> Bool[np.ndarray, "queries k"]:
    """Tell which queries a method answers rightly with 1, 2, …, k neighbours; see `predict_every_k`."""
    return is_right(winners(results, method, factors=factors), truth_codes(results))


def best_over_k(right: Bool[np.ndarray, "queries k"]) -> Best:
    """Return the highest accuracy; of equal ones that with the fewest neighbours.

    Raises:
        InvalidArgument: no query.
    """
    if not len(right):
        raise InvalidArgument("there is no query to be scored: give pictures that the memory's labels are right for")
    k = int(right.mean(axis=0).argmax()) + 1
    chosen = right[:, k - 1]
    return Best(percent(chosen), interval(chosen), k, percent(right[:, -1]), chosen)


def draw_best(axes: Axes, places: Float[np.ndarray, " places"], best: Sequence[Best], **style: str) -> None:
    """Draw accuracies with their intervals, each at its place."""
    middle = np.array([one.top1 for one in best])
    reach = np.abs(np.array([one.interval for one in best]).T - middle)
    axes.errorbar(places, middle, yerr=reach, capsize=3, ls="none", **style)


SHOWN_FOR_OTHERS: Final = "dinov2-vitl14"  # the paper's main model, beside embedders that it did not measure
TABLE_KS: Final = tuple(range(10, 101, 10))

# Tables 4 to 8 (appendix A): top-1 in percent on ImageNet's validation set, at each k of TABLE_KS.
AGGREGATION: Final[dict[str, dict[str, tuple[Percent, ...]]]] = {
    "dinov2-vitl14": {
        "rank": (83.5, 83.6, 83.6, 83.5, 83.5, 83.4, 83.3, 83.3, 83.3, 83.3),
        "plurality": (83.2, 82.9, 82.6, 82.4, 82.1, 82.0, 81.8, 81.6, 81.5, 81.4),
        "distance": (83.3, 83.0, 82.7, 82.4, 82.2, 82.1, 81.9, 81.7, 81.6, 81.5),
        "softmax": (83.5, 83.5, 83.4, 83.3, 83.2, 83.1, 83.1, 83.0, 82.9, 82.9),
    },
    "dinov2-vitb14": {
        "rank": (82.1, 82.2, 82.1, 82.0, 82.0, 82.0, 81.9, 81.9, 81.9, 81.9),
        "plurality": (81.8, 81.4, 81.1, 80.9, 80.7, 80.4, 80.2, 80.0, 79.8, 79.6),
        "distance": (81.9, 81.5, 81.2, 81.0, 80.8, 80.5, 80.3, 80.0, 79.9, 79.7),
        "softmax": (82.0, 82.0, 81.9, 81.8, 81.7, 81.7, 81.6, 81.5, 81.3, 81.3),
    },
    "dinov2-vits14": {
        "rank": (78.9, 79.1, 79.0, 78.9, 78.9, 78.9, 78.9, 78.8, 78.8, 78.8),
        "plurality": (78.6, 78.2, 77.8, 77.4, 77.1, 76.8, 76.5, 76.3, 76.1, 75.9),
        "distance": (78.8, 78.4, 77.9, 77.5, 77.2, 76.9, 76.6, 76.4, 76.2, 76.0),
        "softmax": (78.9, 78.9, 78.7, 78.6, 78.5, 78.3, 78.1, 78.0, 77.9, 77.7),
    },
    "clip-vitl14": {
        "rank": (79.3, 79.6, 79.7, 79.7, 79.7, 79.7, 79.7, 79.7, 79.7, 79.7),
        "plurality": (79.0, 78.7, 78.3, 78.0, 77.8, 77.6, 77.4, 77.4, 77.2, 77.0),
        "distance": (79.2, 78.9, 78.5, 78.2, 78.0, 77.8, 77.6, 77.5, 77.3, 77.1),
        "softmax": (79.3, 79.3, 79.1, 78.9, 78.8, 78.7, 78.5, 78.5, 78.4, 78.2),
    },
    "clip-vitb16": {
        "rank": (73.0, 73.7, 73.8, 73.8, 73.8, 73.8, 73.7, 73.7, 73.7, 73.7),
        "plurality": (72.8, 72.6, 72.3, 72.0, 71.7, 71.4, 71.2, 70.9, 70.8, 70.5),
        "distance": (73.1, 72.9, 72.6, 72.3, 71.9, 71.6, 71.4, 71.1, 70.9, 70.6),
        "softmax": (73.3, 73.3, 73.1, 72.9, 72.7, 72.5, 72.3, 72.1, 71.9, 71.7),
    },
}
_TABLES: Final = dict(zip(AGGREGATION, range(4, 9), strict=True))
NEAREST: Final = {"dinov2-vitl14": 81.1, "clip-vitl14": 76.0}  # Table 9, "no aggregation": top-1 of the nearest alone
HIT_RATE: Final = 98.0  # appendix E: "approaches 98% for the best model" with 100 neighbours
UNCHANGED_UP_TO: Final = 60.0  # appendix D: percent of labels corrupted at which accuracy is "almost unchanged"


def same_model(embedder: str) -> str:
    """Return the paper's model that an embedder is, or its main one."""
    plain = "".join(c for c in embedder.lower() if c.isalnum())
    return next((name for name in AGGREGATION if name.replace("-", "") == plain), SHOWN_FOR_OTHERS)


def where(model: str) -> str:
    """Return what to call a model's published figures: "DINOv2 ViT-L14, ImageNet (paper, Table 4)"."""
    family, size = model.split("-vit")
    shown = {"dinov2": "DINOv2", "clip": "CLIP"}[family]
    return f"{shown} ViT-{size.upper()}, ImageNet (paper, Table {_TABLES[model]})"
