"""A run's figures as plots: matplotlib figures, written as PNG and SVG or put into a page."""

import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from eval.types import Calibration, GateCurve, Interval, Metrics, Percent, Spending
from retrieval.storage.places import writing
from retrieval.support.terminal import counted, printable
from retrieval.voting import DEFAULT_METHOD, METHODS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


BLUE, ORANGE, GREEN, PINK, INK = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#333333"
STROKES: Final = dict(zip(METHODS, [(BLUE, "-"), (ORANGE, "--"), (GREEN, "-."), (PINK, ":")], strict=True))
LONGEST_NAME: Final = 32
_DOTS_PER_INCH: Final = 150


def as_svg(figure: "Figure") -> str:
    """Return a figure as SVG: text as outlines, the same text for the same figure."""
    return _saved(figure, "svg", metadata={"Date": None}).decode()


def as_png(figure: "Figure") -> bytes:
    """Return a figure as PNG."""
    return _saved(figure, "png", dpi=_DOTS_PER_INCH)


@contextmanager
def drawing(
    inches: tuple[float, float], title: str = "", *, rows: tuple[int, ...] = ()
) -> Iterator[tuple["Figure", Any]]:
    """Give a figure with one pair of axes, or with several above each other of relative heights.

    Args:
        inches: width and height.
        title: of a single pair of axes, in characters that the font has.
        rows: heights of several.
    """
    from matplotlib.figure import Figure

    with _style():
        figure = Figure(figsize=inches, layout="constrained")
        if rows:
            yield figure, figure.subplots(len(rows), 1, sharex=True, height_ratios=rows)
        else:
            axes = figure.subplots()
            axes.set_title(title)
            yield figure, axes


def _style() -> AbstractContextManager[None]:
    """Return a context in which figures are made and saved: ticks get their texts only then."""
    import matplotlib

    return matplotlib.rc_context(
        {
            "text.parse_math": False,  # a label such as $\frac is text
            "font.family": "DejaVu Sans",  # comes with matplotlib, so that plots are the same everywhere
            "font.size": 9.0,
            "axes.titlesize": 10.0,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": "#e3e6ec",
            "axes.axisbelow": True,
            "legend.frameon": False,
            "svg.fonttype": "path",
            "svg.hashsalt": "visual-memory-agent",  # names inside the file are the same whenever it is written
        }
    )


def _saved(figure: "Figure", kind: str, **options: Any) -> bytes:  # noqa: ANN401
    encoded = io.BytesIO()
    with _style():
        figure.savefig(encoded, format=kind, facecolor="white", **options)
    return encoded.getvalue()


def plain_numbers(axes: "Axes") -> None:
    """Write the numbers of logarithmic axes out: powers would need the mathematical text that is switched off."""
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda number, place: f"{number:,.0f}" if number >= 1 else f"{number:g}")
        axis.set_minor_formatter(lambda number, place: "")


def readable(name: str) -> str:
    """Return a name on one line, in characters that the font has."""
    has = _characters()
    return "".join(c if ord(c) in has else "�" for c in printable(name, longest=LONGEST_NAME))


def slugs(names: Iterable[str]) -> list[str]:
    """Return the names as names of files or folders, each another one."""
    slugs: list[str] = []
    for name in names:
        slug = re.sub(r"[^A-Za-z0-9_.-]+", "-", name)[:LONGEST_NAME].lstrip(".") or "-"
        while slug in slugs:
            slug += "-"
        slugs.append(slug)
    return slugs


@lru_cache(maxsize=1)
def _characters() -> frozenset[int]:
    from matplotlib.font_manager import findfont
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(findfont("DejaVu Sans")).get_charmap())


_LEAST_SPREAD: Final = 2.0  # points between the ends of an axis of accuracies or differences
_FEW: Final = 25  # points up to which each has a marker


@dataclass(frozen=True, slots=True)
class Plot:
    """A figure with what tells it from the others."""

    name: str  # of its files, without an ending
    title: str  # what it shows, in words
    figure: "Figure"


def draw_plots(metrics: Mapping[str, Metrics], spending: Mapping[str, Spending]) -> Iterator[Plot]:
    """Yield a run's plots, one at a time: accuracies first, then three kinds for each data set.

    Args:
        metrics: by data set.
        spending: by data set, where a model was asked.
    """
    yield Plot("accuracy", "Top-1 accuracy by data set", accuracy_by_dataset(metrics))
    for (dataset, figures), slug in zip(metrics.items(), slugs(metrics), strict=True):
        name = _marked(dataset, figures)
        yield Plot(f"top1-by-k-{slug}", f"{name}: top-1 by number of neighbours", top1_by_k(dataset, figures))
        yield Plot(f"reliability-{slug}", f"{name}: accuracy by confidence", reliability(dataset, figures))
        if figures.rerank and figures.rerank.gate.top1:
            gate = accuracy_by_cost(dataset, figures, spending.get(dataset))
            yield Plot(f"cost-{slug}", f"{name}: accuracy by what is spent", gate)


