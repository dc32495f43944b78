"""Accuracy of the single neighbour at each rank, with its logarithmic fit (Geirhos et al., Figures 1 and 13)."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from eval.drawing import BLUE, INK, drawing, readable
from eval.experiments.base import Analysis, Neighborhoods
from eval.experiments.published import NEAREST, same_model
from eval.experiments.votes import right_neighbors
from eval.types import Percent
from eval.wording import counted
from retrieval.errors import InvalidArgument

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class LogFit:
    """Accuracy = nearest + slope · ln(rank), rank 1 for the nearest."""

    nearest: Percent
    slope: float  # points each time the rank grows e-fold
    determination: float  # R², the part of the variance that the fit explains

    def at(self, ranks: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
        """Return the fitted accuracy at ranks from 1; NaN where it would be no percentage, below 0 or above 100."""
        fitted: np.ndarray = self.nearest + self.slope * np.log(ranks)
        return np.where((fitted >= 0) & (fitted <= 100), fitted, np.nan)


def reliability(found: Neighborhoods) -> Analysis:
    """Return how often the neighbour at each rank has a right label, for itself (section 2.2, appendix H).

    Raises:
        InvalidArgument: fewer than three neighbours, which two parameters fit whatever they are.
    """
    top1 = 100.0 * right_neighbors(found).mean(axis=0)
    if len(top1) < 3:
        raise InvalidArgument("the fit of reliability by rank needs three neighbours a query: give --k 3 or more")
    ranks = np.arange(1.0, len(top1) + 1)
    fit = fit_logarithm(ranks, top1)
    chance = 100.0 / max(1, len(found.results.neighbor_labels.names))
    return Analysis(
        name="reliability",
        title="Accuracy of the single neighbour by rank",
        source="Figures 1 and 13; appendix H",
        columns=("rank", "accuracy (%)", "fit (%)"),
        rows=[
            (rank, accuracy, None if math.isnan(fitted) else fitted)
            for rank, (accuracy, fitted) in enumerate(zip(top1.tolist(), fit.at(ranks).tolist(), strict=True), start=1)
        ],
        finding=f"The nearest neighbour has a right label for {top1[0]:.1f} % of the queries and the one at rank"
        f" {len(top1)} for {top1[-1]:.1f} % (a random label: {chance:.1f} %); accuracy follows"
        f" {fit.nearest:.1f} - {-fit.slope:.2f} · ln(rank) with R² = {fit.determination:.3f}."
        if fit.slope <= 0
        else f"Accuracy does not fall with rank: {top1[0]:.1f} % for the nearest, {top1[-1]:.1f} % for the last.",
        draw=lambda: _draw(found, top1, fit),
        notes=[
            "The paper numbers ranks from 0; the fit is in ln(rank) with rank 1 for the nearest, by least squares.",
            *_beyond(fit.at(ranks)),
            "The paper states no numbers for these curves but the nearest neighbour's accuracy (Table 9).",
        ],
    )


def _beyond(fitted: Float[np.ndarray, " k"]) -> list[str]:
    """Say at how many ranks the fit would be no percentage."""
    ranks = int(np.isnan(fitted).sum())
    return [f"The fit says nothing at {counted(ranks, 'rank')}, where it would leave 0 to 100 %."] if ranks else []


def fit_logarithm(ranks: Float[np.ndarray, " k"], top1: Float[np.ndarray, " k"]) -> LogFit:
    """Return the two-parameter logarithmic fit by least squares (Figure 1)."""
    slope, nearest = np.polyfit(np.log(ranks), top1, 1)
    left = top1 - (nearest + slope * np.log(ranks))
    spread = float(((top1 - top1.mean()) ** 2).sum())
    return LogFit(float(nearest), float(slope), 1.0 - float((left**2).sum()) / spread if spread else 1.0)


def _draw(found: Neighborhoods, top1: Float[np.ndarray, " k"], fit: LogFit) -> "Figure":
    ranks = np.arange(1.0, len(top1) + 1)
    with drawing((6.4, 4.2), f"{readable(found.name)}, {readable(found.embedder)}") as (figure, axes):
        axes.plot(ranks, top1, "o", color=BLUE, markersize=3, label="neighbour at this rank")
        equation = f"fit: {fit.nearest:.1f} {fit.slope:+.2f} ln(rank), R² = {fit.determination:.3f}"
        axes.plot(ranks, fit.at(ranks), color=INK, lw=1.2, label=equation)
        model = same_model(found.embedder)
        if model in NEAREST:
            axes.plot(1, NEAREST[model], "*", color=INK, markersize=9, label=f"{model}, ImageNet (paper, Table 9)")
        axes.set(
            xlabel="rank of the neighbour (1 = nearest)",
            ylabel="top-1 accuracy (%)",
            ylim=(0, 102 if max(top1.max(), np.nanmax(fit.at(ranks), initial=0.0)) > 90 else None),
        )
        axes.legend(fontsize=8)
    return figure
