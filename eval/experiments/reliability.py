"""What neighbours are worth: accuracy by rank, hit rate, calibration and distances (Figures 1, 11 to 13 and 15)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float

from eval.experiments.base import (
    BY_METHOD,
    HIT_RATE,
    NEAREST,
    TABLE_KS,
    Analysis,
    Axes,
    Row,
    accuracy_every_k,
    caption,
    plotted,
    right_neighbors,
    same_model,
)
from eval.metrics.intervals import calibrate, wilson_interval
from eval.metrics.votes import is_right, truth_codes
from eval.report.plots import BLUE, INK, ORANGE, readable
from eval.types import Neighborhoods, Percent
from retrieval.errors import InvalidArgument
from retrieval.support.terminal import counted
from retrieval.voting import DEFAULT_METHOD, heaviest_labels


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
    fitted = fit.at(ranks)
    chance = 100.0 / max(1, len(found.results.neighbor_labels.names))
    outside = int(np.isnan(fitted).sum())
    beyond = (
        [f"The fit says nothing at {counted(outside, 'rank')}, where it would leave 0 to 100 %."] if outside else []
    )
    return Analysis(
        name="reliability",
        title="Accuracy of the single neighbour by rank",
        source="Figures 1 and 13; appendix H",
        columns=("rank", "accuracy (%)", "fit (%)"),
        rows=[
            (rank, accuracy, None if math.isnan(at) else at)
            for rank, (accuracy, at) in enumerate(zip(top1.tolist(), fitted.tolist(), strict=True), start=1)
        ],
        finding=f"The nearest neighbour has a right label for {top1[0]:.1f} % of the queries and the one at rank"
        f" {len(top1)} for {top1[-1]:.1f} % (a random label: {chance:.1f} %); accuracy follows"
        f" {fit.nearest:.1f} - {-fit.slope:.2f} · ln(rank) with R² = {fit.determination:.3f}."
        if fit.slope <= 0
        else f"Accuracy does not fall with rank: {top1[0]:.1f} % for the nearest, {top1[-1]:.1f} % for the last.",
        draw=lambda: _draw_ranks(caption(found.name, found.embedder), ranks, top1, fit, same_model(found.embedder)),
        notes=[
            "The paper numbers ranks from 0; the fit is in ln(rank) with rank 1 for the nearest, by least squares.",
            *beyond,
            "The paper states no numbers for these curves but the nearest neighbour's accuracy (Table 9).",
        ],
    )


def fit_logarithm(ranks: Float[np.ndarray, " k"], top1: Float[np.ndarray, " k"]) -> LogFit:
    """Return the two-parameter logarithmic fit by least squares (Figure 1)."""
    slope, nearest = np.polyfit(np.log(ranks), top1, 1)
    left = top1 - (nearest + slope * np.log(ranks))
    spread = float(((top1 - top1.mean()) ** 2).sum())
    return LogFit(float(nearest), float(slope), 1.0 - float((left**2).sum()) / spread if spread else 1.0)


@plotted((6.4, 4.2))
def _draw_ranks(
    axes: Axes, ranks: Float[np.ndarray, " k"], top1: Float[np.ndarray, " k"], fit: LogFit, model: str
) -> None:
    axes.plot(ranks, top1, "o", color=BLUE, markersize=3, label="neighbour at this rank")
    equation = f"fit: {fit.nearest:.1f} {fit.slope:+.2f} ln(rank), R² = {fit.determination:.3f}"
    axes.plot(ranks, fit.at(ranks), color=INK, lw=1.2, label=equation)
    if model in NEAREST:
        axes.plot(1, NEAREST[model], "*", color=INK, markersize=9, label=f"{model}, ImageNet (paper, Table 9)")
    axes.set(
        xlabel="rank of the neighbour (1 = nearest)",
        ylabel="top-1 accuracy (%)",
        ylim=(0, 102 if max(top1.max(), np.nanmax(fit.at(ranks), initial=0.0)) > 90 else None),
    )
    axes.legend(fontsize=8)


def hit_rate(found: Neighborhoods) -> Analysis:
    """Return the hit rate at every k: the ceiling of whatever picks among the neighbours' labels."""
    hits = 100.0 * np.logical_or.accumulate(right_neighbors(found), axis=1).mean(axis=0)
    vote = accuracy_every_k(found, [BY_METHOD[DEFAULT_METHOD]])[0]
    k = len(hits)
    return Analysis(
        name="hit_rate",
        title="Hit rate by number of neighbours",
        source="Figure 11; appendix E",
        columns=("k", "hit rate (%)", "rank voting (%)"),
        rows=list(zip(range(1, k + 1), hits.tolist(), vote.tolist(), strict=True)),
        finding=f"With {k} neighbours a right label is among theirs for {hits[-1]:.1f} % of the queries, where rank"
        f" voting picks it for {vote[-1]:.1f} %: {hits[-1] - vote[-1]:.1f} points are left for a better choice.",
        draw=lambda: _draw_hit_rates(caption(found.name, found.embedder), hits, vote),
        notes=[f"The paper states {HIT_RATE:.0f} % at k = 100 for its best model on ImageNet, and no other number."],
    )


