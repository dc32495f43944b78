"""Distances of known against unknown queries, and how well they tell the two apart (Geirhos et al., Figure 12)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import Float

from eval.drawing import BLUE, ORANGE, drawing, readable
from eval.experiments.base import Analysis, Neighborhoods
from eval.types import Percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
    near, far = (some.results.neighbor_distances.astype(np.float64) for some in (known, unknown))
    k = min(near.shape[1], far.shape[1])
    near, far = near[:, :k], far[:, :k]
    detectors = [
        detect("nearest", near[:, 0], far[:, 0]),
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
        finding=_finding(known, unknown, detectors[0]),
        draw=lambda: _draw(known, unknown, detectors),
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


def _finding(known: Neighborhoods, unknown: Neighborhoods, nearest: Detector) -> str:
    near, far = np.median(nearest.known), np.median(nearest.unknown)
    return (
        f"The nearest neighbour of a query of {known.name} lies at a median distance of {near:.3f}, of one of"
        f" {unknown.name} at {far:.3f}; the distance tells unknown from known queries with an AUROC of"
        f" {nearest.auroc:.1f} %, and where 95 % of the known ones are accepted, {nearest.fpr:.1f} % of the unknown"
        " ones pass too."
    )


def _draw(known: Neighborhoods, unknown: Neighborhoods, detectors: Sequence[Detector]) -> "Figure":
    with drawing((6.4, 4.2), readable(known.embedder)) as (figure, axes):
        places = np.arange(len(detectors))
        sides = ((known, "known", BLUE, -0.18), (unknown, "unknown", ORANGE, 0.18))
        for queries, kind, colour, side in sides:
            drawn = axes.boxplot(
                [getattr(detector, kind) for detector in detectors], positions=places + side, widths=0.3,
                showfliers=False, patch_artist=True, medianprops={"color": "black"},
                boxprops={"facecolor": colour, "alpha": 0.7}, manage_ticks=False,
            )  # fmt: skip
            drawn["boxes"][0].set_label(f"{kind}: {readable(queries.name)}")
        told = [f"{d.name}\nAUROC {d.auroc:.1f} %\nFPR@95 {d.fpr:.1f} %" for d in detectors]
        axes.set_xticks(places, told)
        axes.set_ylabel("cosine distance to the neighbours, 1 - cos (no unit)")
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        axes.grid(False, axis="x")
        figure.legend(fontsize=8, loc="outside lower center", ncols=2)
    return figure