def write_plots(folder: Path, metrics: Mapping[str, Metrics], spending: Mapping[str, Spending]) -> list[Path]:
    """Write every plot as PNG and SVG into a folder, made if need be, and return the files.

    Raises:
        StorageError: the disk refuses.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    written = []
    for plot in draw_plots(metrics, spending):
        for ending, encoded in (("png", as_png(plot.figure)), ("svg", as_svg(plot.figure).encode())):
            path = folder / f"{plot.name}.{ending}"
            with writing(path):
                path.write_bytes(encoded)
            written.append(path)
    return written


def accuracy_by_dataset(metrics: Mapping[str, Metrics]) -> "Figure":
    """Draw each data set's vote, final answers and ceiling, with 95 % Wilson intervals."""
    with drawing((6.4, 1.3 + 0.55 * len(metrics))) as (figure, axes):
        places = np.arange(len(metrics))
        votes = [(m.top1[DEFAULT_METHOD], *m.interval[DEFAULT_METHOD]) for m in metrics.values()]
        reranked = [(m.rerank.top1, *m.rerank.interval) if m.rerank else (np.nan,) * 3 for m in metrics.values()]
        apart = 0.13 if any(m.rerank for m in metrics.values()) else 0.0
        _dots(axes, places - apart, votes, color=BLUE, fmt="o", label=f"vote ({DEFAULT_METHOD})")
        if apart:
            _dots(axes, places + apart, reranked, color=ORANGE, fmt="s", label="with the model")
        ceiling = [m.hit_rate for m in metrics.values()]
        axes.plot(ceiling, places, "|", color=INK, markersize=16, markeredgewidth=2, label="hit rate (ceiling)")
        axes.set_yticks(places, [_marked(name, m) for name, m in metrics.items()])
        axes.set_ylim(len(metrics) - 0.4, -0.6)  # the first on top
        centred = any(m.centred for m in metrics.values())
        axes.set_xlabel("top-1 accuracy (%), with 95 % intervals" + ("\n† centred: transductive" if centred else ""))
        handles, names = axes.get_legend_handles_labels()  # lines come first, and the ceiling is read last
        figure.legend(handles[1:] + handles[:1], names[1:] + names[:1], loc="outside upper center", ncols=3)
    return figure


def top1_by_k(dataset: str, metrics: Metrics) -> "Figure":
    """Draw the voting methods' accuracy and the hit rate for every number of neighbours; a star marks the chosen k."""
    with drawing((5.2, 3.8), _title(dataset, metrics)) as (figure, axes):
        ks = np.arange(1, len(metrics.hit_rate_by_k) + 1)
        marker = "o" if len(ks) <= _FEW else ""
        axes.plot(ks, metrics.hit_rate_by_k, color=INK, lw=1.2, ls=(0, (1, 1)), label="hit rate (ceiling)")
        for method, (colour, stroke) in STROKES.items():
            curve = metrics.top1_by_k[method]
            axes.plot(ks, curve, color=colour, ls=stroke, marker=marker, markersize=3, label=method)
        if chosen := metrics.chosen:
            label = f"chosen k = {chosen.k} (on {readable(chosen.chosen_on)})"
            axes.plot(chosen.k, chosen.top1[DEFAULT_METHOD], "*", color=INK, markersize=12, label=label)
        axes.set(xlabel="neighbours (k)", ylabel="top-1 accuracy (%)")
        axes.xaxis.get_major_locator().set_params(integer=True)
        _spread(axes, "y")
        figure.legend(fontsize=8, loc="outside lower center", ncols=3)
    return figure


def reliability(dataset: str, metrics: Metrics) -> "Figure":
    """Draw accuracy by the vote's share and by the confidence of the answers, and how many queries have which.

    That confidence is what the model states, or what became of it together with the vote or further orders.
    """
    kinds = [("vote's share", metrics.calibration, BLUE, "o-", -0.5)]
    if metrics.rerank and metrics.rerank.calibration:
        kinds.append(("confidence of the answer", metrics.rerank.calibration, ORANGE, "s--", 0.5))
    with drawing((5.2, 4.2), rows=(3, 1)) as (figure, (upper, lower)):
        upper.set_title(_title(dataset, metrics))
        upper.plot([0, 100], [0, 100], color=INK, lw=1, ls=":", label="confidence = accuracy")
        for name, calibration, colour, stroke, side in kinds:
            _draw_bins(upper, lower, calibration, name=name, colour=colour, stroke=stroke, side=side * (len(kinds) - 1))
        upper.set(ylabel="accuracy (%)", xlim=(0, 100), ylim=(-2, 102))
        figure.legend(*upper.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=2)
        lower.set(ylabel="queries (%)", xlabel="confidence (%)", xlim=(0, 100))
    return figure


