"""How many queries tell a difference: the power of the exact McNemar test."""

import math
from typing import Final

import numpy as np
from jaxtyping import Float, Int

from eval.intervals import ALPHA
from eval.types import Percent
from eval.wording import points
from retrieval.errors import InvalidArgument

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
