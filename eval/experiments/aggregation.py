"""Top-1 accuracy by voting method, number of neighbours and hyperparameters (Geirhos et al., Figures 2 and 7 to 9)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float

from eval.experiments.base import (
    AGGREGATION,
    BY_METHOD,
    NEAREST,
    TABLE_KS,
    Analysis,
    Axes,
    Weighing,
    accuracy_every_k,
    best,
    caption,
    plotted,
    same_model,
    where,
)
from eval.metrics.intervals import wilson_interval
from eval.report.plots import INK, STROKES
from eval.types import Neighborhoods, Percent
from retrieval.errors import InvalidArgument
from retrieval.voting import METHODS, RANK_OFFSET, SOFTMAX_TEMPERATURE


def aggregation(found: Neighborhoods) -> Analysis:
    """Return the accuracy of the four voting methods of section 2.2 when 1, 2, …, k neighbours vote."""
    top1 = accuracy_every_k(found, list(BY_METHOD.values()))
    model = same_model(found.embedder)
    published = AGGREGATION[model]
    rows = []
    for k, column in enumerate(top1.T.tolist(), start=1):
        stated = [published[name][TABLE_KS.index(k)] if k in TABLE_KS else None for name in METHODS]
        rows.append((k, *column, *stated))
    return Analysis(
        name="aggregation",
        title="Top-1 accuracy by voting method and number of neighbours",
        source="Figures 2, 7 and 8; Tables 4 to 9",
        columns=("k", *(f"{name} (%)" for name in METHODS), *(f"{name}, paper (%)" for name in METHODS)),
        rows=rows,
        finding=_finding(top1, len(found.results)),
        draw=lambda: _draw(caption(found.name, found.embedder), top1, model),
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
    changes = ", ".join(f"{name} {bests[name][0] - curve[-1]:.1f}" for name, curve in zip(METHODS, top1, strict=True))
    return (
        f"The nearest neighbour alone is right for {top1[METHODS.index('rank'), 0]:.1f} %, and {winner} voting is best"
        f" with {highest:.1f} % at k = {at} (95 % interval {low:.1f} to {high:.1f});"
        f" from its own best k to k = {top1.shape[1]} each method loses, in points: {changes}."
    )


@plotted((6.4, 5.6), rows=(3, 2), legend=4)
def _draw(axes: Axes, top1: Float[np.ndarray, "methods k"], model: str) -> None:
    # The paper's curves may lie far above or below ours, and what matters of both is how they bend.
    ours, stated = axes
    for name, curve in zip(METHODS, top1, strict=True):
        colour, stroke = STROKES[name]
        ours.plot(np.arange(1, len(curve) + 1), curve, color=colour, ls=stroke, lw=1.8, label=name)
        stated.plot(TABLE_KS, AGGREGATION[model][name], "o", color=colour, ls=stroke, lw=1.2, markersize=3)
    if model in NEAREST:
        stated.plot(1, NEAREST[model], "o", color=INK, markersize=4)
        stated.annotate("nearest alone (Table 9)", (1, NEAREST[model]), xytext=(6, -3), textcoords="offset points")
    ours.set(ylabel="top-1 accuracy (%)")
    stated.set(xlabel="number of neighbours that vote, k", ylabel="top-1 accuracy (%)", title=where(model))


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
    values: Sequence[float]
    bests: list[tuple[Percent, int]]  # of each value: top-1 at the best k, and that k

    def finding(self) -> str:
        top, at = max(((top1, value) for value, top1 in self.curve()), key=lambda pair: pair[0])
        stable = [value for value, top1 in self.curve() if top1 >= top - _STABLE]
        return (
            f"{self.method} voting is best at {self.symbol} = {at:g} ({top:.1f} %) and within {_STABLE:g} points"
            f" of that from {min(stable):g} to {max(stable):g}"
        )

    def curve(self) -> list[tuple[float, Percent]]:
        return [(value, top1) for value, (top1, _) in zip(self.values, self.bests, strict=True)]


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
    weighings = [*map(_by_rank, alphas), *map(_by_distance, xis), *(_by_distance(1.0 / tau) for tau in taus)]
    bests = iter([best(curve) for curve in accuracy_every_k(found, weighings)])
    swept = (
        ("rank", "α", RANK_OFFSET, alphas),
        ("distance", "ξ", 1.0, xis),
        ("softmax", "τ", SOFTMAX_TEMPERATURE, taus),
    )
    sweeps = [_Sweep(*about, [next(bests) for _ in about[-1]]) for about in swept]
    findings = "; ".join(sweep.finding() for sweep in sweeps if sweep.values)
    return Analysis(
        name="hyperparameters",
        title="Best accuracy over every k, by hyperparameter",
        source="Figure 9; appendix C",
        columns=("method", "hyperparameter", "value", "best top-1 (%)", "at k"),
        rows=[(s.method, s.symbol, value, *at) for s in sweeps for value, at in zip(s.values, s.bests, strict=True)],
        finding=f"{findings[:1].upper()}{findings[1:]}.",
        draw=lambda: _draw_sweeps(f"{caption(found.name, found.embedder)}; rings: the paper's values", sweeps),
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


@plotted((6.4, 4.2), legend=3)
def _draw_sweeps(axes: Axes, sweeps: Sequence[_Sweep]) -> None:
    for sweep, marker in zip(sweeps, "os^", strict=True):
        colour, stroke = STROKES[sweep.method]
        top1 = dict(sweep.curve())
        name = f"{sweep.method} voting, {sweep.symbol} (paper: {sweep.usual:g})"
        axes.plot(list(top1), list(top1.values()), marker, ls=stroke, color=colour, markersize=4, label=name)
        if sweep.usual in top1:
            axes.plot(sweep.usual, top1[sweep.usual], marker, markersize=10, color=INK, fillstyle="none")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(xlabel="α, ξ or τ (no unit)", ylabel="top-1 accuracy at the best k (%)")
