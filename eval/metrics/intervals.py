"""How sure an accuracy is, and a difference of two on the same queries: 95 % intervals and exact tests."""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Int

from eval.types import Calibration, Interval, Percent
from retrieval.errors import InvalidArgument
from retrieval.support.terminal import points

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


BINS: Final = 15  # as in Guo et al., "On calibration of modern neural networks" (2017)


def calibrate(confidence: Float[np.ndarray, " queries"], right: Bool[np.ndarray, " queries"]) -> Calibration:
    """Return the calibration of confidences from 0 to 1, over bins that hold their upper edge."""
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    counts, correct = (np.bincount(bins, weights, BINS) for weights in (None, right))
    # Summed exactly, so that the order of the queries does not show in the last digit.
    claimed = np.array([math.fsum(confidence[bins == number]) for number in range(BINS)])
    gaps = np.abs(claimed - correct)  # of the sums: bins weigh as many queries as they hold
    return Calibration(
        ece=100.0 * math.fsum(gaps) / len(right),
        counts=counts.tolist(),
        confidence=_means(claimed, counts),
        accuracy=_means(correct, counts),
    )


def _means(sums: np.ndarray, counts: np.ndarray) -> list[float | None]:
    return [100.0 * float(total / count) if count else None for total, count in zip(sums, counts, strict=True)]


POWER: Final = 80.0  # percent; the customary one
_DIFFERENCES: Final = (0.01, 100.0)  # points; sums of exact probabilities end in time within these bounds
_POWERS: Final = (50.0, 99.9)  # percent
_ALPHAS: Final = (1e-6, 0.5)
_MANY: Final = 10_000_000
_NEGLIGIBLE: Final = 1e-12  # mass of the number of discordant queries that is left out at either end
_TOOTH: Final = 12  # discordant queries after which, at the latest, the power rises again from a fall


def mcnemar_power(queries: int, *, difference: Percent, discordant: Percent, alpha: float = ALPHA) -> Percent:
    """Return how often the exact two-sided McNemar test finds a difference that is there, in percent.

    How many queries turn out discordant is left to chance too: the power given each number of them is summed.

    Args:
        queries: answered by both sides.
        difference: between the two accuracies, in points: 0.01 to 100.
        discordant: queries on which the two differ in being right, in percent.
        alpha: the p at or below which the test says that there is a difference: 1e-6 to 0.5.

    Raises:
        InvalidArgument: a value out of range, such as a difference above the discordant share.
    """
    _check(queries, difference, discordant, alpha)
    numbers = _likely_numbers(queries, discordant / 100)
    given = _power_given(numbers, difference / discordant, alpha)
    return float(_mean(given, numbers, np.array([queries]), discordant / 100)[0])


def needed_queries(*, difference: Percent, discordant: Percent, power: Percent = POWER, alpha: float = ALPHA) -> int:
    """Return a number of queries from which on the exact two-sided McNemar test finds a difference often enough.

    The exact power does not grow steadily: with one more discordant query the test may have no more wrong answers to
    spare. So a number counts as enough only where the power also holds for those that follow it. The search starts from
    Connor's approximation (1987) and halves the gap by the exact power; above ten million queries the approximation,
    which is then right to a thousandth, is returned itself.

    Args:
        difference: between the two accuracies, in points: 0.01 to 100.
        discordant: queries on which the two differ in being right, in percent.
        power: how often the test is to find the difference, in percent: 50 to 99.9.
        alpha: the p at or below which the test says that there is a difference: 1e-6 to 0.5.

    Raises:
        InvalidArgument: a value out of range, such as a difference above the discordant share.
    """
    _check(1, difference, discordant, alpha)
    _expect_within(power, _POWERS, f"a power of {power:.15g} %", "%")
    difference, discordant = difference / 100, discordant / 100
    approximate = _connor(difference, discordant, power / 100, alpha)
    if approximate > _MANY:
        return approximate
    further = np.ceil(np.arange(_TOOTH) / discordant).astype(np.int64)  # each adds one discordant query to be expected

    def suffices(queries: int) -> bool:
        every = queries + further
        numbers = np.arange(
            _likely_numbers(queries, discordant)[0], _likely_numbers(int(every[-1]), discordant)[-1] + 1
        )
        given = _power_given(numbers, difference / discordant, alpha)
        return bool((_mean(given, numbers, every, discordant) >= power).all())

    too_few, enough = 0, approximate
    while not suffices(enough):
        too_few, enough = enough, 2 * enough
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        too_few, enough = (too_few, middle) if suffices(middle) else (middle, enough)
    return enough


def _connor(difference: float, discordant: float, power: float, alpha: float) -> int:
    """Return Connor's approximate number of queries (1987), from which the search starts."""
    from scipy.stats import norm

    spread = float(norm.isf(alpha / 2)) * math.sqrt(discordant)
    spread += float(norm.ppf(power)) * math.sqrt(max(0.0, discordant - difference**2))
    return max(1, math.ceil((spread / difference) ** 2))


def _likely_numbers(queries: int, discordant: float) -> Int[np.ndarray, " numbers"]:
    """Return the numbers of discordant queries that are not negligible."""
    from scipy.stats import binom

    low, high = binom.ppf([_NEGLIGIBLE, 1 - _NEGLIGIBLE], queries, discordant)
    return np.arange(int(low), int(high) + 1)


def _power_given(numbers: Int[np.ndarray, " numbers"], lean: float, alpha: float) -> Float[np.ndarray, " numbers"]:
    """Return the test's power for each number of discordant queries; ``lean`` is the difference as a share of them."""
    from scipy.stats import binom

    # The most that the rarer side may have for the test to speak; -1 where no outcome is rare enough.
    spared = binom.ppf(alpha / 2, numbers, 0.5)
    spared -= 2 * binom.cdf(spared, numbers, 0.5) > alpha
    likelier = (1 + lean) / 2
    power = binom.cdf(spared, numbers, likelier) + binom.sf(numbers - spared - 1, numbers, likelier)
    return np.where(spared < 0, 0.0, power)


def _mean(
    given: Float[np.ndarray, " numbers"],
    numbers: Int[np.ndarray, " numbers"],
    queries: Int[np.ndarray, " sizes"],
    discordant: float,
) -> Float[np.ndarray, " sizes"]:
    """Return the power in percent for each number of queries, over how many of them may turn out discordant."""
    from scipy.stats import binom

    means: Float[np.ndarray, " sizes"] = 100.0 * np.asarray(binom.pmf(numbers, queries[:, None], discordant)) @ given
    return means


def _check(queries: int, difference: Percent, discordant: Percent, alpha: float) -> None:
    if queries < 1:
        raise InvalidArgument(f"{queries} queries: 1 or more expected")
    _expect_within(discordant, _DIFFERENCES, f"{discordant:g} % discordant queries", "%")
    _expect_within(difference, _DIFFERENCES, f"a difference of {points(difference)}", "points")
    if difference > discordant:
        raise InvalidArgument(
            f"a difference of {points(difference)} where the answers differ on {discordant:g} % of the queries: "
            "at most that share expected"
        )
    _expect_within(alpha, _ALPHAS, f"an alpha of {alpha:g}")


def _expect_within(value: float, bounds: tuple[float, float], what: str, unit: str = "") -> None:
    low, high = bounds
    if not low <= value <= high:  # nor is what is no number
        raise InvalidArgument(f"{what}: {low:g} to {high:g} {unit}".rstrip() + " expected")
