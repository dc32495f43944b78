"""How sure an accuracy is, and a difference of two on the same queries: 95 % intervals and exact tests."""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float, Int

from eval.types import Interval

SEED: Final = 0  # of all resampling, so that figures are the same whenever they are computed
RESAMPLES: Final = 10_000
ALPHA: Final = 0.05  # of a test, or of a whole family of them
_MOST_RESAMPLES: Final = 1_000_000  # a second
_Z95: Final = 1.959963984540054  # two-sided 95 % quantile of the normal distribution


def wilson_interval(successes: int, trials: int) -> Interval:
    """Return the 95 % Wilson score interval of a proportion, in percent (Wilson, 1927)."""
    share = successes / trials
    spread = _Z95**2 / trials
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread**2 / 4) / (1 + spread)
    return 100.0 * max(0.0, centre - half), 100.0 * min(1.0, centre + half)


def bootstrap_interval(successes: int, trials: int) -> Interval:
    """Return the 95 % percentile bootstrap interval of a proportion, in percent (Efron, 1979).

    Resampling queries that are right or wrong draws a binomial number of right ones, so nothing else need be drawn.
    """
    drawn = np.random.default_rng(SEED).binomial(trials, successes / trials, RESAMPLES)
    low, high = np.quantile(drawn / trials, (0.025, 0.975))
    return 100.0 * float(low), 100.0 * float(high)


@dataclass(frozen=True, slots=True)
class Adjusted:
    """One test of a family."""

    p: float
    adjusted: float  # p by Holm's method
    alpha: float  # at which Holm's method tests it: 0.05 divided by the number of tests whose p is not smaller

    @property
    def is_told(self) -> bool:
        """Whether the difference is told from none, at 0.05 for the whole family."""
        return self.adjusted < ALPHA


def paired_interval(counts: Int[np.ndarray, "strata values"], *, queries: int, test: Adjusted) -> Interval:
    """Return the interval of a difference on the same queries, in points, that goes with its test.

    An interval holds the differences that a test does not reject (Lehmann and Romano, Testing Statistical Hypotheses,
    2005, section 3.5). So both go by one level, that of the test's step in Holm's method, as Serlin proposes
    ("Confidence intervals and the scientific method: a case for Holm on the range", 1993), and at no difference the
    exact test decides: the interval leaves out 0 where and only where the adjusted p is below 0.05. Its ends elsewhere
    are percentiles of the bootstrap (Efron, 1979). For a single comparison it is the usual 95 % interval; beside
    several it is wider, as its p is larger.

    Drawing units anew within each stratum draws a multinomial number of each value, so no unit need be drawn itself.

    Args:
        counts: how many units (queries, or queries that belong together) changed by -m, …, 0, …, m right answers.
        queries: what the difference is a share of.
        test: of no difference.
    """
    random = np.random.default_rng(SEED)
    values = np.arange(counts.shape[1]) - counts.shape[1] // 2
    resamples = min(round(RESAMPLES * ALPHA / test.alpha), _MOST_RESAMPLES)  # as many beyond each end at any level
    net = np.zeros(resamples, np.int64)
    for stratum in counts:
        units = int(stratum.sum())
        net += random.multinomial(units, stratum / max(units, 1), resamples) @ values
    low, high = (float(end) for end in np.quantile(net, (test.alpha / 2, 1 - test.alpha / 2)))
    if not test.is_told:
        low, high = min(low, 0.0), max(high, 0.0)
    elif counts.sum(axis=0) @ values > 0:
        low = max(low, 1.0)  # a query: the least difference that there is
    else:
        high = min(high, -1.0)
    return 100.0 * low / queries, 100.0 * high / queries


def mcnemar_p(fixed: Int[np.ndarray, "*many"], broken: Int[np.ndarray, "*many"]) -> Float[np.ndarray, "*many"]:
    """Return two-sided p of McNemar's test (1947) in its exact form: a sign test on the queries that changed."""
    from scipy.stats import binom

    return np.minimum(1.0, 2.0 * np.asarray(binom.cdf(np.minimum(fixed, broken), fixed + broken, 0.5)))


def sign_flip_p(counts: Int[np.ndarray, " values"]) -> float:
    """Return two-sided p of the exact test that flips the sign of each unit's change, as `paired_interval` counts them.

    Where no unit changes by more than one answer it is McNemar's test. Below 1e-20 it may be returned as 0.
    """
    most = len(counts) // 2
    changed = {size: int(counts[most - size] + counts[most + size]) for size in range(1, most + 1)}
    if sum(changed.values()) == changed.get(1, 0):
        return float(mcnemar_p(counts[most + 1 :].sum(keepdims=True), counts[:most].sum(keepdims=True))[0])
    net = abs(int(counts @ (np.arange(len(counts)) - most)))
    sums, weights = _signed_sums(changed)
    return min(1.0, float(weights[np.abs(sums) >= net].sum()))


def _signed_sums(changed: dict[int, int]) -> tuple[Int[np.ndarray, " sums"], Float[np.ndarray, " sums"]]:
    """Return what sums units of given sizes can have under random signs, and how likely each sum is."""
    from scipy.stats import binom

    lowest, weights = 0, np.ones(1)  # sums run from the lowest in steps of 2
    for size, units in changed.items():
        reach = math.ceil(5 * math.sqrt(units)) + 1  # ten standard deviations
        positive = np.arange(max(0, units // 2 - reach), min(units, units // 2 + reach) + 1)
        spread = np.zeros(size * (len(positive) - 1) + 1)
        spread[::size] = binom.pmf(positive, units, 0.5)
        weights = np.convolve(weights, spread)
        lowest += size * (2 * int(positive[0]) - units)
    return lowest + 2 * np.arange(len(weights)), weights


def holm(p: list[float]) -> list[Adjusted]:
    """Return tests adjusted for that many, by Holm's method (1979)."""
    order = np.argsort(p, kind="stable")
    factors = np.empty(len(p))
    factors[order] = len(p) - np.arange(len(p))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate((np.asarray(p) * factors)[order]))
    return [Adjusted(*map(float, test)) for test in zip(p, adjusted, ALPHA / factors, strict=True)]
