"""Top-1 accuracy by voting method and number of neighbours (Geirhos et al., Figures 2, 7 and 8; Tables 4 to 9)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import Float

from eval.experiments.base import (
    AGGREGATION,
    BY_METHOD,
    NEAREST,
    TABLE_KS,
    Analysis,
    Neighborhoods,
    Weighing,
    accuracy_every_k,
    best,
    right_neighbors,
    same_model,
    where,
)
from eval.metrics.intervals import wilson_interval
from eval.report.plots import INK, STROKES, drawing, readable
from eval.types import Percent
from retrieval.errors import InvalidArgument
from retrieval.voting import METHODS, RANK_OFFSET, SOFTMAX_TEMPERATURE

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_RANK: Final = METHODS.index("rank")


def aggregation(found: Neighborhoods) -> Analysis:
    """Return the accuracy of the four voting methods of section 2.2 when 1, 2, …, k neighbours vote."""
    results = found.results
    top1 = accuracy_every_k(
        results.neighbor_labels.codes,
        results.neighbor_distances,
        right_neighbors(found),
        list(BY_METHOD.values()),
        factors=results.reliabilities,
    )
    model = same_model(found.embedder)
    published = AGGREGATION[model]
    rows = []
    for k, column in enumerate(top1.T.tolist(), start=1):
        stated = [published[name][TABLE_KS.index(k)] if k in TABLE_KS else None for name in METHODS]
        rows.append((k, *column, *stated))
    columns = ("k", *(f"{name} (%)" for name in METHODS), *(f"{name}, paper (%)" for name in METHODS))
    return Analysis(
        name="aggregation",
        title="Top-1 accuracy by voting method and number of neighbours",
        source="Figures 2, 7 and 8; Tables 4 to 9",
        columns=columns,
        rows=rows,
        finding=_finding(top1, len(results)),
        draw=lambda: _draw(found, top1, model),
        notes=[
            f"The paper's figures are of {where(model)}: other pictures and another memory.",
            "The best k is chosen on the queries that are scored, as in the paper's Table 9, and is optimistic.",
        ],
    )


def _finding(top1: Float[np.ndarray, "methods k"], queries: int) -> str:
    bests = {name: best(curve) for name, curve in zip(METHODS, top1, strict=True)}
    winner = max(bests, key=lambda name: bests[name][0])
    highest, at = bests[winner]
    low, high = wilson_interval(round(highest / 100 * queries), queries)
    lost = {name: bests[name][0] - float(curve[-1]) for name, curve in zip(METHODS, top1, strict=True)}
    changes = ", ".join(f"{name} {lost[name]:.1f}" for name in METHODS)
    return (
        f"The nearest neighbour alone is right for {top1[_RANK, 0]:.1f} %, and {winner} voting is best with"
        f" {highest:.1f} % at k = {at} (95 % interval {low:.1f} to {high:.1f});"
        f" from its own best k to k = {top1.shape[1]} each method loses, in points: {changes}."
    )


def _draw(found: Neighborhoods, top1: Float[np.ndarray, "methods k"], model: str) -> "Figure":
    ks = np.arange(1, top1.shape[1] + 1)
    # The paper's curves may lie far above or below ours, and what matters of both is how they bend.
    with drawing((6.4, 5.6), rows=(3, 2)) as (figure, (ours, stated)):
        for name, curve in zip(METHODS, top1, strict=True):
            colour, stroke = STROKES[name]
            ours.plot(ks, curve, color=colour, ls=stroke, lw=1.8, label=name)
            stated.plot(TABLE_KS, AGGREGATION[model][name], "o", color=colour, ls=stroke, lw=1.2, markersize=3)
        if model in NEAREST:
            stated.plot(1, NEAREST[model], "o", color=INK, markersize=4)
            stated.annotate("nearest alone (Table 9)", (1, NEAREST[model]), xytext=(6, -3), textcoords="offset points")
        ours.set(ylabel="top-1 accuracy (%)", title=f"{readable(found.name)}, {readable(found.embedder)}")
        stated.set(xlabel="number of neighbours that vote, k", ylabel="top-1 accuracy (%)", title=where(model))
        figure.legend(fontsize=8, loc="outside lower center", ncols=4)
    return figure


# The paper sweeps "a broad range" and prints no grid: ours lie around its own values.
ALPHAS: Final = (0.1, 0.25, 0.5, 1.0, RANK_OFFSET, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0)
XIS: Final = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
TAUS: Final = (0.01, 0.02, 0.03, 0.05, SOFTMAX_TEMPERATURE, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
_FAINTEST: Final = -700.0  # exp of less is 0 in float64, and a weight has to be above 0
_STABLE: Final = 0.5  # points below the best within which a setting counts as as good


@dataclass(frozen=True, slots=True)
class _Sweep:
    method: str
    symbol: str
    usual: float  # the value of section 2.2
    values: list[float]
    top1: list[Percent]  # at the best k
    k: list[int]  # which that is

    @property
    def stable(self) -> list[float]:
        return [value for value, top1 in zip(self.values, self.top1, strict=True) if top1 >= max(self.top1) - _STABLE]


def hyperparameters(
    found: Neighborhoods,
    *,
    alphas: Sequence[float] = ALPHAS,
    xis: Sequence[float] = XIS,
    taus: Sequence[float] = TAUS,
) -> Analysis:
    """Return the accuracy of rank, distance and softmax voting by α, ξ and τ, each at its own best k.

    Args:
        found: the neighbours.
        alphas: weights are 1 / (α + rank), rank 0 for the nearest.
        xis: weights are exp(-d)^ξ.
        taus: weights are exp((1 - d) / τ), up to a factor that is the same for all neighbours of a query.

    Raises:
        InvalidArgument: a value is not above 0.
    """
    values = [*alphas, *xis, *taus]
    if not all(value > 0 for value in values):
        raise InvalidArgument(f"hyperparameters must be above 0: got {min(values)}")
    results = found.results
    weighings = [*map(_by_rank, alphas), *map(_by_distance, xis), *(_by_distance(1.0 / tau) for tau in taus)]
    top1 = accuracy_every_k(
        results.neighbor_labels.codes,
        results.neighbor_distances,
        right_neighbors(found),
        weighings,
        factors=results.reliabilities,
    )
    first, second = len(alphas), len(alphas) + len(xis)
    sweeps = [
        _sweep("rank", "α", RANK_OFFSET, alphas, top1[:first]),
        _sweep("distance", "ξ", 1.0, xis, top1[first:second]),
        _sweep("softmax", "τ", SOFTMAX_TEMPERATURE, taus, top1[second:]),
    ]
    return Analysis(
        name="hyperparameters",
        title="Best accuracy over every k, by hyperparameter",
        source="Figure 9; appendix C",
        columns=("method", "hyperparameter", "value", "best top-1 (%)", "at k"),
        rows=[(s.method, s.symbol, *row) for s in sweeps for row in zip(s.values, s.top1, s.k, strict=True)],
        finding=_finding_of_best(sweeps),
        draw=lambda: _draw_best(found, sweeps),
        notes=[
            "Softmax voting at τ is distance voting at ξ = 1 / τ: the normalisation is the same for all neighbours.",
            "The best k is chosen on the queries that are scored, as in the paper, and is optimistic.",
            "The paper states no numbers for this figure.",
        ],
    )


def _by_rank(alpha: float) -> Weighing:
    return lambda distances: np.broadcast_to(1.0 / (alpha + np.arange(distances.shape[1])), distances.shape)


def _by_distance(xi: float) -> Weighing:
    # Taken from the nearest one's distance, which changes no vote: exp(-100 d) alone would underflow.
    return lambda distances: np.exp(np.maximum(xi * (distances[:, :1] - distances.astype(np.float64)), _FAINTEST))


def _sweep(
    method: str, symbol: str, usual: float, values: Sequence[float], top1: Float[np.ndarray, "values k"]
) -> _Sweep:
    bests = [best(curve) for curve in top1]
    return _Sweep(method, symbol, usual, list(values), [top for top, _ in bests], [k for _, k in bests])


def _finding_of_best(sweeps: Sequence[_Sweep]) -> str:
    told = []
    for sweep in sweeps:
        if sweep.values:
            top = max(sweep.top1)
            at, low, high = sweep.values[sweep.top1.index(top)], min(sweep.stable), max(sweep.stable)
            told.append(
                f"{sweep.method} voting is best at {sweep.symbol} = {at:g} ({top:.1f} %) and within {_STABLE:g} points"
                f" of that from {low:g} to {high:g}"
            )
    sentence = "; ".join(told)
    return f"{sentence[:1].upper()}{sentence[1:]}."


def _draw_best(found: Neighborhoods, sweeps: Sequence[_Sweep]) -> "Figure":
    with drawing((6.4, 4.2), f"{readable(found.name)}, {readable(found.embedder)}; rings: the paper's values") as (
        figure,
        axes,
    ):
        for sweep, marker in zip(sweeps, "os^", strict=True):
            colour, stroke = STROKES[sweep.method]
            name = f"{sweep.method} voting, {sweep.symbol} (paper: {sweep.usual:g})"
            axes.plot(sweep.values, sweep.top1, marker, ls=stroke, color=colour, markersize=4, label=name)
            if sweep.usual in sweep.values:
                usual = sweep.top1[sweep.values.index(sweep.usual)]
                axes.plot(sweep.usual, usual, marker, markersize=10, color=INK, fillstyle="none")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set(xlabel="α, ξ or τ (no unit)", ylabel="top-1 accuracy at the best k (%)")
        figure.legend(fontsize=8, loc="outside lower center", ncols=3)
    return figure