@plotted((6.4, 4.2), legend=3)
def _draw_hit_rates(axes: Axes, hits: Float[np.ndarray, " k"], vote: Float[np.ndarray, " k"]) -> None:
    ks = np.arange(1, len(hits) + 1)
    axes.plot(ks, hits, color=BLUE, lw=1.8, label="hit rate")
    axes.plot(ks, vote, color=ORANGE, ls="--", lw=1.8, label="rank voting")
    best_model = "hit rate of the best model, ImageNet (paper, appendix E)"
    axes.plot(TABLE_KS[-1], HIT_RATE, "*", color=INK, markersize=9, label=best_model)
    axes.set(xlabel="number of neighbours, k", ylabel="queries (%)", ylim=(None, 101))


_BINS: Final = 20  # so that 100 neighbours make bins of five counts


def calibration(found: Neighborhoods) -> Analysis:
    """Return how often the label that most neighbours share is right, by how many share it."""
    results = found.results
    labels, shares = heaviest_labels(
        results.neighbor_labels.codes, results.neighbor_distances, count=1, method="plurality"
    )
    right = is_right(labels, truth_codes(results))[:, 0]
    counts = np.rint(shares[:, 0] * results.k).astype(np.int64)
    width = max(1, -(-results.k // _BINS))
    rows: list[Row] = []
    for low in range(1, results.k + 1, width):
        high = min(low + width - 1, results.k)
        within = (low <= counts) & (counts <= high)
        if total := int(within.sum()):
            hits, mean = int(right[within].sum()), float(counts[within].mean())
            rows.append((low, high, total, mean, 100.0 * hits / total, *wilson_interval(hits, total)))
    share, top1 = 100.0 * float(shares.mean()), 100.0 * float(right.mean())
    sided = "too modest" if top1 > share else "too sure"
    return Analysis(
        name="calibration",
        title="Accuracy by the count of the most frequent label",
        source="Figure 15; appendix M",
        columns=("count from", "to", "queries", "mean count", "top-1 (%)", "95 % from (%)", "to (%)"),
        rows=rows,
        finding=f"The most frequent label holds {share:.1f} % of {results.k} neighbours on average and is right for"
        f" {top1:.1f} % of the queries: counts are {'about right on average' if abs(top1 - share) < 1.0 else sided},"
        f" with an expected calibration error of {calibrate(shares[:, 0], right).ece:.1f} points.",
        draw=lambda: _draw_counts(caption(found.name, found.embedder), rows, results.k),
        notes=[
            "Of labels with the same count, the one that reached it nearest to the query counts.",
            "The paper shows the same plot of three DINOv2 models on ImageNet, without numbers in its text.",
        ],
    )


@plotted((6.4, 4.8), rows=(3, 1))
def _draw_counts(axes: Axes, rows: list[Row], k: int) -> None:
    upper, lower = axes
    table: Float[np.ndarray, "bins 7"] = np.array(rows, float)
    queries, count, top1, low, high = table[:, 2:].T
    upper.plot([0, k], [0, 100], color=INK, lw=1, ls=":", label="count = accuracy")
    upper.errorbar(
        count, top1, yerr=np.maximum([top1 - low, high - top1], 0.0), fmt="o-", color=BLUE, markersize=4, capsize=2,
        label="plurality voting, with 95 % intervals",
    )  # fmt: skip
    upper.set(ylabel="top-1 accuracy (%)", ylim=(-2, 102))
    upper.legend(fontsize=8)
    lower.bar(table[:, :2].mean(axis=1), 100.0 * queries / queries.sum(), table[:, 1] - table[:, 0] + 0.8, color=BLUE)
    lower.set(ylabel="queries (%)", xlabel=f"count of the most frequent label among {k} neighbours")


ACCEPTED: Final = 95.0  # percent of the known queries that a detector is to accept, as in "FPR@95"


@dataclass(frozen=True, slots=True)
class Detector:
    """A number that is higher for unknown queries, with how well it tells."""

    name: str
    known: Float[np.ndarray, " known"]
    unknown: Float[np.ndarray, " unknown"]
    auroc: Percent  # how often an unknown query has a higher number than a known one; a tie counts half
    threshold: float  # up to which a query counts as known, so that 95 % of the known ones do
    fpr: Percent  # of the unknown queries, those that then count as known


def distances(known: Neighborhoods, unknown: Neighborhoods) -> Analysis:
    """Return the distances of two sets of queries to the same memory (section 3.1, appendix G).

    Args:
        known: queries whose labels the memory has.
        unknown: queries whose labels it does not have.
    """
    k = min(known.results.k, unknown.results.k)
    near, far = (some.results.neighbor_distances[:, :k].astype(np.float64) for some in (known, unknown))
    detectors = [
        nearest := detect("nearest", near[:, 0], far[:, 0]),
        detect(f"mean of {k}", near.mean(axis=1), far.mean(axis=1)),
        detect(f"median of {k}", np.median(near, axis=1), np.median(far, axis=1)),
    ]
    return Analysis(
        name="distances",
        title="Distances of known and unknown queries to their neighbours",
        source="Figure 12; appendix G",
        columns=(
            "cosine distance",
            *(f"{kind}, {figure}" for kind in ("known", "unknown") for figure in ("25 %", "median", "75 %")),
            "AUROC (%)",
            "FPR@95 (%)",
            "threshold",
        ),
        rows=[(d.name, *_quartiles(d.known), *_quartiles(d.unknown), d.auroc, d.fpr, d.threshold) for d in detectors],
        finding=f"The nearest neighbour of a query of {known.name} lies at a median distance of"
        f" {np.median(nearest.known):.3f}, of one of {unknown.name} at {np.median(nearest.unknown):.3f}; the distance"
        f" tells unknown from known queries with an AUROC of {nearest.auroc:.1f} %, and where 95 % of the known ones"
        f" are accepted, {nearest.fpr:.1f} % of the unknown ones pass too.",
        draw=lambda: _draw_distances(readable(known.embedder), known.name, unknown.name, detectors),
        notes=[
            "Unknown is what is detected: AUROC is 50 % by chance. FPR@95 is the share of unknown queries that pass as"
            " known where 95 % of the known ones do.",
            "The paper shows box plots of the mean and the median, without numbers in its text.",
        ],
    )


def detect(name: str, known: Float[np.ndarray, " known"], unknown: Float[np.ndarray, " unknown"]) -> Detector:
    """Return how well a number tells unknown queries from known ones."""
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([known, unknown]))[len(known) :]
    above = float(ranks.sum()) - len(unknown) * (len(unknown) + 1) / 2
    # The smallest number that at least 95 % of the known queries do not exceed.
    threshold = float(np.quantile(known, ACCEPTED / 100, method="inverted_cdf"))
    auroc = 100.0 * above / (len(known) * len(unknown))
    return Detector(name, known, unknown, auroc, threshold, 100.0 * float((unknown <= threshold).mean()))


def _quartiles(values: Float[np.ndarray, " queries"]) -> list[float]:
    return [float(value) for value in np.quantile(values, (0.25, 0.5, 0.75))]


@plotted((6.4, 4.2), legend=2)
def _draw_distances(axes: Axes, known: str, unknown: str, detectors: Sequence[Detector]) -> None:
    places = np.arange(len(detectors))
    for name, kind, colour, side in ((known, "known", BLUE, -0.18), (unknown, "unknown", ORANGE, 0.18)):
        drawn = axes.boxplot(
            [getattr(detector, kind) for detector in detectors], positions=places + side, widths=0.3,
            showfliers=False, patch_artist=True, medianprops={"color": "black"},
            boxprops={"facecolor": colour, "alpha": 0.7}, manage_ticks=False,
        )  # fmt: skip
        drawn["boxes"][0].set_label(f"{kind}: {readable(name)}")
    axes.set_xticks(places, [f"{d.name}\nAUROC {d.auroc:.1f} %\nFPR@95 {d.fpr:.1f} %" for d in detectors])
    axes.set_ylabel("cosine distance to the neighbours, 1 - cos (no unit)")
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.grid(False, axis="x")