def accuracy_by_cost(dataset: str, metrics: Metrics, spending: Spending | None = None) -> "Figure":
    """Draw how accuracy grows with what is spent, as a gate on the vote's margin opens.

    Costs are in dollars where they are known for every point, else in percent of the queries asked about.

    Args:
        dataset: its name.
        metrics: of a run that asked a model.
        spending: what that took.
    """
    assert metrics.rerank is not None
    gate = metrics.rerank.gate
    priced = all(cost is not None for cost in gate.cost) and any(gate.cost)
    spent = gate.cost if priced else gate.asked
    with drawing((5.2, 3.8), _title(dataset, metrics)) as (figure, axes):
        axes.plot(spent, gate.top1, color=ORANGE, marker="s" if len(gate.top1) <= _FEW else "", markersize=4)
        axes.axhline(gate.top1[0], color=BLUE, ls="--", lw=1)
        axes.annotate("vote alone", (1, gate.top1[0]), xycoords=("axes fraction", "data"), color=BLUE, ha="right",
                      xytext=(0, 3), textcoords="offset points")  # fmt: skip
        _annotate_thresholds(axes, spent, gate)
        unit = "cost of the data set (dollars, no reply cached)" if priced else "queries that the model is asked (%)"
        axes.set(xlabel=unit, ylabel="top-1 accuracy (%)")
        axes.margins(y=0.18)
        _spread(axes, "y")
        if spending and spending.calls + spending.calls_saved:
            paid = "cost not known" if spending.cost is None else f"${spending.cost:,.2f} paid"
            took = f"this run: {counted(spending.calls, 'call')}, {spending.calls_saved:,} from the cache, {paid}"
            figure.supxlabel(took, fontsize=8, color="#5d6677")
    return figure


def differences(rows: Sequence[tuple[str, Percent, Interval]]) -> "Figure":
    """Draw differences in points with their 95 % intervals, the first on top.

    Args:
        rows: name, difference and interval of each.
    """
    with drawing((6.4, 1.1 + 0.4 * len(rows))) as (figure, axes):
        places = np.arange(len(rows))
        _dots(axes, places, [(middle, *interval) for _, middle, interval in rows], color=BLUE, fmt="o")
        axes.axvline(0.0, color=INK, lw=1)
        axes.set_yticks(places, [readable(name) for name, _, _ in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        _spread(axes, "x")
        axes.set_xlabel("difference of top-1 accuracy (points), with 95 % intervals adjusted as p is")
    return figure


def _marked(dataset: str, metrics: Metrics) -> str:
    return readable(dataset) + (" †" if metrics.centred else "")


def _title(dataset: str, metrics: Metrics) -> str:
    return _marked(dataset, metrics) + (" centred: transductive" if metrics.centred else "")


def _spread(axes: "Axes", side: Literal["x", "y"]) -> None:
    """See that figures that are all but equal look so on their axis too."""
    low, high = axes.get_xlim() if side == "x" else axes.get_ylim()
    if high - low < _LEAST_SPREAD:
        middle = (low + high) / 2
        axes.set(**{f"{side}lim": (middle - _LEAST_SPREAD / 2, middle + _LEAST_SPREAD / 2)})


def _dots(axes: "Axes", places: np.ndarray, points: Sequence[tuple[float, ...]], **style: Any) -> None:  # noqa: ANN401
    middle, low, high = np.array(points, float).T
    reach = np.maximum([middle - low, high - middle], 0.0)
    axes.errorbar(middle, places, xerr=reach, markersize=6, elinewidth=1.5, capsize=3, linestyle="none", **style)


def _draw_bins(
    upper: "Axes", lower: "Axes", bins: Calibration, *, name: str, colour: str, stroke: str, side: float
) -> None:
    filled = [(c, a) for c, a in zip(bins.confidence, bins.accuracy, strict=True) if c is not None and a is not None]
    confidence, accuracy = np.array(filled).reshape(-1, 2).T
    upper.plot(confidence, accuracy, stroke, color=colour, markersize=4, label=f"{name} (ECE {bins.ece:.1f})")
    edges = np.linspace(0, 100, len(bins.counts) + 1)
    width = 0.42 * (edges[1] - edges[0])
    share = 100.0 * np.array(bins.counts) / max(1, sum(bins.counts))
    lower.bar((edges[:-1] + edges[1:]) / 2 + side * width, share, width, color=colour)


def _annotate_thresholds(axes: "Axes", spent: list[Any], gate: GateCurve) -> None:
    """Mark the margin at a few points, spread evenly."""
    points = len(gate.margin)
    for point in sorted({points // 4, points // 2, 3 * points // 4} - {0, points - 1}):
        place = (spent[point], gate.top1[point])
        axes.plot(*place, "s", color=ORANGE, markersize=4)
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        axes.annotate(f"margin<{gate.margin[point]:.2f}", place, xytext=(0, -14), textcoords="offset points",
                      fontsize=7, ha="center", bbox=box)  # fmt: skip
